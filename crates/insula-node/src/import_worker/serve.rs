//! The worker's side: be told, confine itself, convert, answer.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::panic::PanicHookInfo;
use std::process::ExitCode;
use std::sync::Arc;

use insula_image::convert::{Conversion, Convert, ConvertError, Converted, InProcess};
use insula_image::erofs::{AddEntryCause, WriteImageError};
use insula_image::progress::{Cancelled, Progress, Watch};
use insula_plan::protocol::channel::{Channel, Received, Wait};

use super::IMPORT_WORKER;
use super::confine::{Access, confine};
use super::conversation::{Fault, Order, Word, messages_of};

/// Carries out the one import that the process on standard input's other end asks for.
///
/// To be called first of all by a program that was started under the name of [`IMPORT_WORKER`]: while there is one
/// thread, and before anything is opened.
#[must_use]
pub fn serve_import() -> ExitCode {
    let Ok(socket) = io::stdin().as_fd().try_clone_to_owned() else { return ExitCode::FAILURE };
    let channel = Arc::new(Channel::from_socket(socket));
    let Ok(Received { message, fds }) = channel.receive::<Order>(Wait::Forever) else { return ExitCode::FAILURE };
    let Ok([source, image, spool, hand_over]) = <[_; 4]>::try_from(fds) else { return ExitCode::FAILURE };
    let files = [source, image, spool, hand_over].map(File::from);
    tell_of_panics(&channel);
    let refused = |failure: Failure| Word::Refused { fault: failure.fault, messages: failure.messages };
    let word = work(message, files, &channel).unwrap_or_else(refused);
    // Nobody is left to hear that nobody listens.
    match channel.send(&word, &[], Wait::Forever) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// A defect is told to the daemon, since there is no other place to write to.
fn tell_of_panics(channel: &Arc<Channel>) {
    let channel = channel.clone();
    std::panic::set_hook(Box::new(move |panic: &PanicHookInfo<'_>| {
        let word = Word::Refused { fault: Fault::Defect, messages: vec![panic.to_string()] };
        // Nobody is left to hear that nobody listens.
        let _ = channel.send(&word, &[], Wait::Forever);
    }));
}

struct Failure {
    fault: Fault,
    messages: Vec<String>,
}

impl Failure {
    fn of(fault: Fault, error: &(dyn std::error::Error + 'static)) -> Self {
        Self { fault, messages: messages_of(error) }
    }
}

fn work(order: Order, files: [File; 4], channel: &Channel) -> Result<Word, Failure> {
    let machine = |error: &(dyn std::error::Error + 'static)| Failure::of(Fault::Machine, error);
    rustix::thread::set_name(&std::ffi::CString::new(IMPORT_WORKER).expect("a name of our own"))
        .map_err(|errno| machine(&errno))?;
    let [source, image, spool, mut hand_over] = files;
    let is_directory = source.metadata().map_err(|error| machine(&error))?.is_dir();
    let access = if is_directory { Access::Beneath(source.as_fd()) } else { Access::Descriptors };
    confine(order.own_id, &order.limits(), &access).map_err(|error| machine(&error))?;
    // From here on nothing is trusted, this process included.
    let (id, order) = order.read().map_err(|error| machine(&error))?;
    let handed = hand_over.try_clone().map_err(|error| machine(&error))?;
    let conversion = Conversion { id, source, image, spool, hand_over: handed, order };
    let is_unheard = std::cell::Cell::new(false);
    let progress = |progress: Progress| {
        let sent = channel.send(&Word::Progress(progress.into()), &[], Wait::Forever);
        is_unheard.set(sent.is_err());
    };
    let watch = Watch { progress: &progress, cancelled: &|| is_unheard.get() };
    let converted = InProcess.convert(conversion, watch).map_err(|error| Failure::of(fault(&error), &error))?;
    let Converted { image, dropped_attributes } = converted;
    image.manifest.write_to(&mut hand_over).map_err(|error| {
        let error = ConvertError::Image(WriteImageError::Write(error));
        Failure::of(fault(&error), &error)
    })?;
    Ok(Word::Done { dropped_attributes, contents: image.contents.0 })
}

/// Who has to do something about an error.
fn fault(error: &ConvertError) -> Fault {
    let chain = std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source());
    let kinds: Vec<_> = chain.filter_map(|error| error.downcast_ref::<io::Error>()).map(io::Error::kind).collect();
    let is_full = |kind: &_| matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    // A thread or memory that the kernel did not give.
    let is_refused = |kind: &_| matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory);
    match error {
        _ if kinds.iter().any(is_full) => Fault::DiskFull,
        _ if kinds.iter().any(is_refused) => Fault::Machine,
        ConvertError::Entry(error) if matches!(error.cause, AddEntryCause::Write(_)) => Fault::Machine,
        ConvertError::Image(WriteImageError::Write(_) | WriteImageError::Metadata(_))
        | ConvertError::Cancelled(Cancelled) => Fault::Machine,
        _ => Fault::Source,
    }
}
