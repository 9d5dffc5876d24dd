//! What the keeper keeps, once more: copies of its descriptors, so that either of the two may die.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use insula_plan::protocol::ContainerId;
use insula_plan::protocol::keeper::{FdName, KeeperRequest, LogBounds, LogStart, LogStream, TeeSpec};
use rustix::event::{PollFd, PollFlags};
use rustix::time::Timespec;

/// Copies of one container's tees; the oldest goes beyond it. The keeper has the same bound.
const TEES_MAX: usize = 16;

/// The mirror.
#[derive(Debug, Default)]
pub(crate) struct Mirror {
    stored: BTreeMap<FdName, OwnedFd>,
    logs: BTreeMap<ContainerId, MirroredLog>,
    /// Logs of runs that are over, until the keeper says that all of them was written and copied.
    over: BTreeMap<ContainerId, MirroredLog>,
}

#[derive(Debug)]
struct MirroredLog {
    bounds: Option<LogBounds>,
    directory: OwnedFd,
    streams: Vec<(LogStream, OwnedFd)>,
    tees: Vec<(TeeSpec, OwnedFd)>,
}

impl Mirror {
    /// Does what the keeper did when it answered this request well.
    pub(crate) fn follow(&mut self, request: KeeperRequest, fds: Vec<OwnedFd>) {
        match request {
            KeeperRequest::Put { name } => self.stored.extend(fds.into_iter().next().map(|fd| (name, fd))),
            KeeperRequest::Remove { name } => {
                self.stored.remove(&name);
            }
            KeeperRequest::RemoveContainer { container } => {
                let front = format!("{container}/");
                self.stored.retain(|name, _| !name.as_str().starts_with(&front));
                if let Some(log) = self.logs.remove(&container) {
                    match self.over.entry(container) {
                        Entry::Vacant(place) => drop(place.insert(log)),
                        Entry::Occupied(before) => before.into_mut().extend(log),
                    }
                }
            }
            KeeperRequest::LogStart(log) => self.start_log(&log, fds),
            KeeperRequest::Tee { container, tee } => {
                if let (Some(log), Some(fd)) = (self.logs.get_mut(&container), fds.into_iter().next()) {
                    log.add_tee(tee, fd);
                }
            }
            KeeperRequest::Hello { .. }
            | KeeperRequest::Take { .. }
            | KeeperRequest::List { .. }
            | KeeperRequest::Flush { .. }
            | KeeperRequest::LogState { .. }
            | KeeperRequest::Export { .. }
            | KeeperRequest::Shutdown => {}
        }
    }

    /// The keeper keeps this log no more, of whatever run.
    pub(crate) fn log_ended(&mut self, container: ContainerId) {
        self.logs.remove(&container);
        self.over.remove(&container);
    }

    /// The keeper has nothing more of the runs that are over.
    pub(crate) fn runs_ended(&mut self, container: ContainerId) {
        self.over.remove(&container);
    }

    /// A stored descriptor.
    pub(crate) fn stored(&self, name: &FdName) -> Option<BorrowedFd<'_>> {
        self.stored.get(name).map(AsFd::as_fd)
    }

    /// All stored descriptors.
    pub(crate) fn all_stored(&self) -> impl Iterator<Item = (&FdName, BorrowedFd<'_>)> {
        self.stored.iter().map(|(name, fd)| (name, fd.as_fd()))
    }

    /// The requests that give a new keeper the runs that are over, with their descriptors. They come before all others.
    pub(crate) fn over_requests(&self) -> impl Iterator<Item = (KeeperRequest, Vec<BorrowedFd<'_>>)> {
        self.over.iter().flat_map(|(&container, log)| {
            [log.request(container), (KeeperRequest::RemoveContainer { container }, Vec::new())]
        })
    }

    /// The requests that give it everything else.
    pub(crate) fn requests(&self) -> impl Iterator<Item = (KeeperRequest, Vec<BorrowedFd<'_>>)> {
        let puts = self.stored.iter().map(|(name, fd)| (KeeperRequest::Put { name: name.clone() }, vec![fd.as_fd()]));
        puts.chain(self.logs.iter().map(|(&container, log)| log.request(container)))
    }

    fn start_log(&mut self, start: &LogStart, fds: Vec<OwnedFd>) {
        let mut fds = fds.into_iter();
        let Some(directory) = fds.next() else { return };
        let log = self.logs.entry(start.container).or_insert_with(|| MirroredLog {
            bounds: start.files,
            directory,
            streams: Vec::new(),
            tees: Vec::new(),
        });
        // A log that is there goes on, as it does in the keeper.
        log.streams.extend(start.streams.iter().copied().zip(fds.by_ref()));
        for (&tee, fd) in start.tees.iter().zip(fds) {
            log.add_tee(tee, fd);
        }
    }
}

impl MirroredLog {
    fn extend(&mut self, other: Self) {
        self.streams.extend(other.streams);
        other.tees.into_iter().for_each(|(tee, fd)| self.add_tee(tee, fd));
    }

    fn add_tee(&mut self, tee: TeeSpec, fd: OwnedFd) {
        self.tees.retain(|(_, fd)| has_reader(fd));
        if self.tees.len() == TEES_MAX {
            self.tees.remove(0);
        }
        self.tees.push((tee, fd));
    }

    fn request(&self, container: ContainerId) -> (KeeperRequest, Vec<BorrowedFd<'_>>) {
        let start = LogStart {
            container,
            streams: self.streams.iter().map(|(stream, _)| *stream).collect(),
            tees: self.tees.iter().map(|(tee, _)| *tee).collect(),
            files: self.bounds,
        };
        let streams = self.streams.iter().map(|(_, fd)| fd.as_fd());
        let tees = self.tees.iter().map(|(_, fd)| fd.as_fd());
        (KeeperRequest::LogStart(start), std::iter::once(self.directory.as_fd()).chain(streams).chain(tees).collect())
    }
}

/// Whether somebody can still read what is written here.
fn has_reader(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::empty())];
    let gone = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
    rustix::event::poll(&mut fds, Some(&Timespec::default())).is_ok() && !fds[0].revents().intersects(gone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use insula_plan::protocol::keeper::WhenSlow;

    fn id() -> ContainerId {
        "11111111-2222-4333-8444-555555555555".parse().unwrap()
    }

    fn fd() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn what_was_followed_is_asked_again_and_nothing_else() {
        let mut mirror = Mirror::default();
        let pty = FdName::of_container(id(), "pty").unwrap();
        let other: FdName = "node/claim".parse().unwrap();
        mirror.follow(KeeperRequest::Put { name: pty.clone() }, vec![fd()]);
        mirror.follow(KeeperRequest::Put { name: other.clone() }, vec![fd()]);
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let tee = TeeSpec { stream: LogStream::Output, when_slow: WhenSlow::Block };
        let start = LogStart { container: id(), streams: vec![LogStream::Output], tees: vec![tee], files: None };
        mirror.follow(KeeperRequest::LogStart(start.clone()), vec![fd(), fd(), writer]);
        let requests: Vec<_> = mirror.requests().map(|(request, fds)| (request, fds.len())).collect();
        let put = |name: &FdName| (KeeperRequest::Put { name: name.clone() }, 1);
        assert_eq!(requests, [put(&pty), put(&other), (KeeperRequest::LogStart(start.clone()), 3)]);

        // A second run of the same container, whose first client is gone.
        drop(reader);
        mirror.follow(KeeperRequest::LogStart(start), vec![fd(), fd(), fd()]);
        let (request, fds) = mirror.requests().last().unwrap();
        let KeeperRequest::LogStart(both) = request else { panic!("{request:?}") };
        assert_eq!((both.streams.len(), both.tees.len(), fds.len()), (2, 1, 4));

        mirror.follow(KeeperRequest::RemoveContainer { container: id() }, Vec::new());
        assert_eq!(mirror.requests().map(|(request, _)| request).collect::<Vec<_>>(), [put(&other).0]);
        assert!(mirror.stored(&other).is_some() && mirror.stored(&pty).is_none());
        let over: Vec<_> = mirror.over_requests().map(|(request, _)| request).collect();
        assert_eq!(over, [KeeperRequest::LogStart(both), KeeperRequest::RemoveContainer { container: id() }]);
        mirror.runs_ended(id());
        assert_eq!(mirror.over_requests().count(), 0);
    }
}
