//! Room on the disk that is kept for what runs: looked at before something is taken on, and while it grows.
//!
//! What writes much is asked to stop through the same door as somebody who cancels it, which all of it has anyway; only
//! the words at the end differ.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use insula_api::{Finding, FindingLevel, Problem, ProblemCode};
use insula_model::{Bytes, ImageId};

/// What makes room.
const REMEDY: &str = "delete something (insula prune, insula image gc), or lower capacity.disk_reserve";

/// The file system of the node's state, and how much of it is kept free.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    place: PathBuf,
    reserve: Bytes,
}

impl Room {
    /// Keeps `reserve` of the file system of `place`.
    pub(crate) fn new(reserve: Bytes, place: &Path) -> Self {
        Self { place: place.to_owned(), reserve }
    }

    /// Refuses what would be kept when the file system is nearly full, so that what runs can still be told to stop, and
    /// its end be recorded. Costs microseconds.
    ///
    /// # Errors
    ///
    /// Admission, with what is free.
    pub(crate) fn check(&self) -> Result<(), Problem> {
        // Where it cannot be asked, the write that follows says so.
        match self.free() {
            Some(free) if free < self.reserve => {
                let detail = format!("disk: {}", self.words(free));
                Err(Problem::new(ProblemCode::Admission, detail).with_remedy(REMEDY))
            }
            _ => Ok(()),
        }
    }

    /// How the file system stands.
    pub(crate) fn finding(&self) -> Option<Finding> {
        let free = self.free()?;
        let (level, remedy) = match free < self.reserve {
            true => (FindingLevel::Failure, Some(REMEDY.to_owned())),
            false => (FindingLevel::Good, None),
        };
        Some(Finding { subject: "disk".to_owned(), level, detail: self.words(free), remedy })
    }

    fn free(&self) -> Option<Bytes> {
        let disk = rustix::fs::statvfs(&self.place).ok()?;
        Some(Bytes(disk.f_bavail.saturating_mul(disk.f_frsize)))
    }

    fn words(&self, free: Bytes) -> String {
        format!("{free} of space left on the file system of {}, {} are kept", self.place.display(), self.reserve)
    }

    /// Does work that makes `image`, which asks its argument whether to stop: as soon as it is `cancelled`, or the room
    /// is taken. The work leaves nothing behind then.
    ///
    /// # Errors
    ///
    /// The work's, or admission when there was no room.
    pub(crate) fn keep<T>(
        &self,
        image: &ImageId,
        cancelled: impl Fn() -> bool,
        work: impl FnOnce(&dyn Fn() -> bool) -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        let named = |mut problem: Problem| {
            problem.detail = format!("image {image}: {}; nothing of it is left", problem.detail);
            problem
        };
        self.check().map_err(named)?;
        // What was found stays found: the work's own undoing makes room again.
        let found = RefCell::new(None);
        let stop = || {
            let mut found = found.borrow_mut();
            if found.is_none() {
                *found = self.check().err();
            }
            found.is_some() || cancelled()
        };
        let done = work(&stop);
        match (done, found.take()) {
            (Err(_), Some(problem)) if !cancelled() => Err(named(problem)),
            (done, _) => done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> ImageId {
        "web@1".parse().unwrap()
    }

    #[test]
    fn a_disk_with_less_than_the_reserve_takes_nothing_new() {
        let room = |reserve| Room::new(Bytes(reserve), Path::new("/tmp"));
        room(0).check().unwrap();
        let problem = room(u64::MAX).check().unwrap_err();
        assert_eq!(problem.code, ProblemCode::Admission);
        assert!(problem.detail.contains("/tmp") && problem.remedy.unwrap().contains("disk_reserve"));
        let begun = room(u64::MAX).keep(&image(), || false, |_| -> Result<(), _> { panic!("the work is not begun") });
        assert!(begun.unwrap_err().detail.contains("image web@1: disk:"));
    }

    #[test]
    fn work_that_takes_the_room_is_stopped_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let free = || rustix::fs::statvfs(dir.path()).map(|disk| disk.f_bavail * disk.f_frsize).unwrap();
        let room = Room::new(Bytes(free() - (64 << 20)), dir.path());
        let stopped = room.keep(
            &image(),
            || false,
            |stop| -> Result<(), Problem> {
                let file = std::fs::File::create(dir.path().join("grows")).unwrap();
                for step in 1..=256_u64 {
                    if stop() {
                        drop(file);
                        std::fs::remove_file(dir.path().join("grows")).unwrap();
                        assert!(stop(), "what was found stays found");
                        return Err(Problem::new(ProblemCode::Cancelled, "cancelled".to_owned()));
                    }
                    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, step << 20).unwrap();
                }
                Ok(())
            },
        );
        let problem = stopped.unwrap_err();
        assert_eq!(problem.code, ProblemCode::Admission, "{problem:?}");
        assert!(problem.detail.contains("nothing of it is left"), "{}", problem.detail);
    }

    #[test]
    fn who_cancels_hears_of_that() {
        let room = Room::new(Bytes(0), Path::new("/tmp"));
        let work = |stop: &dyn Fn() -> bool| -> Result<(), Problem> {
            assert!(stop());
            Err(Problem::new(ProblemCode::Cancelled, "cancelled".to_owned()))
        };
        assert_eq!(room.keep(&image(), || true, work).unwrap_err().code, ProblemCode::Cancelled);
    }
}
