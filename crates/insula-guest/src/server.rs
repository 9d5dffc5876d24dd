//! The loop: packets and connections of containers in, answers out, questions to the host's name servers between.
//!
//! ```text
//!   container ── packet, connection ──> who is it? ──> may it? ──> decide ──┬── reply ──> container
//!                                        (Names)      (Budget)   (answer)   └── Flight ──> name server
//! ```
//!
//! Nothing in it waits for anybody, and the work of one turn is bounded. Before each turn the table is looked at, so
//! that no answer is older than the daemon's last word.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use insula_kernel::poller::{Interest, Poller, Ready};
use insula_plan::protocol::names::NamesReader;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::answer::{Decision, Foreign, Transport, decide};
use crate::budget::{Budget, FORWARDED_MAX, Share};
use crate::connections::{Connection, Connections, IDLE_TIME};
use crate::flight::{Client, Flight, Progress};
use crate::names::{Asker, Names};
use crate::stream::{Nothing, Stream};

/// Packets, or new connections, that are taken from one socket in one turn.
const TAKEN_PER_TURN_MAX: usize = 64;
/// Longest query; longer ones are no questions.
const QUERY_BYTES_MAX: usize = 4_096;
/// Questions of one connection in one turn, beside those that were read already.
const QUESTIONS_PER_TURN_MAX: usize = 16;

/// Numbers of flights begin here; below are the sockets.
const FIRST_FLIGHT: u64 = 1 << 32;
/// Numbers of connections begin here.
const FIRST_CONNECTION: u64 = 2 << 32;

/// A socket that containers ask at.
#[derive(Debug)]
struct Door {
    socket: OwnedFd,
    transport: Transport,
}

/// Everything the service holds.
#[derive(Debug)]
pub struct Server {
    poller: Poller,
    table: NamesReader,
    names: Names,
    doors: Vec<Door>,
    budget: Budget,
    flights: BTreeMap<u64, Flight>,
    connections: Connections,
    last_number: u64,
}

impl Server {
    /// Answers by `table` over `sockets`: bound packet sockets and listeners.
    ///
    /// # Errors
    ///
    /// Something given is no socket.
    pub fn new(table: OwnedFd, sockets: Vec<OwnedFd>) -> Result<Self, Errno> {
        let poller = Poller::new()?;
        let mut doors = Vec::new();
        for (token, socket) in (0..).zip(sockets) {
            let packets = rustix::net::sockopt::socket_type(&socket)? == SocketType::DGRAM;
            poller.add(&socket, token, Interest::Read)?;
            doors.push(Door { socket, transport: if packets { Transport::Udp } else { Transport::Tcp } });
        }
        Ok(Self {
            poller,
            table: NamesReader::new(table),
            names: Names::default(),
            doors,
            budget: Budget::default(),
            flights: BTreeMap::new(),
            connections: Connections::default(),
            last_number: 0,
        })
    }

    /// Serves for ever.
    ///
    /// # Errors
    ///
    /// The kernel does not report any more what is ready.
    pub fn run(mut self) -> Result<(), Errno> {
        let mut ready = Vec::new();
        loop {
            let now = Instant::now();
            let pause = self.next_deadline().map(|at| at.saturating_duration_since(now));
            self.poller.wait(pause, &mut ready)?;
            if let Some(table) = self.table.newer() {
                self.names = Names::new(table);
                self.budget.keep_only(&self.names);
            }
            let now = Instant::now();
            for Ready { token } in ready.drain(..) {
                match token {
                    FIRST_CONNECTION.. => self.serve_connection(token - FIRST_CONNECTION, now),
                    FIRST_FLIGHT.. => self.flight_ready(token - FIRST_FLIGHT, now),
                    door => self.door_ready(usize::try_from(door).unwrap_or(usize::MAX), now),
                }
            }
            self.end_overdue(now);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let flights = self.flights.values().map(|flight| flight.until).min();
        flights.into_iter().chain(self.connections.next_deadline()).min()
    }

    fn end_overdue(&mut self, now: Instant) {
        let late: Vec<u64> =
            self.flights.iter().filter(|(_, flight)| flight.until <= now).map(|(&number, _)| number).collect();
        for number in late {
            let progress = self.flights.get_mut(&number).map(|flight| flight.ask_next(now));
            self.settle(number, progress.unwrap_or(Progress::Waits), now);
        }
        for number in self.connections.overdue(now) {
            self.close(number);
        }
    }

    fn door_ready(&mut self, door: usize, now: Instant) {
        for _ in 0..TAKEN_PER_TURN_MAX {
            let more = match self.doors.get(door).map(|door| door.transport) {
                Some(Transport::Udp) => self.take_packet(door, now),
                Some(Transport::Tcp) => self.take_connection(door, now),
                None => None,
            };
            if more.is_none() {
                return;
            }
        }
    }

    /// `None` when there is no more.
    fn take_packet(&mut self, door: usize, now: Instant) -> Option<()> {
        let mut buffer = [0; QUERY_BYTES_MAX];
        let socket = &self.doors.get(door)?.socket;
        let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        let (length, from) = match rustix::net::recvfrom(socket, &mut buffer[..], flags) {
            Ok((_, length, from)) => (length, from.and_then(|from| SocketAddr::try_from(from).ok())),
            Err(Errno::AGAIN) => return None,
            // An earlier answer was refused: that is its receiver's business.
            Err(_) => return Some(()),
        };
        let (Some(from), Some(bytes)) = (from, buffer.get(..length)) else { return Some(()) };
        let Some(asker) = self.asker(from.ip()).filter(|&asker| self.budget.take_query(asker, now)) else {
            return Some(());
        };
        let client = Client::Packet { socket: door, from };
        if let Some(reply) = self.handle((asker, client), bytes, Transport::Udp, now) {
            self.send_packet(door, from, &reply);
        }
        Some(())
    }

    fn asker(&self, address: IpAddr) -> Option<Asker> {
        self.names.asker(address.to_canonical())
    }

    /// What is to be said at once; a question for others is under way otherwise.
    fn handle(&mut self, from: (Asker, Client), bytes: &[u8], transport: Transport, now: Instant) -> Option<Vec<u8>> {
        match decide(bytes, &self.names, transport) {
            Decision::Ignore => None,
            Decision::Reply(bytes) => Some(bytes),
            Decision::Forward(question) => self.forward(from, *question, now),
        }
    }

    fn forward(&mut self, (asker, client): (Asker, Client), question: Foreign, now: Instant) -> Option<Vec<u8>> {
        if self.flights.len() >= FORWARDED_MAX || !self.budget.begin(asker, Share::Forwarded) {
            return question.failure();
        }
        let mut flight = Flight::new((asker, client), question, self.names.upstreams(), now);
        let progress = flight.ask_next(now);
        if let Progress::Done(reply) = progress {
            self.budget.end(asker, Share::Forwarded);
            return reply;
        }
        let number = self.next_number();
        self.flights.insert(number, flight);
        if let Client::Connection(connection) = client
            && let Some(connection) = self.connections.get_mut(connection)
        {
            connection.flight = Some(number);
        }
        self.settle(number, progress, now);
        None
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn flight_ready(&mut self, number: u64, now: Instant) {
        let progress = self.flights.get_mut(&number).map(|flight| flight.ready(now));
        self.settle(number, progress.unwrap_or(Progress::Waits), now);
    }

    /// Does what became of a flight.
    fn settle(&mut self, number: u64, progress: Progress, now: Instant) {
        let Some(flight) = self.flights.get(&number) else { return };
        let token = FIRST_FLIGHT + number;
        let interest = if flight.writes() { Interest::Write } else { Interest::Read };
        let watched = match (progress, flight.descriptor()) {
            (Progress::Waits, _) | (Progress::Written | Progress::Moved, None) => Ok(()),
            (Progress::Written, Some(descriptor)) => self.poller.change(descriptor, token, interest),
            (Progress::Moved, Some(descriptor)) => self.poller.add(descriptor, token, interest),
            (Progress::Done(reply), _) => return self.land(number, reply, now),
        };
        if watched.is_err() {
            self.land(number, None, now);
        }
    }

    /// A flight's end: its client gets the reply.
    fn land(&mut self, number: u64, reply: Option<Vec<u8>>, now: Instant) {
        let Some(flight) = self.flights.remove(&number) else { return };
        self.budget.end(flight.asker, Share::Forwarded);
        match (flight.client, reply) {
            (Client::Packet { socket, from }, Some(reply)) => self.send_packet(socket, from, &reply),
            (Client::Packet { .. }, None) => {}
            (Client::Connection(connection), reply) => self.resume(connection, reply, now),
        }
    }

    fn send_packet(&self, door: usize, to: SocketAddr, reply: &[u8]) {
        let Some(Door { socket, .. }) = self.doors.get(door) else { return };
        // A container that takes no packets, or is gone, asks again or does not.
        rustix::net::sendto(socket, reply, SendFlags::DONTWAIT | SendFlags::NOSIGNAL, &to).unwrap_or_default();
    }

    /// `None` when there is no more.
    fn take_connection(&mut self, door: usize, now: Instant) -> Option<()> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (socket, from) = match rustix::net::acceptfrom_with(&self.doors.get(door)?.socket, flags) {
            Ok(accepted) => accepted,
            Err(Errno::CONNABORTED | Errno::INTR) => return Some(()),
            Err(_) => return None,
        };
        let from = from.and_then(|from| SocketAddr::try_from(from).ok())?;
        let Some(asker) = self.asker(from.ip()).filter(|&asker| self.budget.begin(asker, Share::Connection)) else {
            return Some(());
        };
        let number = self.next_number();
        if self.poller.add(&socket, FIRST_CONNECTION + number, Interest::Read).is_err() {
            self.budget.end(asker, Share::Connection);
            return Some(());
        }
        let connection = Connection { asker, stream: Stream::new(socket), until: now + IDLE_TIME, flight: None };
        if let Some(crowded_out) = self.connections.insert(number, connection) {
            self.close(crowded_out);
        }
        Some(())
    }

    /// A question of a connection was answered.
    fn resume(&mut self, number: u64, reply: Option<Vec<u8>>, now: Instant) {
        let Some(connection) = self.connections.get_mut(number) else { return };
        connection.flight = None;
        let Some(reply) = reply else { return self.close(number) };
        connection.stream.queue(&reply);
        self.serve_connection(number, now);
    }

    /// Writes what is to be written to a connection, then takes its next questions.
    fn serve_connection(&mut self, number: u64, now: Instant) {
        match self.try_serve(number, now) {
            Some(interest) => {
                let Some(connection) = self.connections.get_mut(number) else { return };
                let token = FIRST_CONNECTION + number;
                if self.poller.change(connection.stream.as_fd(), token, interest).is_err() {
                    self.close(number);
                }
            }
            None => self.close(number),
        }
    }

    /// What the connection waits for now; `None` if it is to be closed.
    fn try_serve(&mut self, number: u64, now: Instant) -> Option<Interest> {
        let mut questions = 0;
        loop {
            let connection = self.connections.get_mut(number)?;
            let asker = connection.asker;
            if connection.flight.is_some() {
                // Reported although nothing was waited for: it is gone.
                return (questions > 0).then_some(Interest::End);
            }
            connection.stream.write().ok()?;
            if !connection.stream.is_written() {
                return Some(Interest::Write);
            }
            if questions >= QUESTIONS_PER_TURN_MAX && !connection.stream.has_message() {
                return Some(Interest::Read);
            }
            let message = match connection.stream.read() {
                Ok(message) => message,
                Err(Nothing::Yet) => return Some(Interest::Read),
                Err(Nothing::Ever) => return None,
            };
            connection.until = now + IDLE_TIME;
            questions += 1;
            if !self.budget.take_query(asker, now) {
                return None;
            }
            let reply = self.handle((asker, Client::Connection(number)), &message, Transport::Tcp, now);
            let connection = self.connections.get_mut(number)?;
            match reply {
                Some(reply) => connection.stream.queue(&reply),
                // No query, and nobody was asked about it.
                None if connection.flight.is_none() => return None,
                None => {}
            }
        }
    }

    fn close(&mut self, number: u64) {
        if let Some(connection) = self.connections.remove(number) {
            self.budget.end(connection.asker, Share::Connection);
        }
    }
}

impl AsFd for Server {
    /// Readable when there is something to do.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poller.as_fd()
    }
}
