//! Verbs on images.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use hyper::Method;
use insula_api::{
    BuildImage, CollectedImages, DefaultImage, ExportFormat, ExportImage, ImageDiff, ImageLock, ImageUsage, ImageView,
    ImportImage, NewImage, Operation, TestReport, VerifyReport, paths,
};
use insula_model::{ImageId, ImageRef, Stage};
use jiff::Timestamp;
use rustix::fs::FileType;
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::{Session, absolute, each, image_signature, operation};
use crate::args::{
    DiffArgs, ExportArgs, ImageCommand, ImageDefaultArgs, ImageIdArgs, ImageIdsArgs, ImageListArgs, ImageRefArgs,
    ImageRefsArgs, ImportArgs, RecipeArgs,
};
use crate::client::{ClientError, with_query};
use crate::failure::Failure;
use crate::foreground::send_file;
use crate::render::{Cell, Table, age, print, size, tell};
use crate::text_file;

/// Largest recipe, in bytes.
const RECIPE_BYTES_MAX: u64 = 1 << 20;

/// Does `command`.
pub(super) async fn execute(session: &mut Session, command: ImageCommand) -> Result<u8, Failure> {
    match command {
        ImageCommand::Import(args) => import(session, args).await,
        ImageCommand::Build(args) => build(session, args).await,
        ImageCommand::Lock(args) => lock(session, args).await,
        ImageCommand::List(args) => list(session, args).await,
        ImageCommand::Show(args) => show(session, args).await,
        ImageCommand::Verify(args) => verify(session, args).await,
        ImageCommand::Test(args) => test(session, args).await,
        ImageCommand::Promote(args) => promote(session, args).await,
        ImageCommand::Sign(args) => image_signature::sign(session, args).await,
        ImageCommand::Keys => image_signature::keys(session).await,
        ImageCommand::Default(args) => default(session, args).await,
        ImageCommand::Diff(args) => diff(session, args).await,
        ImageCommand::Usage(args) => usage(session, args).await,
        ImageCommand::Remove(args) => remove(session, args).await,
        ImageCommand::Gc => gc(session).await,
        ImageCommand::Export(args) => export(session, args).await,
    }
}

pub(super) fn verb_path(image: &ImageId, verb: &str) -> String {
    paths::image_verb(image.name.as_str(), image.version.as_str(), verb)
}

/// The result of a request that is answered with an operation, or at once.
async fn result_of<T: DeserializeOwned>(
    session: &mut Session,
    path: &str,
    answer: serde_json::Value,
) -> Result<T, Failure> {
    match serde_json::from_value::<Operation>(answer.clone()) {
        Ok(started) => operation::finish(session, started).await,
        Err(_) => serde_json::from_value(answer)
            .map_err(|source| ClientError::Unexpected { method: Method::POST, path: path.to_owned(), source }.into()),
    }
}

async fn post_for<T: DeserializeOwned>(session: &mut Session, path: &str) -> Result<T, Failure> {
    let answer: serde_json::Value = session.client.post(path, &serde_json::json!({})).await?;
    result_of(session, path, answer).await
}

/// Starts an operation that works on a file of ours, hands the file over, and waits for the result.
async fn transfer<B: Serialize, T: DeserializeOwned>(
    session: &mut Session,
    path: &str,
    request: &B,
    file: OwnedFd,
) -> Result<T, Failure> {
    let started: Operation = session.client.post(path, request).await?;
    if let Some(token) = &started.attach_token {
        send_file(session.client.socket(), token, file.as_fd())?;
    }
    drop(file);
    operation::finish(session, started).await
}

async fn import(session: &mut Session, args: ImportArgs) -> Result<u8, Failure> {
    let file = if args.path == Path::new("-") {
        own(std::io::stdin().as_fd(), &args.path)?
    } else {
        File::open(&args.path).map(OwnedFd::from).map_err(|source| Failure::File {
            action: "open",
            path: args.path.clone(),
            source,
        })?
    };
    check_source(&file, &args.path)?;
    let request = ImportImage { reference: args.reference, ..ImportImage::default() };
    let new: NewImage = transfer(session, &verb_path(&args.image, "import"), &request, file).await?;
    print_new(session, &new)
}

/// Refuses here what the node would refuse without knowing its name.
fn check_source(file: &OwnedFd, path: &Path) -> Result<(), Failure> {
    let found = rustix::fs::fstat(file).map_err(|errno| Failure::File {
        action: "look at",
        path: path.to_owned(),
        source: errno.into(),
    })?;
    if !matches!(FileType::from_raw_mode(found.st_mode), FileType::CharacterDevice | FileType::BlockDevice) {
        return Ok(());
    }
    let argument = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
    Err(Failure::Argument {
        argument,
        reason: "a device or terminal holds no image".to_owned(),
        remedy: Some("give an archive, a directory or a pipe".to_owned()),
    })
}

fn own(fd: std::os::fd::BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Failure> {
    fd.try_clone_to_owned().map_err(|source| Failure::File { action: "open", path: path.to_owned(), source })
}

/// The name of an image that was made; everything about it when programs ask.
fn print_new(session: &Session, new: &NewImage) -> Result<u8, Failure> {
    for warning in &new.warnings {
        tell(&format!("warning: {warning}"));
    }
    print_image(session, &new.image)
}

pub(super) fn print_image(session: &Session, view: &ImageView) -> Result<u8, Failure> {
    if session.printer.is_for_people() {
        print(&format!("{}\n", view.image))?;
    } else {
        session.printer.value(view, &views(std::slice::from_ref(view)))?;
    }
    Ok(0)
}

pub(super) async fn view(session: &mut Session, image: &ImageId) -> Result<ImageView, Failure> {
    Ok(session.client.get(&paths::image(image.name.as_str(), image.version.as_str())).await?)
}

/// What the node has by this reference: its version, else the default one of its name.
async fn view_meant(session: &mut Session, image: &ImageRef) -> Result<ImageView, Failure> {
    let name = image.name.as_str();
    let path = image
        .version
        .as_ref()
        .map_or_else(|| paths::image_default(name), |version| paths::image(name, version.as_str()));
    Ok(session.client.get(&path).await?)
}

/// The version that `image` means: its own, else the default one of its name.
async fn meant(session: &mut Session, image: &ImageRef) -> Result<ImageId, Failure> {
    match image.version.clone() {
        Some(version) => Ok(ImageId { name: image.name.clone(), version }),
        None => Ok(view_meant(session, image).await?.image),
    }
}

async fn build(session: &mut Session, args: RecipeArgs) -> Result<u8, Failure> {
    let path = absolute(&args.recipe)?;
    let recipe = text_file::read(&args.recipe, RECIPE_BYTES_MAX)?;
    let directory = path.parent().unwrap_or(Path::new("/")).to_string_lossy().into_owned();
    let request = BuildImage { recipe, directory, locked: args.locked };
    let started: Result<Operation, ClientError> = session.client.post(paths::IMAGE_BUILD, &request).await;
    let started = started.map_err(|error| named(error, &args.recipe))?;
    let new: NewImage = operation::finish(session, started).await?;
    print_new(session, &new)
}

/// What is wrong with a recipe, with the name of its file, which the node does not know.
fn named(error: ClientError, recipe: &Path) -> ClientError {
    match error {
        ClientError::Refused(mut problem) => {
            if let Some(rest) = problem.detail.strip_prefix("recipe: ") {
                problem.detail = format!("recipe {}: {rest}", recipe.display());
            }
            ClientError::Refused(problem)
        }
        other => other,
    }
}

async fn lock(session: &mut Session, args: ImageRefArgs) -> Result<u8, Failure> {
    let image = meant(session, &args.image).await?;
    let lock: ImageLock = session.client.get(&verb_path(&image, "lock")).await?;
    if session.printer.is_for_people() {
        print(&lock.lock)?;
    } else {
        let mut table = Table::new(["IMAGE", "LOCK"]);
        table.push([Cell::from(lock.image.to_string()), Cell::from(lock.lock.as_str())]);
        session.printer.value(&lock, &table)?;
    }
    Ok(0)
}

fn wanted(view: &ImageView, images: &[ImageRef]) -> bool {
    images.is_empty()
        || images.iter().any(|image| {
            image.name == view.name && image.version.as_ref().is_none_or(|version| *version == view.version)
        })
}

async fn chosen(session: &mut Session, images: &[ImageRef]) -> Result<Vec<ImageView>, Failure> {
    let all: Vec<ImageView> = session.client.get(paths::IMAGES).await?;
    Ok(all.into_iter().filter(|view| wanted(view, images)).collect())
}

async fn list(session: &mut Session, args: ImageListArgs) -> Result<u8, Failure> {
    let found = chosen(session, &args.images).await?;
    session.printer.listing(&found, &views(&found))?;
    Ok(0)
}

fn views(found: &[ImageView]) -> Table {
    let now = Timestamp::now();
    let mut table =
        Table::new(["IMAGE", "STAGE", "DEFAULT", "SIZE", "ENTRIES", "TESTED", "CREATED", "USED BY", "DAMAGED"]);
    for view in found {
        let tested = view.test.as_ref().map(|test| if test.passed { "passed" } else { "failed" });
        table.push([
            Cell::from(view.image.to_string()),
            Cell::from(stage(view.stage)),
            Cell::two(if view.default { "yes" } else { "-" }, view.default.to_string()),
            Cell::two(size(view.size.0), view.size.0.to_string()),
            Cell::from(view.entries.to_string()),
            Cell::optional(tested),
            Cell::two(format!("{} ago", age(view.created, now)), view.created.to_string()),
            Cell::from(view.used_by.len().to_string()),
            Cell::optional(view.damaged.as_ref()),
        ]);
    }
    table
}

pub(super) fn stage(stage: Stage) -> &'static str {
    match stage {
        Stage::Testing => "testing",
        Stage::Production => "production",
    }
}

async fn show(session: &mut Session, args: ImageRefsArgs) -> Result<u8, Failure> {
    let mut found = Vec::new();
    for image in &args.images {
        found.push(view_meant(session, image).await?);
    }
    let mut table = Table::new(["FIELD", "VALUE"]);
    found.iter().for_each(|view| details(&mut table, view));
    match &found[..] {
        [view] => session.printer.value(view, &table)?,
        found => session.printer.listing(found, &table)?,
    }
    Ok(0)
}

fn details(table: &mut Table, view: &ImageView) {
    let mut row = |field: &str, value: Cell| table.push([Cell::from(field), value]);
    row("image", Cell::from(view.image.to_string()));
    row("stage", Cell::from(stage(view.stage)));
    row("default", Cell::from(view.default.to_string()));
    row("digest", Cell::from(view.digest.to_string()));
    row("tree digest", Cell::from(view.tree_digest.to_string()));
    row("size", Cell::two(size(view.size.0), view.size.0.to_string()));
    row("entries", Cell::from(view.entries.to_string()));
    row("created", Cell::from(view.created.to_string()));
    row("signature", Cell::from(image_signature::words(&view.signature)));
    row("damaged", Cell::optional(view.damaged.as_ref()));
    row("entrypoint", Cell::from(view.config.entrypoint.join(" ")));
    row("command", Cell::from(view.config.cmd.join(" ")));
    row("init", Cell::optional(view.config.init.as_ref()));
    row("user", Cell::optional(view.config.user.as_ref()));
    row("workdir", Cell::optional(view.config.workdir.as_ref()));
    for (key, value) in &view.config.env {
        row("env", Cell::from(format!("{key}={value}")));
    }
    for check in view.test.iter().flat_map(|test| &test.checks) {
        row("check", Cell::from(check.as_str()));
    }
    row("used by", Cell::from(view.used_by.join(" ")));
}

async fn verify(session: &mut Session, args: ImageRefArgs) -> Result<u8, Failure> {
    let image = meant(session, &args.image).await?;
    let report: VerifyReport = post_for(session, &verb_path(&image, "verify")).await?;
    let mut table = Table::new(["IMAGE", "INTACT", "READ", "DAMAGED", "SIGNATURE"]);
    table.push([
        Cell::from(report.image.to_string()),
        Cell::two(if report.intact { "yes" } else { "no" }, report.intact.to_string()),
        Cell::two(size(report.bytes), report.bytes.to_string()),
        Cell::from(report.damaged.join(" ")),
        Cell::from(image_signature::words(&report.signature)),
    ]);
    session.printer.value(&report, &table)?;
    if report.intact && report.signature.accepted {
        return Ok(0);
    }
    if report.intact {
        return Err(Failure::Negative {
            finding: format!("signature of image {}: {}", report.image, image_signature::words(&report.signature)),
            remedy: Some(format!("its bytes are right; `insula image sign {}` vouches for it", report.image)),
        });
    }
    Err(Failure::Negative {
        finding: format!("image {} is damaged: {}", report.image, report.damaged.join(", ")),
        remedy: Some("remove it and build or import it again; containers do not start from it".to_owned()),
    })
}

async fn test(session: &mut Session, args: ImageRefArgs) -> Result<u8, Failure> {
    let image = meant(session, &args.image).await?;
    let report: TestReport = post_for(session, &verb_path(&image, "test")).await?;
    let mut table = Table::new(["CHECK"]);
    report.checks.iter().for_each(|check| table.push([Cell::from(check.as_str())]));
    session.printer.value(&report, &table)?;
    if report.passed {
        return Ok(0);
    }
    Err(Failure::Negative {
        finding: format!("image {image} did not pass its checks"),
        remedy: Some("mend the recipe and build another version; this one cannot be promoted".to_owned()),
    })
}

async fn promote(session: &mut Session, args: ImageIdArgs) -> Result<u8, Failure> {
    let _: IgnoredAny = session.client.post(&verb_path(&args.image, "promote"), &serde_json::json!({})).await?;
    let view = view(session, &args.image).await?;
    print_image(session, &view)
}

async fn default(session: &mut Session, args: ImageDefaultArgs) -> Result<u8, Failure> {
    let request = DefaultImage { version: args.version.clone() };
    let path = paths::image_default(args.name.as_str());
    let _: IgnoredAny = session.client.call(Method::PUT, &path, Some(&request)).await?;
    let view = view(session, &ImageId { name: args.name, version: args.version }).await?;
    print_image(session, &view)
}

async fn diff(session: &mut Session, args: DiffArgs) -> Result<u8, Failure> {
    let path = with_query(&verb_path(&args.from, "diff"), &[("to", Some(args.to.to_string()))]);
    let diff: ImageDiff = session.client.get(&path).await?;
    let mut table = Table::new(["CHANGE", "WHAT"]);
    for change in &diff.changes {
        let kind = serde_json::to_value(change.change).ok().and_then(|value| value.as_str().map(str::to_owned));
        table.push([Cell::from(kind.unwrap_or_default()), Cell::from(change.path.as_str())]);
    }
    for (kind, lines) in [("package", &diff.packages), ("config", &diff.config)] {
        for line in lines {
            table.push([Cell::from(kind), Cell::from(line.as_str())]);
        }
    }
    session.printer.value(&diff, &table)?;
    Ok(0)
}

async fn usage(session: &mut Session, args: ImageListArgs) -> Result<u8, Failure> {
    let mut all: Vec<ImageUsage> = Vec::new();
    for view in chosen(session, &args.images).await? {
        all.push(session.client.get(&verb_path(&view.image, "usage")).await?);
    }
    let mut table = Table::new(["IMAGE", "DISK", "MEMORY", "TWICE", "RUNNING", "CONTAINERS"]);
    for usage in &all {
        table.push([
            Cell::from(usage.image.to_string()),
            Cell::two(size(usage.disk_bytes), usage.disk_bytes.to_string()),
            bytes_or_none(usage.mount_cached_bytes),
            bytes_or_none(usage.cached_bytes),
            Cell::from(usage.running.to_string()),
            Cell::from(usage.containers.join(" ")),
        ]);
    }
    session.printer.listing(&all, &table)?;
    Ok(0)
}

fn bytes_or_none(bytes: Option<u64>) -> Cell {
    bytes.map_or_else(|| Cell::two("-", ""), |bytes| Cell::two(size(bytes), bytes.to_string()))
}

async fn remove(session: &Session, args: ImageIdsArgs) -> Result<u8, Failure> {
    let names: Vec<String> = args.images.iter().map(ToString::to_string).collect();
    let work = |name: String| async move {
        // It was parsed once already.
        let image: ImageId = name.parse().map_err(|_| Failure::argument(name, "is not NAME@VERSION"))?;
        let path = paths::image(image.name.as_str(), image.version.as_str());
        let _: IgnoredAny = session.client.another().call(Method::DELETE, &path, None::<&()>).await?;
        Ok(())
    };
    each(&names, work, |name, ()| print(&format!("{name}\n"))).await
}

async fn gc(session: &mut Session) -> Result<u8, Failure> {
    let collected: CollectedImages = post_for(session, paths::IMAGE_GC).await?;
    let mut table = Table::new(["REMOVED"]);
    collected.removed.iter().for_each(|image| table.push([Cell::from(image.to_string())]));
    session.printer.value(&collected, &table)?;
    if session.printer.is_for_people() {
        tell(&format!("{} freed, {} versions kept", size(collected.freed_bytes), collected.kept.len()));
    }
    Ok(0)
}

async fn export(session: &mut Session, args: ExportArgs) -> Result<u8, Failure> {
    let format = args.form.map_or_else(|| guessed_format(&args.path), |form| Ok(form.into()))?;
    let image = meant(session, &args.image).await?;
    let path = verb_path(&image, "export");
    let request = ExportImage { format, path: None };
    if args.path == Path::new("-") {
        let out = own(std::io::stdout().as_fd(), &args.path)?;
        return exported(transfer(session, &path, &request, out).await);
    }
    if format == ExportFormat::OciDirectory {
        std::fs::create_dir_all(&args.path).map_err(|source| Failure::File {
            action: "create",
            path: args.path.clone(),
            source,
        })?;
        let mut entries = std::fs::read_dir(&args.path).map_err(|source| Failure::File {
            action: "read",
            path: args.path.clone(),
            source,
        })?;
        if entries.next().is_some() {
            return Err(Failure::Argument {
                argument: args.path.display().to_string(),
                reason: "the directory is not empty".to_owned(),
                remedy: Some("name a new one, or end the name with .tar for an archive".to_owned()),
            });
        }
        let directory = File::open(&args.path).map_err(|source| Failure::File {
            action: "open",
            path: args.path.clone(),
            source,
        })?;
        return exported(transfer(session, &path, &request, directory.into()).await);
    }
    let create = |path: &Path| {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path);
        file.map_err(|source| Failure::File { action: "create", path: path.to_owned(), source })
    };
    // A pipe or a device is written to, and must not be replaced by a file.
    if args.path.metadata().is_ok_and(|found| !found.is_file()) {
        return exported(transfer(session, &path, &request, create(&args.path)?.into()).await);
    }
    // Written beside and renamed, so that a file of that name is whole or the one that was there before.
    let partial = partial_name(&args.path);
    let file = create(&partial)?;
    let written = exported(transfer(session, &path, &request, file.into()).await);
    let renamed = written.and_then(|code| {
        std::fs::rename(&partial, &args.path).map(|()| code).map_err(|source| Failure::File {
            action: "write",
            path: args.path.clone(),
            source,
        })
    });
    if renamed.is_err() {
        // The failure is what the user has to hear of.
        let _ = std::fs::remove_file(&partial);
    }
    renamed
}

/// What an export results in beside its file is of no use here.
fn exported(result: Result<IgnoredAny, Failure>) -> Result<u8, Failure> {
    result.map(|_| 0)
}

fn partial_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

/// By the target: a directory gets a layout, a file an archive compressed as its name says, standard output a plain one.
fn guessed_format(path: &Path) -> Result<ExportFormat, Failure> {
    let name = path.as_os_str().as_encoded_bytes();
    if path.is_dir() || name.ends_with(b"/") {
        return Ok(ExportFormat::OciDirectory);
    }
    let forms: [(&[u8], ExportFormat); 5] = [
        (b".tar", ExportFormat::Tar),
        (b".tar.gz", ExportFormat::TarGz),
        (b".tgz", ExportFormat::TarGz),
        (b".tar.zst", ExportFormat::TarZst),
        (b"-", ExportFormat::Tar),
    ];
    let form = forms.into_iter().find(|(end, _)| if *end == b"-" { name == *end } else { name.ends_with(end) });
    form.map(|(_, form)| form).ok_or_else(|| Failure::Argument {
        argument: path.display().to_string(),
        reason: "its name does not say which form it is to have".to_owned(),
        remedy: Some("end it with .tar, .tar.gz, .tar.zst or / (an OCI layout), or say it with --as".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_an_export_follows_from_its_target() {
        for (path, format) in [
            ("/tmp", ExportFormat::OciDirectory),
            ("new/", ExportFormat::OciDirectory),
            ("a.tar", ExportFormat::Tar),
            ("a.tar.gz", ExportFormat::TarGz),
            ("a.tgz", ExportFormat::TarGz),
            ("a.tar.zst", ExportFormat::TarZst),
            ("-", ExportFormat::Tar),
        ] {
            assert_eq!(guessed_format(Path::new(path)).unwrap(), format, "{path}");
        }
        for path in ["a.zip", "a.tar.xz", "a", "a-"] {
            assert_eq!(guessed_format(Path::new(path)).unwrap_err().exit_code(), 2, "{path}");
        }
    }
}
