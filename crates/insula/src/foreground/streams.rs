//! Which descriptors go into the container, and which are copied.

use std::io::{stderr, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use insula_api::attach::AttachStream;
use rustix::fs::{FileType, fstat, major, minor};
use rustix::net::SocketType;
use rustix::pipe::{PipeFlags, pipe_with};

use super::copy::{Copies, Way};
use super::{ForegroundError, kernel};

/// Whether standard input is passed on (`-i`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Yes.
    Passed,
    /// No: the container reads end-of-file.
    Absent,
}

/// Who else gets the outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outputs {
    /// Only we: what can go in directly does.
    Direct,
    /// Only we, and processes may live on with them open after what we wait for has ended. Who reads our pipe waits
    /// for its end, so it stays with us; a file can go in.
    Outlived,
    /// The node logs them and hands us copies, maybe after the container ended: only a pipe of ours tells when all
    /// of it has come.
    Logged,
}

/// Standard streams of one attachment without terminal.
#[derive(Debug)]
pub struct Streams {
    given: Vec<(AttachStream, OwnedFd)>,
    ways: Vec<Way>,
}

/// What a descriptor of ours is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A pipe or stream socket: it may enter a container.
    Stream,
    /// A regular file: it may enter a container.
    File,
    /// `/dev/null`: the same as nothing.
    Null,
    /// A terminal, another device, a directory.
    Kept,
}

fn kind(fd: BorrowedFd<'_>) -> Kind {
    let Ok(found) = fstat(fd) else { return Kind::Null };
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Fifo => Kind::Stream,
        FileType::RegularFile => Kind::File,
        FileType::Socket => match rustix::net::sockopt::socket_type(fd) {
            Ok(SocketType::STREAM) => Kind::Stream,
            _ => Kind::Kept,
        },
        FileType::CharacterDevice if (major(found.st_rdev), minor(found.st_rdev)) == (1, 3) => Kind::Null,
        _ => Kind::Kept,
    }
}

impl Streams {
    /// Looks at our standard streams, and makes pipes where needed.
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    pub fn of_this_process(input: Input, outputs: Outputs) -> Result<Self, ForegroundError> {
        let mut streams = Self { given: Vec::with_capacity(3), ways: Vec::new() };
        if input == Input::Passed {
            streams.add_input(stdin().as_fd())?;
        }
        streams.add_output(AttachStream::Stdout, stdout().as_fd(), outputs)?;
        streams.add_output(AttachStream::Stderr, stderr().as_fd(), outputs)?;
        if streams.given.is_empty() {
            // An attachment without a single stream would be followed by the node alone: the end of input is one.
            let (read, _) = pipe_with(PipeFlags::CLOEXEC).map_err(kernel("make a pipe"))?;
            streams.given.push((AttachStream::Stdin, read));
        }
        Ok(streams)
    }

    fn add_input(&mut self, own: BorrowedFd<'_>) -> Result<(), ForegroundError> {
        match kind(own) {
            Kind::Stream | Kind::File => self.given.push((AttachStream::Stdin, duplicate(own)?)),
            // An input too: its end.
            Kind::Null => {
                let (read, _) = pipe_with(PipeFlags::CLOEXEC).map_err(kernel("make a pipe"))?;
                self.given.push((AttachStream::Stdin, read));
            }
            Kind::Kept => {
                let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(kernel("make a pipe"))?;
                self.given.push((AttachStream::Stdin, read));
                self.ways.push(Way::input(duplicate(own)?, write));
            }
        }
        Ok(())
    }

    /// Copies our standard input to a pipe of the container's too.
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    pub(super) fn copy_input(&mut self, to: OwnedFd) -> Result<(), ForegroundError> {
        if kind(stdin().as_fd()) != Kind::Null {
            self.ways.push(Way::input(duplicate(stdin().as_fd())?, to));
        }
        Ok(())
    }

    fn add_output(
        &mut self,
        stream: AttachStream,
        own: BorrowedFd<'_>,
        outputs: Outputs,
    ) -> Result<(), ForegroundError> {
        match (kind(own), outputs) {
            (Kind::Null, _) => {}
            (Kind::Stream | Kind::File, Outputs::Direct) | (Kind::File, Outputs::Outlived) => {
                self.given.push((stream, duplicate(own)?));
            }
            (Kind::Stream | Kind::File | Kind::Kept, _) => {
                let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(kernel("make a pipe"))?;
                self.given.push((stream, write));
                self.ways.push(Way::output(read, duplicate(own)?));
            }
        }
        Ok(())
    }

    /// What goes beside the attach request.
    pub(super) fn given(&self) -> (Vec<AttachStream>, Vec<BorrowedFd<'_>>) {
        self.given.iter().map(|(stream, fd)| (*stream, fd.as_fd())).unzip()
    }

    /// Closes what was given, so that ends can be seen, and begins to copy.
    pub(super) fn start(self, last_wait: Duration) -> Result<Copies, ForegroundError> {
        drop(self.given);
        Copies::start(self.ways, last_wait)
    }
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, ForegroundError> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(kernel("duplicate a standard stream"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn only_pipes_stream_sockets_and_regular_files_may_enter() {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        assert_eq!((kind(read.as_fd()), kind(write.as_fd())), (Kind::Stream, Kind::Stream));
        let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(kind(stream.as_fd()), Kind::Stream);
        let (datagram, _other) = std::os::unix::net::UnixDatagram::pair().unwrap();
        assert_eq!(kind(datagram.as_fd()), Kind::Kept);
        assert_eq!(kind(tempfile::tempfile().unwrap().as_fd()), Kind::File);
        assert_eq!(kind(File::open("/").unwrap().as_fd()), Kind::Kept);
        assert_eq!(kind(File::open("/dev/null").unwrap().as_fd()), Kind::Null);
        assert_eq!(kind(File::open("/dev/zero").unwrap().as_fd()), Kind::Kept);
        let master = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
        assert_eq!(kind(master.as_fd()), Kind::Kept);
    }
}
