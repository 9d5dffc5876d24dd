//! Frames with whatever sender one likes, and a listener that says what arrived.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use insula_kernel::intrusion::frame_socket;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

/// Port of all of it.
const PORT: u16 = 7_777;
const UDP: u8 = 17;

/// Prints every packet's text with its sender, for ever.
pub(crate) fn hear() -> io::Result<()> {
    let socket = UdpSocket::bind(("::", PORT))?;
    let mut text = [0; 512];
    loop {
        let (length, sender) = socket.recv_from(&mut text)?;
        println!("{} from {}", String::from_utf8_lossy(&text[..length]), sender.ip().to_canonical());
    }
}

/// Sends one frame out of `eth0`: `FROM TO TEXT`, and the sender's hardware address if it is not to be the own one.
pub(crate) fn forge(words: &[String]) -> io::Result<()> {
    let wrong = || io::Error::from(io::ErrorKind::InvalidInput);
    let [from, to, text, mac @ ..] = words else { return Err(wrong()) };
    let address = |text: &str| text.parse::<IpAddr>().map_err(|_| wrong());
    let own = std::fs::read_to_string("/sys/class/net/eth0/address")?;
    let source = parse_mac(mac.first().map_or(own.trim(), String::as_str)).ok_or_else(wrong)?;
    let index = std::fs::read_to_string("/sys/class/net/eth0/ifindex")?.trim().parse().map_err(|_| wrong())?;
    let gateway = gateway()?;
    let packet = packet(address(from)?, address(to)?, text.as_bytes()).ok_or_else(wrong)?;
    let socket = frame_socket(index)?;
    // To the gateway, and to whoever is on the wire.
    for target in [gateway, [0xff; 6]] {
        let kind: [u8; 2] = if address(from)?.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] };
        rustix::io::write(&socket, &[&target[..], &source, &kind, &packet].concat())?;
    }
    Ok(())
}

/// Sends one packet through the kernel's own routing, with a header of ours.
pub(crate) fn forge_packet(from: &str, to: &str, text: &str) -> io::Result<()> {
    let address = |text: &str| text.parse::<IpAddr>().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let (from, to) = (address(from)?, address(to)?);
    let packet = packet(from, to, text.as_bytes()).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let raw = Some(rustix::net::ipproto::RAW);
    let socket = rustix::net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, raw)?;
    rustix::net::sendto(&socket, &packet, SendFlags::empty(), &SocketAddr::new(to, 0))?;
    Ok(())
}

/// Hardware address of the only neighbour.
fn gateway() -> io::Result<[u8; 6]> {
    let table = std::fs::read_to_string("/proc/net/arp")?;
    let found = table.lines().nth(1).and_then(|line| parse_mac(line.split_ascii_whitespace().nth(3)?));
    found.ok_or_else(|| io::Error::other("no neighbour is known"))
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<_>, _>>().ok()?;
    bytes.try_into().ok()
}

fn packet(from: IpAddr, to: IpAddr, text: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(text.len() + 8).ok()?;
    let port = PORT.to_be_bytes();
    let mut datagram = [&port[..], &port, &length.to_be_bytes(), &[0, 0], text].concat();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = (length + 20).to_be_bytes();
            let mut header = [0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, UDP, 0, 0].to_vec();
            header.extend([from.octets(), to.octets()].concat());
            let sum = checksum(&header).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
            // Without a sum of its own, as IPv4 allows.
            Some([header, datagram].concat())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let size = length.to_be_bytes();
            let ends = [from.octets(), to.octets()].concat();
            let sum = checksum(&[&ends[..], &[0, 0], &size, &[0, 0, 0, UDP], &datagram].concat()).to_be_bytes();
            datagram[6..8].copy_from_slice(&sum);
            Some([&[0x60, 0, 0, 0, size[0], size[1], UDP, 64][..], &ends, &datagram].concat())
        }
        _ => None,
    }
}

/// The internet's sum of 16 bit words.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}
