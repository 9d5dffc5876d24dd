//! Questions that name servers of the host are at. What they say is believed only if it comes from the server that was
//! asked, over the socket of this one question (a random port), under its random id, and to this very question.
//!
//! ```text
//!   begin ── ask first server ──┬── answer ───────────────────> Done
//!                 ^             ├── refusal, or cannot tell ──┐
//!                 └── next one ─┴── TRY_TIME over ────────────┴── none is left ──> Done (failure)
//! ```

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use insula_kernel::random::random_u16;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::answer::{Foreign, Said, Transport};
use crate::names::Asker;
use crate::sandbox::DNS_PORT;
use crate::stream::{Nothing, Stream};

/// How long one server may think. Resolvers in containers wait 5 s, so that three are asked in that time.
pub const TRY_TIME: Duration = Duration::from_millis(1_500);
/// How often servers are asked about one question.
pub const TRIES_MAX: usize = 3;
/// Packets that are looked at for one question in one turn; the rest waits for the next.
const PACKETS_PER_TURN_MAX: usize = 8;
/// Longest packet that is taken; longer ones were never asked for.
const PACKET_BYTES_MAX: usize = 4_096;

/// Who gets the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// Over one of the sockets, at this address.
    Packet {
        /// Position of the socket.
        socket: usize,
        /// Where it came from.
        from: SocketAddr,
    },
    /// The connection of this number.
    Connection(u64),
}

/// One question on its way.
#[derive(Debug)]
pub struct Flight {
    /// For whom.
    pub asker: Asker,
    /// Where the answer goes.
    pub client: Client,
    /// When the server that is asked now has had its time.
    pub until: Instant,
    question: Foreign,
    servers: Vec<IpAddr>,
    tries: usize,
    line: Option<Line>,
    /// The last word of a server that could not tell.
    unhelpful: Option<Vec<u8>>,
}

/// The way to the server that is asked now.
#[derive(Debug)]
struct Line {
    id: u16,
    wire: Wire,
}

#[derive(Debug)]
enum Wire {
    Packets(OwnedFd),
    Connection(Stream),
}

/// What came of a look at a flight.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// It goes on, and what it waits for is the same.
    Waits,
    /// All is written: from now on only an answer is waited for.
    Written,
    /// It goes on over another descriptor; the one before is closed.
    Moved,
    /// This goes to the client; `None` if nothing can be said.
    Done(Option<Vec<u8>>),
}

impl Flight {
    /// A question for `servers`, nobody asked yet: [`Flight::ask_next`] does.
    #[must_use]
    pub fn new((asker, client): (Asker, Client), question: Foreign, servers: &[IpAddr], now: Instant) -> Self {
        let servers = servers.to_vec();
        Self { asker, client, until: now, question, servers, tries: 0, line: None, unhelpful: None }
    }

    /// Whether what is waited for is room to write.
    #[must_use]
    pub fn writes(&self) -> bool {
        matches!(&self.line, Some(Line { wire: Wire::Connection(stream), .. }) if !stream.is_written())
    }

    /// Asks the next server; servers that cannot be reached at all are passed over.
    pub fn ask_next(&mut self, now: Instant) -> Progress {
        self.line = None;
        while self.tries < TRIES_MAX && !self.servers.is_empty() {
            let server = self.servers[self.tries % self.servers.len()];
            self.tries += 1;
            if let Some(line) = self.dial(SocketAddr::new(server, DNS_PORT)) {
                self.line = Some(line);
                self.until = now + TRY_TIME;
                return Progress::Moved;
            }
        }
        Progress::Done(self.unhelpful.take().or_else(|| self.question.failure()))
    }

    fn dial(&self, server: SocketAddr) -> Option<Line> {
        let id = random_u16().ok()?;
        let message = self.question.to_upstream(id)?;
        let kind = match self.question.transport() {
            Transport::Udp => SocketType::DGRAM,
            Transport::Tcp => SocketType::STREAM,
        };
        let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, kind, flags, None).ok()?;
        // Connected: the kernel takes packets from this server's address and port only.
        match rustix::net::connect(&socket, &server) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(_) => return None,
        }
        let wire = match self.question.transport() {
            Transport::Udp => {
                rustix::net::send(&socket, &message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).ok()?;
                Wire::Packets(socket)
            }
            Transport::Tcp => {
                let mut stream = Stream::new(socket);
                stream.queue(&message);
                stream.write().ok()?;
                Wire::Connection(stream)
            }
        };
        Some(Line { id, wire })
    }

    /// Its descriptor is ready.
    pub fn ready(&mut self, now: Instant) -> Progress {
        let Some(line) = &mut self.line else { return Progress::Waits };
        let heard = match &mut line.wire {
            Wire::Packets(socket) => hear_packets(socket, &self.question, line.id),
            Wire::Connection(stream) if !stream.is_written() => {
                return match stream.write() {
                    Ok(()) if stream.is_written() => Progress::Written,
                    Ok(()) => Progress::Waits,
                    Err(_) => self.ask_next(now),
                };
            }
            Wire::Connection(stream) => match stream.read() {
                Ok(message) => self.question.from_upstream(line.id, &message).ok_or(Nothing::Ever),
                Err(nothing) => Err(nothing),
            },
        };
        match heard {
            Ok(Said::Answer(bytes)) => Progress::Done(Some(bytes)),
            Ok(Said::Nothing(bytes)) => {
                self.unhelpful = Some(bytes);
                self.ask_next(now)
            }
            Err(Nothing::Ever) => self.ask_next(now),
            Err(Nothing::Yet) => Progress::Waits,
        }
    }
}

/// The first packet that answers the question; others are thrown away.
fn hear_packets(socket: &OwnedFd, question: &Foreign, id: u16) -> Result<Said, Nothing> {
    let mut buffer = [0; PACKET_BYTES_MAX];
    for _ in 0..PACKETS_PER_TURN_MAX {
        match rustix::net::recv(socket, &mut buffer[..], RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
            Ok((_, length)) => {
                let said = buffer.get(..length).and_then(|bytes| question.from_upstream(id, bytes));
                if let Some(said) = said {
                    return Ok(said);
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => return Err(Nothing::Yet),
            // The server's host says that nobody listens there.
            Err(_) => return Err(Nothing::Ever),
        }
    }
    Err(Nothing::Yet)
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.wire {
            Wire::Packets(socket) => socket.as_fd(),
            Wire::Connection(stream) => stream.as_fd(),
        }
    }
}

impl Flight {
    /// The descriptor that is waited for, if a server is asked.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.line.as_ref().map(AsFd::as_fd)
    }
}
