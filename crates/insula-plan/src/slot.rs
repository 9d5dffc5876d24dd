//! Descriptors by number: what a plan is given, and what its steps make for later ones.
//!
//! ```text
//!   slot   0 … inputs-1     filled before the plan begins, one per Plan::inputs
//!          inputs … 255     filled by steps (`into`), each once
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use minicbor::{Decode, Encode};

use crate::protocol::launcher::ImageKey;

/// Slots that a plan may use.
pub const SLOTS_MAX: usize = 256;

/// Number of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
#[cbor(transparent)]
pub struct FdSlot(#[n(0)] pub u16);

/// A place below a slot's directory: the directory itself when `path` is empty.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct At {
    /// A directory, or a detached mount of one.
    #[n(0)]
    pub base: FdSlot,
    /// Relative, of plain components; no symbolic link on the way is followed.
    #[n(1)]
    pub path: PathBuf,
}

impl At {
    /// The slot's directory itself.
    #[must_use]
    pub fn root(base: FdSlot) -> Self {
        Self { base, path: PathBuf::new() }
    }

    /// `path` below the slot's directory.
    #[must_use]
    pub fn new(base: FdSlot, path: impl Into<PathBuf>) -> Self {
        Self { base, path: path.into() }
    }

    /// `path` below this place.
    #[must_use]
    pub fn below(&self, path: &str) -> Self {
        Self { base: self.base, path: self.path.join(path) }
    }
}

/// What one of a plan's first slots holds, and who fills it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Input {
    /// The next of the descriptors that come beside the plan.
    #[n(0)]
    Given,
    /// The launcher's mount of an image version: an open directory, the mount's root.
    #[n(1)]
    ImageMount {
        /// Which version.
        #[n(0)]
        key: ImageKey,
    },
    /// The program of our own process 1: executable, by nobody readable.
    #[n(2)]
    InitProgram,
    /// Where process 1 tells the launcher about the main process.
    #[n(3)]
    Status,
    /// Where process 1 accepts exec requests.
    #[n(4)]
    ExecListener,
    /// The file where process 1 writes how the main process ended.
    #[n(5)]
    ExitFact,
    /// A sealed file in memory with this content; the executor makes it.
    #[n(6)]
    Content {
        /// Its bytes.
        #[cbor(n(0), with = "minicbor::bytes")]
        bytes: Vec<u8>,
    },
    /// `/dev/null`, opened for reading and writing; the executor opens it.
    #[n(7)]
    Null,
    /// The next of the descriptors that come beside the plan: a mount that is attached nowhere.
    #[n(8)]
    Mount,
}

/// The descriptors of a plan that is being carried out.
#[derive(Debug, Default)]
pub struct Slots {
    fds: Vec<Option<OwnedFd>>,
}

/// A step names a slot that holds nothing, or would fill one twice: the plan contradicts itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// Nothing is in it.
    #[error("slot {} is empty", slot.0)]
    Empty {
        /// Which.
        slot: FdSlot,
    },
    /// Something is in it already.
    #[error("slot {} is taken", slot.0)]
    Taken {
        /// Which.
        slot: FdSlot,
    },
    /// Beyond [`SLOTS_MAX`].
    #[error("slot {} is beyond {SLOTS_MAX}", slot.0)]
    Beyond {
        /// Which.
        slot: FdSlot,
    },
}

impl Slots {
    /// The inputs' descriptors, in order, in slots 0 and up.
    #[must_use]
    pub fn new(inputs: Vec<OwnedFd>) -> Self {
        Self { fds: inputs.into_iter().map(Some).collect() }
    }

    /// Closes the first `count`.
    pub(crate) fn close_first(&mut self, count: usize) {
        self.fds.iter_mut().take(count).for_each(|fd| *fd = None);
    }

    /// What is in `slot`.
    ///
    /// # Errors
    ///
    /// Nothing is.
    pub fn get(&self, slot: FdSlot) -> Result<BorrowedFd<'_>, SlotError> {
        let found = self.fds.get(usize::from(slot.0)).and_then(Option::as_ref);
        found.map(AsFd::as_fd).ok_or(SlotError::Empty { slot })
    }

    /// Puts `fd` into `slot`.
    ///
    /// # Errors
    ///
    /// The slot is taken or beyond the bound; the descriptor is closed.
    pub fn put(&mut self, slot: FdSlot, fd: OwnedFd) -> Result<(), SlotError> {
        let at = usize::from(slot.0);
        if at >= SLOTS_MAX {
            return Err(SlotError::Beyond { slot });
        }
        if self.fds.len() <= at {
            self.fds.resize_with(at + 1, || None);
        }
        if self.fds[at].is_some() {
            return Err(SlotError::Taken { slot });
        }
        self.fds[at] = Some(fd);
        Ok(())
    }

    /// Slots that hold something, with it, in order.
    pub fn filled(&self) -> impl Iterator<Item = (FdSlot, BorrowedFd<'_>)> {
        self.fds.iter().enumerate().filter_map(|(at, fd)| {
            let slot = u16::try_from(at).map(FdSlot).ok()?;
            fd.as_ref().map(|fd| (slot, fd.as_fd()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_fd() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn a_slot_is_filled_once_and_within_the_bound() {
        let mut slots = Slots::new(vec![some_fd()]);
        assert!(slots.get(FdSlot(0)).is_ok());
        assert_eq!(slots.put(FdSlot(0), some_fd()), Err(SlotError::Taken { slot: FdSlot(0) }));
        slots.put(FdSlot(9), some_fd()).unwrap();
        assert_eq!(slots.get(FdSlot(5)).unwrap_err(), SlotError::Empty { slot: FdSlot(5) });
        assert_eq!(slots.put(FdSlot(256), some_fd()), Err(SlotError::Beyond { slot: FdSlot(256) }));
        assert_eq!(slots.filled().map(|(slot, _)| slot.0).collect::<Vec<_>>(), [0, 9]);
    }
}
