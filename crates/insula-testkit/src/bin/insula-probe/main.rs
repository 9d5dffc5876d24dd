//! Says what a process sees where it runs, as JSON on standard output. `insula-probe flood ADDRESS:PORT` instead sends
//! packets of all kinds of bytes as fast as it can, for ever; `trace PID` reaches for another process, `hunt` for every
//! one that appears; `forge FROM TO TEXT [MAC]` sends a frame under any sender, `forge-packet FROM TO TEXT` a packet, `hear` says what arrives.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "printing is what it is for")]

mod forge;
mod trace;

use std::net::{SocketAddr, UdpSocket};
use std::process::ExitCode;

use insula_testkit::ProbeReport;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [word, address] = &words[..]
        && word == "flood"
        && let Ok(address) = address.parse()
    {
        return flood(address).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    match &words[..] {
        [] => {}
        [word, pid] if word == "trace" => {
            return lines(pid.parse().ok().and_then(rustix::process::Pid::from_raw).map(trace::attempts));
        }
        [word] if word == "hunt" => return lines(Some(trace::hunt())),
        [word] if word == "hear" => return outcome(forge::hear()),
        [word, rest @ ..] if word == "forge" => return outcome(forge::forge(rest)),
        [word, from, to, text] if word == "forge-packet" => return outcome(forge::forge_packet(from, to, text)),
        _ => return ExitCode::from(2),
    }
    match serde_json::to_string_pretty(&ProbeReport::of_this_process()) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::FAILURE,
    }
}

fn lines(lines: Option<Vec<String>>) -> ExitCode {
    let Some(lines) = lines else { return ExitCode::from(2) };
    lines.iter().for_each(|line| println!("{line}"));
    ExitCode::SUCCESS
}

fn outcome(result: std::io::Result<()>) -> ExitCode {
    if let Err(error) = result {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Packets whose beginnings pass for questions, answers and neither.
fn flood(address: SocketAddr) -> std::io::Result<()> {
    let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    let mut packet =
        *b"\x00\x00\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\x04loud\xc0\x0c\x00\x01\x00\x01padding-padding";
    let mut number: u64 = 0;
    loop {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = usize::try_from(number >> 33).unwrap_or(0) % packet.len();
        packet[at] = number.to_be_bytes()[0];
        // A full queue, or an answer that nobody listens, is no reason to stop.
        socket.send_to(&packet[..packet.len() - at % 7], address).unwrap_or_default();
    }
}
