//! Files of a container as tar streams.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use bytes::Bytes;
use futures_util::StreamExt;
use insula_api::{ArchiveQuery, Problem, ProblemCode};
use rustix::io::Errno;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Shared;
use super::extract::{Path, Query, Refusal};
use crate::container::command::{Answer, Command};
use crate::container::handle::ContainerHandle;
use crate::container::snapshot::Snapshot;
use crate::context::Context;
use crate::files::{ContainerFiles, CopyError};

/// Pieces that wait between the two sides.
const PIECES_MAX: usize = 8;
/// Bytes of a piece.
const PIECE_BYTES: usize = 64 * 1_024;

/// Longest wait for a container that is being started or cleaned up.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(10);
/// Longest time in which the rest of a refused archive is taken, so that its sender comes to read why.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);

async fn files(context: &Context, handle: &ContainerHandle) -> Result<ContainerFiles, Problem> {
    let snapshot = settled(handle, |now| now.is_up() || now.is_at_rest()).await;
    if snapshot.is_up() {
        match context.host.open_root(handle.id).await {
            Ok(root) => return Ok(ContainerFiles::new(root, snapshot.record.ids)),
            // It is just ending.
            Err(problem) if problem.code == ProblemCode::Conflict => settled(handle, Snapshot::is_at_rest).await,
            Err(problem) => return Err(problem),
        };
    }
    let name = &snapshot.record.name;
    match handle.send(|answer| Command::Lend { answer }).await? {
        Answer::Files(lent) => {
            ContainerFiles::lent(lent, snapshot.record.ids).map_err(|error| problem(name.as_str(), &error))
        }
        answer => Err(Problem::new(ProblemCode::Internal, format!("container {name} answered {answer:?}"))),
    }
}

/// The container when `condition` holds; what takes longer is refused by the driver, which knows what is under way.
async fn settled(handle: &ContainerHandle, condition: impl FnMut(&Snapshot) -> bool) -> Arc<Snapshot> {
    let settled = handle.wait_for(condition);
    tokio::time::timeout(SETTLE_TIME_MAX, settled).await.unwrap_or_else(|_| handle.snapshot())
}

fn problem(name: &str, error: &CopyError) -> Problem {
    let code = match error {
        CopyError::Inside { errno: Errno::NOENT | Errno::NOTDIR, .. } => ProblemCode::NotFound,
        CopyError::Inside { errno: Errno::ROFS | Errno::ISDIR | Errno::EXIST, .. } => ProblemCode::Conflict,
        CopyError::Passing { .. } | CopyError::Image { .. } => ProblemCode::Conflict,
        CopyError::Archive(error) if error.raw_os_error().is_none() => ProblemCode::Invalid,
        CopyError::Inside { .. } | CopyError::Archive(_) => ProblemCode::Internal,
        CopyError::Kind { .. } | CopyError::Depth { .. } | CopyError::Entry { .. } | CopyError::Several { .. } => {
            ProblemCode::Invalid
        }
    };
    let mut problem = Problem::from_chain(code, error);
    problem.detail = format!("container {name}: {}", problem.detail);
    match error {
        CopyError::Passing { .. } => problem.with_remedy(format!("copy below /data, or `insula start {name}` first")),
        CopyError::Image { .. } | CopyError::Inside { errno: Errno::ROFS, .. } => {
            problem.with_remedy("copy below /data, or create the container with --root writable")
        }
        CopyError::Several { .. } => problem.with_remedy("make that directory first, or name one that is there"),
        CopyError::Archive(error) if error.raw_os_error().is_none() => {
            problem.with_remedy("give a whole tar archive, such as `tar c FILE` writes, not compressed")
        }
        _ => problem,
    }
}

/// A file or directory of a container as a tar archive with one entry at its top. A copy that fails on the
/// way breaks the connection off.
#[utoipa::path(get, path = "/v1/containers/{name}/archive", tag = "containers",
    params(("name" = String, Path, description = "Name or id"), ArchiveQuery), responses(
    (status = 200, description = "The archive", body = Vec<u8>, content_type = "application/x-tar"),
    (status = 404, description = "Nothing is there", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn read(
    State(context): Shared,
    Path(name): Path<String>,
    Query(query): Query<ArchiveQuery>,
) -> Result<impl IntoResponse, Refusal> {
    let handle = context.directory.find(&name)?;
    let files = files(&context, &handle).await?;
    let (sender, mut receiver) = mpsc::channel(PIECES_MAX);
    let reading = tokio::task::spawn_blocking(move || {
        let mut pieces = Pieces { sender, waiting: Vec::with_capacity(PIECE_BYTES) };
        let done = files.read_archive(&query.path, &mut pieces);
        // Given back before the last piece, so that who has it all can start the container.
        drop(files);
        let done = done.and_then(|()| pieces.flush().map_err(CopyError::Archive));
        if let Err(error) = &done {
            // Ends the answer before its time, so that half an archive is not taken for a whole one.
            pieces.sender.blocking_send(Err(io::Error::other(error.to_string()))).ok();
        }
        done
    });
    // What fails before the first piece is still a problem and not a broken answer.
    let first = match receiver.recv().await {
        Some(Ok(first)) => first,
        Some(Err(_)) | None => match reading.await {
            Ok(Err(error)) => return Err(problem(&name, &error).into()),
            _ => Bytes::new(),
        },
    };
    let rest = tokio_stream::once(Ok(first)).chain(ReceiverStream::new(receiver));
    Ok(([(header::CONTENT_TYPE, "application/x-tar")], Body::from_stream(rest)))
}

/// Unpacks a tar archive into a directory of a container, or, when there is none of this path, as that path.
#[utoipa::path(put, path = "/v1/containers/{name}/archive", tag = "containers",
    params(("name" = String, Path, description = "Name or id"), ArchiveQuery),
    request_body(content = Vec<u8>, content_type = "application/x-tar"), responses(
    (status = 204, description = "Unpacked"),
    (status = 404, description = "The directory is not there", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn write(
    State(context): Shared,
    Path(name): Path<String>,
    Query(query): Query<ArchiveQuery>,
    body: Body,
) -> Result<StatusCode, Refusal> {
    let handle = context.directory.find(&name)?;
    let mut pieces = body.into_data_stream();
    let files = match files(&context, &handle).await {
        Ok(files) => files,
        Err(problem) => {
            drain(&mut pieces).await;
            return Err(problem.into());
        }
    };
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    let writing = tokio::task::spawn_blocking(move || {
        files.write_archive(&query.path, &mut Received { receiver, piece: Bytes::new() })
    });
    while let Some(piece) = pieces.next().await {
        // The other side has failed and says so below.
        if sender.send(piece.map_err(io::Error::other)).await.is_err() {
            break;
        }
    }
    drop(sender);
    let written = writing.await.map_err(|_| Problem::new(ProblemCode::Internal, "the copy did not come to its end"))?;
    if let Err(error) = written {
        drain(&mut pieces).await;
        return Err(problem(&name, &error).into());
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn drain(pieces: &mut BodyDataStream) {
    let all = async { while let Some(Ok(_)) = pieces.next().await {} };
    tokio::time::timeout(DRAIN_TIME_MAX, all).await.ok();
}

/// Takes an archive and passes it on in pieces.
struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    waiting: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.waiting, Vec::with_capacity(PIECE_BYTES));
        self.sender.blocking_send(Ok(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Reads what arrives in pieces.
struct Received {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}
