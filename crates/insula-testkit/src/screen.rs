//! A real terminal with a program on it, for tests of what people see and type.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::PATIENCE;
use crate::eventually;
use crate::finished::wait_bounded;

/// A terminal of 33 lines and 99 columns with a program on it.
#[derive(Debug)]
pub struct Screen {
    master: OwnedFd,
    slave: File,
    child: Child,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Screen {
    /// Starts `program` as the leader of a session on a new terminal.
    ///
    /// # Panics
    ///
    /// It could not be started.
    #[must_use]
    pub fn open(program: &Command) -> Self {
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
        let slave = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        tcsetwinsize(&master, Winsize { ws_row: 33, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(program.get_program()).args(program.get_args());
        for (key, value) in program.get_envs() {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        let stdio = || Stdio::from(slave.try_clone().unwrap());
        let child = command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (shown, mut reader) = (seen.clone(), File::from(master.try_clone().unwrap()));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                shown.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..length]);
            }
        });
        Self { master, slave, child, seen }
    }

    /// Everything that was shown so far.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Waits until `what` was shown.
    ///
    /// # Panics
    ///
    /// It was not in time.
    #[track_caller]
    pub fn expect(&self, what: &str) {
        eventually(what, || self.text().contains(what).then_some(()));
    }

    /// Types.
    ///
    /// # Panics
    ///
    /// The terminal is gone.
    pub fn send(&self, keys: &[u8]) {
        File::from(self.master.try_clone().unwrap()).write_all(keys).unwrap();
    }

    /// Gives the terminal another size.
    ///
    /// # Panics
    ///
    /// The terminal is gone.
    pub fn resize(&self, rows: u16, columns: u16) {
        tcsetwinsize(&self.master, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    }

    /// Whether keys go to the program as they are typed.
    ///
    /// # Panics
    ///
    /// The terminal is gone.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        !tcgetattr(&self.slave).unwrap().local_modes.contains(LocalModes::ICANON)
    }

    /// The program's exit code, waiting for its end.
    ///
    /// # Panics
    ///
    /// It did not end in time.
    #[track_caller]
    pub fn code(&mut self) -> Option<i32> {
        let ended = wait_bounded(&mut self.child, PATIENCE);
        assert!(ended, "the program did not end; it shows:\n{}", self.text());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Ended already in a test that went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
