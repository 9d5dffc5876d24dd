//! A container's log as lines: what the keeper wrote, read while it is written.
//!
//! Reading happens on threads for blocking work, one piece at a time; a client that does not read stops it. With
//! `follow` a change of the log's directory (inotify) or the container's end wakes the reader; nothing is polled. An end
//! after which a restart or the container's policy starts it again is not the log's.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use insula_api::{LogLine, LogStream};
use insula_plan::protocol::keeper;
use insula_plan::protocol::log::{LogContent, LogRecord};
use insula_plan::protocol::log_reader::{LogReader, ReadLogError};
use jiff::Timestamp;
use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::attach::server::watch;
use crate::container::handle::ContainerHandle;

/// Pieces that wait for a client.
const PIECES_MAX: usize = 8;
/// Most lines that `tail` keeps in memory; the log has bounds of its own.
const TAIL_LINES_MAX: u64 = 1_000_000;

/// Which part of a log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// Go on until the container has ended and nothing starts it again.
    pub(crate) follow: bool,
    /// Only what is younger.
    pub(crate) since: Option<Timestamp>,
    /// Only so many of the last lines there are now.
    pub(crate) tail: Option<u64>,
}

/// Reads the log in `directory` of the container behind `handle`: pieces of JSON lines.
pub(crate) fn read(
    directory: PathBuf,
    handle: ContainerHandle,
    wanted: Wanted,
) -> mpsc::Receiver<Result<Bytes, io::Error>> {
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    tokio::spawn(async move {
        if let Err(error) = send_all(&directory, &handle, wanted, &sender).await {
            // Who reads may be gone; then nobody needs the error.
            sender.send(Err(error)).await.ok();
        }
    });
    receiver
}

async fn send_all(
    directory: &Path,
    handle: &ContainerHandle,
    wanted: Wanted,
    sender: &mpsc::Sender<Result<Bytes, io::Error>>,
) -> Result<(), io::Error> {
    // Watched before the first read, so that nothing is missed in between.
    let changes = if wanted.follow { watch_directory(directory)? } else { None };
    let mut reader = LogReader::from_start(directory);
    let mut tail = wanted.tail.map(|lines| Tail { lines: lines.min(TAIL_LINES_MAX), kept: VecDeque::new() });
    loop {
        let (ended, was_up) = {
            let now = handle.snapshot();
            (now.is_over(), now.is_up())
        };
        loop {
            let (back, piece) = next_piece(reader, wanted.since).await?;
            reader = back;
            let Some(lines) = piece else { break };
            match &mut tail {
                Some(tail) => tail.keep(lines),
                None if !send(sender, lines).await => return Ok(()),
                None => {}
            }
        }
        if let Some(tail) = tail.take()
            && !send(sender, tail.kept.into()).await
        {
            return Ok(());
        }
        let Some(changes) = changes.as_ref().filter(|_| !ended) else { return Ok(()) };
        tokio::select! {
            ready = changes.readable() => drain(changes, ready?)?,
            // Read at once when it ends: what goes when it ends takes its log along.
            _ = handle.wait_for(|now| now.is_over() || now.is_up() != was_up) => {}
            () = sender.closed() => return Ok(()),
        }
    }
}

struct Tail {
    lines: u64,
    kept: VecDeque<LogLine>,
}

impl Tail {
    fn keep(&mut self, lines: Vec<LogLine>) {
        self.kept.extend(lines);
        while self.kept.len() as u64 > self.lines {
            self.kept.pop_front();
        }
    }
}

/// The next records as lines; `None` when everything was read.
async fn next_piece(
    mut reader: LogReader,
    since: Option<Timestamp>,
) -> Result<(LogReader, Option<Vec<LogLine>>), io::Error> {
    let work = move || {
        let mut lines = Vec::new();
        let mut lost = 0;
        let given = reader.read(|record| collect(&mut lines, &mut lost, &record));
        if let Some(since) = since {
            lines.retain(|line| line.time >= since);
        }
        given.map(|given| (reader, given.then_some(lines)))
    };
    let read = tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?;
    read.map_err(|error: ReadLogError| io::Error::other(error))
}

fn collect(lines: &mut Vec<LogLine>, lost: &mut u64, record: &LogRecord<'_>) {
    match record.content {
        LogContent::Lost { bytes } => *lost += bytes,
        LogContent::Written { stream, bytes } => lines.push(LogLine {
            time: Timestamp::from_nanosecond(i128::from(record.at.0)).unwrap_or(Timestamp::UNIX_EPOCH),
            stream: match stream {
                keeper::LogStream::Output => LogStream::Stdout,
                keeper::LogStream::Error => LogStream::Stderr,
            },
            text: String::from_utf8_lossy(bytes).into_owned(),
            lost_bytes: Some(std::mem::take(lost)).filter(|lost| *lost > 0),
        }),
    }
}

/// Whether the client still reads.
async fn send(sender: &mpsc::Sender<Result<Bytes, io::Error>>, lines: Vec<LogLine>) -> bool {
    let mut text = Vec::new();
    for line in &lines {
        if serde_json::to_writer(&mut text, line).is_ok() {
            text.push(b'\n');
        }
    }
    text.is_empty() || sender.send(Ok(text.into())).await.is_ok()
}

/// Wakes whenever something in the log's directory changes; `None` when there is no log.
fn watch_directory(directory: &Path) -> Result<Option<AsyncFd<std::os::fd::OwnedFd>>, io::Error> {
    let changes = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let events = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE;
    match inotify::add_watch(&changes, directory, events) {
        Ok(_) => watch(changes).map(Some),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Takes all changes that are there; which ones does not matter.
fn drain(
    changes: &AsyncFd<std::os::fd::OwnedFd>,
    mut ready: tokio::io::unix::AsyncFdReadyGuard<'_, std::os::fd::OwnedFd>,
) -> Result<(), io::Error> {
    let mut buffer = [0; 4_096];
    loop {
        match rustix::io::read(changes, &mut buffer) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                ready.clear_ready();
                return Ok(());
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}
