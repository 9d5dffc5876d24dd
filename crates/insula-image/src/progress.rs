//! How long operations tell how far they are, and how they are asked to stop.

use std::io::{self, Read};

use insula_model::Bytes;

/// Part of a long operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// A base system is being made by the distribution's tools; they say what they do, not how far they are. Counts
    /// bytes read of the archive, which come at its end.
    Bootstrap(BootstrapStep),
    /// Foreign bytes are read and the image is written. Counts bytes read.
    Import,
    /// A recipe's commands run. Counts commands.
    Run,
    /// What was written is read again and compared. Counts bytes.
    Verify,
    /// An image is written out. Counts bytes of content.
    Export,
}

/// What the tools that make a base system do. It is told apart by what they write, and none of that is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BootstrapStep {
    /// They have not said yet.
    Begin,
    /// The archive's lists of packages are fetched.
    Lists,
    /// Packages are fetched.
    Download,
    /// The first packages are unpacked.
    Extract,
    /// The packages that all others need are installed.
    Essential,
    /// All others are installed.
    Install,
    /// What only the making needed is removed.
    Clean,
    /// The root is packed into an archive.
    Pack,
}

/// How far an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// How much of that is done, in what the phase counts.
    pub done: Bytes,
    /// How much there is, when that is known.
    pub total: Option<Bytes>,
}

/// Whoever waits for a long operation: hears of progress, may ask it to stop.
#[derive(Clone, Copy)]
pub struct Watch<'caller> {
    /// Called at each phase's begin and about each megabyte. It must be cheap.
    pub progress: &'caller dyn Fn(Progress),
    /// Asked at the same times; once true, the operation ends with its error for that, and leaves nothing behind.
    pub cancelled: &'caller dyn Fn() -> bool,
}

/// The operation was asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

impl std::fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Watch<'static> {
    /// Nobody listens, nobody cancels.
    #[must_use]
    pub fn nobody() -> Self {
        Self { progress: &|_| {}, cancelled: &|| false }
    }
}

impl Watch<'_> {
    /// Tells of progress and hears whether to go on.
    pub(crate) fn report(&self, phase: Phase, done: u64, total: Option<u64>) -> Result<(), Cancelled> {
        (self.progress)(Progress { phase, done: Bytes(done), total: total.map(Bytes) });
        if (self.cancelled)() { Err(Cancelled) } else { Ok(()) }
    }

    /// Whether the operation was asked to stop.
    pub(crate) fn is_cancelled(&self) -> bool {
        (self.cancelled)()
    }
}

/// Bytes between two reports.
const REPORT_BYTES: u64 = 1 << 20;

/// A reader whose progress is watched; once cancelled, it fails.
#[derive(Debug)]
pub(crate) struct WatchedReader<'caller, R> {
    inner: R,
    watch: Watch<'caller>,
    phase: Phase,
    done: u64,
    reported: u64,
    total: Option<u64>,
}

impl<'caller, R> WatchedReader<'caller, R> {
    pub(crate) fn new(inner: R, watch: Watch<'caller>, phase: Phase, total: Option<u64>) -> Self {
        Self { inner, watch, phase, done: 0, reported: 0, total }
    }

    /// Continues the count of an operation that reads several things one after another.
    pub(crate) fn starting_at(mut self, done: u64) -> Self {
        self.done = done;
        self.reported = done;
        self
    }
}

impl<R: Read> Read for WatchedReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.done += u64::try_from(got).map_err(io::Error::other)?;
        if self.done - self.reported >= REPORT_BYTES {
            self.reported = self.done;
            self.watch.report(self.phase, self.done, self.total).map_err(io::Error::other)?;
        }
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_watched_reader_reports_and_stops_when_asked() {
        let reports = Cell::new(0);
        let progress = |_: Progress| reports.set(reports.get() + 1);
        let cancelled = || reports.get() >= 2;
        let watch = Watch { progress: &progress, cancelled: &cancelled };
        let mut reader = WatchedReader::new(io::repeat(0), watch, Phase::Import, None);
        let error = io::copy(&mut reader, &mut io::sink()).unwrap_err();
        assert!(error.get_ref().is_some_and(|inner| inner.is::<Cancelled>()));
        assert_eq!(reports.get(), 2);
    }
}
