//! Imports in a process of their own: whatever parses foreign bytes has nothing to lose and nothing to win.
//!
//! ```text
//!  daemon ── spawn /proc/self/exe as "insula-import" ──> worker
//!    │  Order + source, image, spool, hand-over file ──>   │ confine: ids, capabilities, limits, Landlock, filter
//!    │ <── Progress … Done | Refused                       │ convert
//!    │  SIGKILL (always, also when it is done)             x
//!    └─ read the hand-over file, check every word of it, publish
//! ```
//!
//! The worker is the daemon's own program, so it is of the same build also while the program on disk is being
//! replaced. It is started with `posix_spawn`, since the daemon has threads and must not fork; all that it takes from
//! itself it therefore takes after exec, before it looks at the first foreign byte. It can read its source, write its
//! three files, answer, and end.

mod confine;
mod conversation;
mod serve;

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use insula_api::ProblemCode;
use insula_image::convert::{
    CheckConvertedError, Conversion, Convert, ConvertError, Converted, Refusal, check_converted,
};
use insula_image::erofs::ContentsSum;
use insula_image::manifest::UnpublishedImage;
use insula_image::progress::{Cancelled, Watch};
use insula_plan::protocol::channel::{Channel, ReceiveError, SendError, Wait};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use conversation::{Fault, Order, Word};

pub use serve::serve_import;

/// Name of the process in lists of processes, and the first word of its command line: by it a program that contains
/// the node knows that it is to call [`serve_import`].
pub const IMPORT_WORKER: &str = "insula-import";

/// How often a silent worker is left waiting to look whether somebody cancelled.
const CANCEL_LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Most bytes of a manifest that is taken from a worker.
const MANIFEST_BYTES_MAX: u64 = 512 << 20;

/// Converts each source in a process without privileges.
#[derive(Debug)]
pub(crate) struct ImportWorker {
    /// User and group id of the process: one that nobody else has now.
    pub(crate) id: u32,
    /// The node's state directory, by which its processes are told from others'.
    pub(crate) state_dir: PathBuf,
}

/// Something of this machine kept a worker from its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkerError {
    /// It could not be started.
    #[error("start the import worker")]
    Start(#[source] io::Error),
    /// It could not be told what to do.
    #[error("tell the import worker what to do")]
    Tell(#[source] SendError),
    /// It said something that is no part of the conversation.
    #[error("the import worker broke off")]
    Speech(#[source] ReceiveError),
    /// It ended without an answer.
    #[error("the import worker {}; nothing of the image is left", ending(*.0))]
    Ended(ExitStatus),
    /// It came upon a defect of its own.
    #[error("the import worker failed; this is a defect of insula")]
    Defect(#[source] Refusal),
    /// It could not do something that does not depend on the source.
    #[error("the import worker cannot work on this machine")]
    Machine(#[source] Refusal),
    /// The disk is full.
    #[error("the disk of the image store is full")]
    DiskFull(#[source] Refusal),
    /// What it handed over could not be read.
    #[error("read what the import worker handed over")]
    HandOver(#[source] io::Error),
    /// What it handed over is wrong.
    #[error("what the import worker handed over is wrong; the source may have been made to attack it")]
    Result(#[source] CheckConvertedError),
}

impl From<WorkerError> for ConvertError {
    fn from(error: WorkerError) -> Self {
        Self::Worker(Box::new(error))
    }
}

/// What it is for whoever asked, that a worker could not do its work.
pub(crate) fn worker_code(error: &(dyn std::error::Error + Send + Sync + 'static)) -> ProblemCode {
    match error.downcast_ref() {
        Some(WorkerError::DiskFull(_)) => ProblemCode::Admission,
        _ => ProblemCode::Internal,
    }
}

/// How a process ended, in words.
fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code} and without an answer"),
        (_, Some(signal @ 6)) => format!("was ended by signal {signal}, as when it needs more memory than it may have"),
        (_, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended without an answer".to_owned(),
    }
}

impl Convert for ImportWorker {
    fn convert(&self, mut conversion: Conversion, watch: Watch<'_>) -> Result<Converted, ConvertError> {
        let (ours, theirs) = Channel::pair().map_err(|errno| WorkerError::Start(errno.into()))?;
        let worker = Worker::start(theirs.into_socket(), self)?;
        let heard = tell(&ours, &Order::of(&conversion, self.id), &conversion).and_then(|()| listen(&ours, watch));
        // It has ended before anything that it wrote is looked at.
        let status = worker.end().map_err(WorkerError::Start)?;
        let (dropped_attributes, contents) = match heard {
            Err(Silence::Gone) => return Err(WorkerError::Ended(status).into()),
            Err(Silence::Error(error)) => return Err(error),
            Ok(heard) => heard,
        };
        let bytes = read_all(&mut conversion.hand_over).map_err(WorkerError::HandOver)?;
        let checked = check_converted(&conversion.id, &bytes, &conversion.image, &conversion.order.limits);
        let manifest = checked.map_err(WorkerError::Result)?;
        Ok(Converted { image: UnpublishedImage { manifest, contents }, dropped_attributes })
    }
}

/// A running worker: killed and waited for, however this ends.
struct Worker(Child);

impl Worker {
    fn start(socket: OwnedFd, what: &ImportWorker) -> Result<Self, WorkerError> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0(IMPORT_WORKER).arg(&what.state_dir).env_clear().current_dir("/");
        command.stdin(Stdio::from(socket)).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map(Self).map_err(WorkerError::Start)
    }

    fn end(mut self) -> io::Result<ExitStatus> {
        // One that has begun to end by itself keeps its own status.
        self.0.kill()?;
        self.0.wait()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Both do nothing when it has been waited for; there is nobody to tell in a drop.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Why no result was heard.
enum Silence {
    /// The worker closed its end.
    Gone,
    /// For a reason that has a name.
    Error(ConvertError),
}

impl From<WorkerError> for Silence {
    fn from(error: WorkerError) -> Self {
        Self::Error(error.into())
    }
}

fn tell(channel: &Channel, order: &Order, conversion: &Conversion) -> Result<(), Silence> {
    let Conversion { source, image, spool, hand_over, .. } = conversion;
    let files = [source, image, spool, hand_over].map(File::as_fd);
    match channel.send(order, &files, Wait::Forever) {
        Err(SendError::Closed) => Err(Silence::Gone),
        sent => Ok(sent.map_err(WorkerError::Tell)?),
    }
}

/// Hears the worker out; gives the number of attributes that it dropped, and the sum of the contents it wrote.
fn listen(channel: &Channel, watch: Watch<'_>) -> Result<(u64, ContentsSum), Silence> {
    loop {
        if (watch.cancelled)() {
            return Err(Silence::Error(Cancelled.into()));
        }
        match poll(&mut [PollFd::new(channel, PollFlags::IN)], Some(&CANCEL_LOOK)) {
            Ok(0) | Err(Errno::INTR) => continue,
            Ok(_) => {}
            Err(errno) => return Err(WorkerError::Speech(ReceiveError::Kernel(errno)).into()),
        }
        match channel.receive::<Word>(Wait::Never).map(|received| received.message) {
            Ok(Word::Progress(progress)) => (watch.progress)(progress.into()),
            Ok(Word::Done { dropped_attributes, contents }) => return Ok((dropped_attributes, ContentsSum(contents))),
            Ok(Word::Refused { fault, messages }) => return Err(Silence::Error(refused(fault, messages))),
            Err(ReceiveError::WouldBlock) => {}
            Err(ReceiveError::Closed) => return Err(Silence::Gone),
            Err(error) => return Err(WorkerError::Speech(error).into()),
        }
    }
}

fn refused(fault: Fault, messages: Vec<String>) -> ConvertError {
    let refusal = conversation::refusal(messages);
    match fault {
        Fault::Source => ConvertError::Refused(refusal),
        Fault::DiskFull => WorkerError::DiskFull(refusal).into(),
        Fault::Machine => WorkerError::Machine(refusal).into(),
        Fault::Defect => WorkerError::Defect(refusal).into(),
    }
}

fn read_all(file: &mut File) -> io::Result<Vec<u8>> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(MANIFEST_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}
