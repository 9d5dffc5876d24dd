//! Who changed what, when: JSON lines in the state directory, rotated by size.
//!
//! One thread writes; requests hand lines over and never wait for the disk. When more than [`QUEUE_MAX`] lines wait,
//! further ones are dropped and the next line that fits says how many.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use jiff::Timestamp;
use serde::Serialize;

use crate::config::AuditConfig;

/// Lines that may wait for the disk.
const QUEUE_MAX: usize = 4_096;

/// Who asks, as the kernel says.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Caller {
    /// User id.
    pub(crate) uid: u32,
    /// Process id.
    pub(crate) pid: i32,
}

/// One action.
#[derive(Debug, Serialize)]
pub(crate) struct AuditLine {
    /// When.
    pub(crate) time: Timestamp,
    /// Who.
    #[serde(flatten)]
    pub(crate) caller: Option<Caller>,
    /// What, such as `POST`.
    pub(crate) method: String,
    /// On what.
    pub(crate) path: String,
    /// HTTP status.
    pub(crate) status: u16,
    /// Lines lost before this one.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) lost: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Hands lines to the writer.
#[derive(Debug)]
pub(crate) struct Audit {
    lines: mpsc::SyncSender<AuditLine>,
    lost: AtomicU64,
}

impl Audit {
    /// Opens `<state_dir>/audit.log` and starts the writer.
    ///
    /// # Errors
    ///
    /// The file cannot be made.
    pub(crate) fn open(state_dir: &Path, config: AuditConfig) -> std::io::Result<Self> {
        let (lines, waiting) = mpsc::sync_channel(QUEUE_MAX);
        let mut log = Log::open(state_dir.join("audit.log"), config)?;
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || {
            for line in waiting {
                if let Err(error) = log.write(&line) {
                    tracing::error!(%error, "audit log");
                }
            }
        })?;
        Ok(Self { lines, lost: AtomicU64::new(0) })
    }

    /// Notes one action.
    pub(crate) fn note(&self, mut line: AuditLine) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        line.lost = lost;
        if self.lines.try_send(line).is_err() {
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }
}

struct Log {
    path: PathBuf,
    config: AuditConfig,
    file: File,
    bytes: u64,
}

impl Log {
    fn open(path: PathBuf, config: AuditConfig) -> std::io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        rustix::fs::fchmod(&file, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path, config, file, bytes })
    }

    fn write(&mut self, line: &AuditLine) -> std::io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        if self.bytes > 0 && self.bytes + text.len() as u64 > self.config.size.0 {
            self.rotate()?;
        }
        self.bytes += text.len() as u64;
        self.file.write_all(&text)
    }

    /// `audit.log` becomes `audit.log.1`, and so on; the oldest goes.
    fn rotate(&mut self) -> std::io::Result<()> {
        let numbered = |number: u32| PathBuf::from(format!("{}.{number}", self.path.display()));
        for number in (1..self.config.files).rev() {
            match std::fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::rename(&self.path, numbered(1))?;
        *self = Self::open(self.path.clone(), self.config.clone())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use insula_model::Bytes;

    #[test]
    fn the_log_is_rotated_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let mut log = Log::open(path.clone(), AuditConfig { size: Bytes(300), files: 2 }).unwrap();
        for _ in 0..20 {
            let line = AuditLine {
                time: Timestamp::UNIX_EPOCH,
                caller: Some(Caller { uid: 0, pid: 1 }),
                method: "POST".to_owned(),
                path: "/v1/containers".to_owned(),
                status: 200,
                lost: 0,
            };
            log.write(&line).unwrap();
        }
        let mut names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["audit.log", "audit.log.1", "audit.log.2"]);
        assert!(std::fs::metadata(&path).unwrap().len() <= 300);
    }
}
