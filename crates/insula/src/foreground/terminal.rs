//! This program's own terminal: raw mode that is always given back, and its size.

use std::io::{stderr, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::termios::{OptionalActions, Termios, Winsize, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use super::{ForegroundError, kernel};

/// Rows and columns of the terminal that any of our standard streams is; `None` without one.
#[must_use]
pub fn window_size() -> Option<(u16, u16)> {
    let (input, output, error) = (stdin(), stdout(), stderr());
    let own = [output.as_fd(), input.as_fd(), error.as_fd()];
    let size = own.into_iter().filter(|fd| isatty(fd)).find_map(|fd| tcgetwinsize(fd).ok())?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Gives a pty our terminal's size. Without a terminal of ours it keeps its own.
pub(super) fn copy_window_size(master: BorrowedFd<'_>) {
    if let Some((rows, columns)) = window_size() {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // A pty that is gone has no size to set.
        let _ = rustix::termios::tcsetwinsize(master, size);
    }
}

/// Raw mode of our terminal, until dropped.
///
/// It is given back on every way out: by `Drop` on returns (all signals that could end us are blocked and taken from
/// a descriptor), by a hook on panics, which abort.
#[derive(Debug)]
pub(super) struct RawMode {
    saved: Arc<Saved>,
}

struct Saved {
    terminal: OwnedFd,
    before: Mutex<Option<Termios>>,
}

impl std::fmt::Debug for Saved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Saved").field("terminal", &self.terminal).finish_non_exhaustive()
    }
}

impl Saved {
    fn restore(&self) {
        if let Some(before) = self.before.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A terminal that hung up has nothing to restore.
            let _ = tcsetattr(&self.terminal, OptionalActions::Drain, &before);
        }
    }
}

impl RawMode {
    /// Sets raw mode if standard input is a terminal.
    pub(super) fn enter() -> Result<Option<Self>, ForegroundError> {
        let input = stdin();
        if !isatty(&input) {
            return Ok(None);
        }
        let before = tcgetattr(&input).map_err(kernel("read the terminal's mode"))?;
        let terminal = input
            .as_fd()
            .try_clone_to_owned()
            .map_err(|source| ForegroundError::Kernel { call: "duplicate the terminal's descriptor", source })?;
        let mut raw = before.clone();
        raw.make_raw();
        let saved = Arc::new(Saved { terminal, before: Mutex::new(Some(before)) });
        let at_panic = Arc::clone(&saved);
        let next = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            at_panic.restore();
            next(info);
        }));
        tcsetattr(&saved.terminal, OptionalActions::Drain, &raw).map_err(kernel("set the terminal's mode"))?;
        Ok(Some(Self { saved }))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        self.saved.restore();
    }
}
