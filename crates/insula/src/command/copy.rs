//! Files between a container and this machine, as a tar stream through the API.
//!
//! As in the field: into a directory that exists things keep their name, otherwise they get the target's. What comes
//! out of a container is unpacked beneath one directory and nowhere else.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::sync::mpsc;

use super::{Session, verb_path};
use crate::args::CopyArgs;
use crate::client::with_query;
use crate::failure::Failure;

/// Media type of what goes both ways.
const TAR: &str = "application/x-tar";

/// Pieces of an archive that wait between the two sides.
const PIECES_WAITING_MAX: usize = 16;

/// Bytes of one piece.
const PIECE_BYTES: usize = 64 * 1024;

/// One side of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Side {
    Container { name: String, path: String },
    Local(PathBuf),
    Stream,
}

/// `NAME:PATH` unless it is clearly a path of this machine.
fn side(given: &str) -> Side {
    match given.split_once(':') {
        _ if given == "-" => Side::Stream,
        Some((name, path)) if !name.is_empty() && !name.contains('/') && !name.starts_with('.') => {
            let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
            Side::Container { name: name.to_owned(), path }
        }
        _ => Side::Local(PathBuf::from(given)),
    }
}

/// `cp`
pub(super) async fn copy(session: &mut Session, args: CopyArgs) -> Result<u8, Failure> {
    match (side(&args.from), side(&args.to)) {
        (Side::Container { name, path }, Side::Stream) => to_stream(session, &name, &path).await,
        (Side::Container { name, path }, Side::Local(to)) => to_local(session, &name, &path, to).await,
        (Side::Stream, Side::Container { name, path }) => {
            send(session, &name, &path, |pieces| pieces.copy(&mut io::stdin().lock())).await
        }
        (Side::Local(from), Side::Container { name, path }) => {
            // Looked at here already, so that nothing is sent of what cannot be read.
            std::fs::symlink_metadata(&from).map_err(|source| Failure::File {
                action: "read",
                path: from.clone(),
                source,
            })?;
            send(session, &name, &path, move |pieces| pack(&from, pieces)).await
        }
        _ => Err(Failure::Argument {
            argument: "cp".to_owned(),
            reason: "exactly one side has to be in a container".to_owned(),
            remedy: Some("write NAME:PATH for that side, and a path of this machine or - for the other".to_owned()),
        }),
    }
}

fn archive_path(name: &str, path: &str) -> String {
    with_query(&verb_path(name, "archive"), &[("path", Some(path.to_owned()))])
}

async fn to_stream(session: &mut Session, name: &str, path: &str) -> Result<u8, Failure> {
    let mut body = session.client.stream(&archive_path(name, path)).await?;
    let mut out = io::stdout().lock();
    while let Some(piece) = next_piece(&mut body).await? {
        out.write_all(&piece).map_err(Failure::Output)?;
    }
    out.flush().map_err(Failure::Output)?;
    Ok(0)
}

async fn next_piece(body: &mut Incoming) -> Result<Option<Bytes>, Failure> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::Stream(crate::client::StreamError::Broken(error.into())))?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

async fn to_local(session: &mut Session, name: &str, path: &str, to: PathBuf) -> Result<u8, Failure> {
    let mut body = session.client.stream(&archive_path(name, path)).await?;
    let (sender, receiver) = mpsc::channel(PIECES_WAITING_MAX);
    let target = to.clone();
    let unpacking = tokio::task::spawn_blocking(move || unpack(PieceReader::new(receiver), &target));
    while let Some(piece) = next_piece(&mut body).await? {
        if sender.send(piece).await.is_err() {
            // The other side failed; what it says is waited for below.
            break;
        }
    }
    drop(sender);
    let unpacked = unpacking.await.map_err(io::Error::other).flatten();
    unpacked.map_err(|source| Failure::File { action: "write", path: to, source })?;
    Ok(0)
}

/// Unpacks an archive with one entry at its top into the directory `to`, or as `to`.
fn unpack(archive: impl Read, to: &Path) -> io::Result<()> {
    let (directory, new_name) = if to.is_dir() {
        (to.to_owned(), None)
    } else {
        let name = to.file_name().ok_or_else(|| io::Error::other("the target has no name"))?;
        let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        (parent.to_owned(), Some(name.to_owned()))
    };
    let mut archive = tar::Archive::new(archive);
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(true);
    let mut top: Option<PathBuf> = None;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let mut parts = path.components().filter(|part| !matches!(part, Component::CurDir));
        let Some(Component::Normal(first)) = parts.next() else { continue };
        if top.get_or_insert_with(|| PathBuf::from(first)) != Path::new(first) {
            return Err(io::Error::other("the archive has more than one entry at its top"));
        }
        let Some(new_name) = &new_name else {
            entry.unpack_in(&directory)?;
            continue;
        };
        let rest: PathBuf = parts.collect();
        if rest.components().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(io::Error::other(format!("the archive has the entry {}", path.display())));
        }
        if rest.as_os_str().is_empty() && !entry.header().entry_type().is_dir() {
            entry.unpack(directory.join(new_name))?;
        } else {
            std::fs::create_dir_all(directory.join(new_name))?;
            unpack_renamed(&mut entry, &directory.join(new_name), &rest)?;
        }
    }
    Ok(())
}

/// Unpacks an entry of a directory that gets another name, beneath that directory.
fn unpack_renamed<R: Read>(entry: &mut tar::Entry<'_, R>, directory: &Path, rest: &Path) -> io::Result<()> {
    if rest.as_os_str().is_empty() {
        return Ok(());
    }
    let target = directory.join(rest);
    let parent = target.parent().unwrap_or(directory);
    // A symbolic link of the archive must not lead what comes after it elsewhere.
    if !parent.canonicalize()?.starts_with(directory.canonicalize()?) {
        return Err(io::Error::other(format!("{} leads out of the target", rest.display())));
    }
    if std::fs::symlink_metadata(&target).is_ok_and(|found| found.is_symlink()) {
        std::fs::remove_file(&target)?;
    }
    entry.unpack(&target).map(drop)
}

async fn send(
    session: &mut Session,
    name: &str,
    path: &str,
    write: impl FnOnce(Pieces) -> io::Result<()> + Send + 'static,
) -> Result<u8, Failure> {
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(PIECES_WAITING_MAX);
    let pieces = Pieces { sender: sender.clone(), waiting: Vec::new() };
    let packing = tokio::task::spawn_blocking(move || {
        let result = write(pieces);
        if let Err(error) = &result {
            // Breaks the request off, so that the node does not take half an archive for a whole one.
            let _ = sender.blocking_send(Err(io::Error::new(error.kind(), error.to_string())));
        }
        result
    });
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    let body = StreamBody::new(frames.map(|piece| piece.map(Frame::data))).boxed_unsync();
    let sent = session.client.upload(&archive_path(name, path), TAR, body).await;
    match packing.await.map_err(io::Error::other).flatten() {
        // A node that refuses ends the body early; then its answer says why.
        Err(source) if source.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::File { action: "read", path: PathBuf::from("what is copied"), source })
        }
        _ => Ok(sent.map(|()| 0)?),
    }
}

/// Writes a file or directory as an archive with one entry at its top, owned by root.
fn pack(from: &Path, mut pieces: Pieces) -> io::Result<()> {
    let named = if from.file_name().is_some() { from.to_owned() } else { from.canonicalize()? };
    let name = named.file_name().ok_or_else(|| io::Error::other("the root directory has no name"))?;
    let mut builder = tar::Builder::new(&mut pieces);
    builder.follow_symlinks(false);
    append(&mut builder, &named, Path::new(name))?;
    builder.finish()?;
    drop(builder);
    pieces.flush()
}

fn append(builder: &mut tar::Builder<&mut Pieces>, from: &Path, name: &Path) -> io::Result<()> {
    let found = std::fs::symlink_metadata(from)?;
    let mut header = tar::Header::new_gnu();
    header.set_metadata(&found);
    // The owner here is nobody in there.
    header.set_uid(0);
    header.set_gid(0);
    if found.is_symlink() {
        return builder.append_link(&mut header, name, std::fs::read_link(from)?);
    }
    if found.is_dir() {
        builder.append_data(&mut header, name, io::empty())?;
        let mut names: Vec<_> =
            std::fs::read_dir(from)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>()?;
        names.sort();
        return names.into_iter().try_for_each(|inner| append(builder, &from.join(&inner), &name.join(&inner)));
    }
    if !found.is_file() {
        return Err(io::Error::other(format!("{} is neither a file nor a directory nor a link", from.display())));
    }
    let file = File::open(from)?;
    // A file that grows meanwhile is cut at the length that its header names.
    header.set_size(found.len());
    builder.append_data(&mut header, name, file.take(found.len()))
}

/// Where an archive is written to, piece by piece.
struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    waiting: Vec<u8>,
}

impl Pieces {
    fn copy(mut self, from: &mut impl Read) -> io::Result<()> {
        io::copy(from, &mut self)?;
        self.flush()
    }

    fn send(&mut self) -> io::Result<()> {
        let piece = Bytes::from(std::mem::take(&mut self.waiting));
        self.sender.blocking_send(Ok(piece)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= PIECE_BYTES {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() { Ok(()) } else { self.send() }
    }
}

/// Reads an archive that comes in pieces.
struct PieceReader {
    receiver: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl PieceReader {
    fn new(receiver: mpsc::Receiver<Bytes>) -> Self {
        Self { receiver, piece: Bytes::new() }
    }
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let length = self.piece.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(from: &Path) -> Vec<u8> {
        let (sender, mut receiver) = mpsc::channel(1_000);
        pack(from, Pieces { sender, waiting: Vec::new() }).unwrap();
        let mut all = Vec::new();
        while let Ok(piece) = receiver.try_recv() {
            all.extend_from_slice(&piece.unwrap());
        }
        all
    }

    #[test]
    fn a_side_in_a_container_has_a_name_before_the_colon() {
        assert_eq!(side("web:/etc"), Side::Container { name: "web".into(), path: "/etc".into() });
        assert_eq!(side("web:etc"), Side::Container { name: "web".into(), path: "/etc".into() });
        for local in ["/a:b", "./web:x", "a", ":x"] {
            assert_eq!(side(local), Side::Local(local.into()), "{local}");
        }
        assert_eq!(side("-"), Side::Stream);
    }

    #[test]
    fn a_tree_keeps_its_name_in_a_directory_and_gets_the_targets_otherwise() {
        let scratch = tempfile::tempdir().unwrap();
        let from = scratch.path().join("tree");
        std::fs::create_dir_all(from.join("a/b")).unwrap();
        std::fs::write(from.join("a/b/file"), "content").unwrap();
        std::os::unix::fs::symlink("a/b/file", from.join("link")).unwrap();
        let archive = packed(&from);
        let into = scratch.path().join("into");
        std::fs::create_dir(&into).unwrap();
        unpack(&archive[..], &into).unwrap();
        assert_eq!(std::fs::read(into.join("tree/a/b/file")).unwrap(), b"content");
        unpack(&archive[..], &scratch.path().join("other")).unwrap();
        assert_eq!(std::fs::read(scratch.path().join("other/link")).unwrap(), b"content");
        let single = packed(&from.join("a/b/file"));
        unpack(&single[..], &scratch.path().join("renamed")).unwrap();
        assert_eq!(std::fs::read(scratch.path().join("renamed")).unwrap(), b"content");
    }

    fn hostile(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            let data: &[u8] = if *kind == tar::EntryType::Symlink { b"" } else { content.as_bytes() };
            header.set_size(data.len() as u64);
            if *kind == tar::EntryType::Symlink {
                header.set_link_name(content).unwrap();
            }
            // Written by hand: the crate refuses such names.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            builder.append(&header, data).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn an_archive_of_a_container_cannot_write_elsewhere() {
        let scratch = tempfile::tempdir().unwrap();
        let outside = scratch.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        let link = outside.to_str().unwrap();
        let (dir, symlink, file) = (tar::EntryType::Directory, tar::EntryType::Symlink, tar::EntryType::Regular);
        let archives = [
            hostile(&[("t", dir, ""), ("t/l", symlink, link), ("t/l/evil", file, "x")]),
            hostile(&[("t", dir, ""), ("t/../../outside/evil", file, "x")]),
            hostile(&[("t", dir, ""), ("t/l", symlink, &format!("{link}/evil")), ("t/l", file, "x")]),
            hostile(&[("t", dir, ""), ("other", file, "x")]),
        ];
        for (index, archive) in archives.iter().enumerate() {
            let inner = scratch.path().join(format!("inner{index}"));
            std::fs::create_dir(&inner).unwrap();
            // Refused or harmless; what counts is what lies outside.
            let _ = unpack(&archive[..], &inner);
            let _ = unpack(&archive[..], &inner.join("new"));
            assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "archive {index}");
        }
    }
}
