//! The image store, for the API: its blocking work as operations, its errors as problems, its index in the catalog.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use insula_api::{
    ChangedPath, CollectedImages, EventSubject, ExportFormat, ImageDiff, ImageLock, ImageUsage, ImageView, ImportImage,
    NewImage, PathChange, Problem, ProblemCode, TestReport, VerifyReport,
};
use insula_image::TreeLimits;
use insula_image::archive::Compression;
use insula_image::convert::{Convert, ConvertError};
use insula_image::diff::{self, PathChangeKind};
use insula_image::manifest::Manifest;
use insula_image::oci::LayerCompression;
use insula_image::progress::{self, BootstrapStep, Phase, Watch};
use insula_image::recipe::{BuildRequest, CommandRunner, PackageLock, Recipe};
use insula_image::store::{
    self, ChangeImageError, ExportCause, ExportError, ImageSummary, ImportCause, ImportError, ImportRequest,
    OpenStoreError, RemoveCause, Store, TestOutcome,
};
use insula_image::time_zone::expect_time_zone;
use insula_model::{Bytes, ImageId};
use jiff::Timestamp;

use crate::catalog::Catalog;
use crate::config::Config;
use crate::events::{About, Events};
use crate::image_build;
use crate::image_signing::signature_view;
use crate::import_worker::worker_code;
use crate::operations::Progress;
use crate::room::Room;

/// Pause between two tries to remove what a killed daemon's operations left.
const LEFTOVERS_PAUSE: Duration = Duration::from_millis(200);
/// How often that is tried: as long as a program that was told to stop may take.
const LEFTOVERS_TRIES: u32 = 200;

/// Image versions of this node, on the disk.
#[derive(Debug)]
pub(crate) struct Images {
    state_dir: PathBuf,
    room: Room,
    store: Arc<Store>,
    events: Arc<Events>,
}

impl Images {
    /// Opens the store in the state directory; what is not as it should be is logged.
    ///
    /// # Errors
    ///
    /// Another program has it, or its directories or keys cannot be used.
    pub(crate) fn open(config: &Config, events: Arc<Events>) -> Result<Self, OpenStoreError> {
        let state_dir = &config.state_dir;
        let (store, warnings) = Store::open(&state_dir.join("images"), &config.images.signing(state_dir))?;
        for warning in warnings {
            tracing::warn!(%warning, "image store");
        }
        let room = Room::new(config.capacity.disk_reserve, state_dir);
        Ok(Self { state_dir: state_dir.clone(), room, store: Arc::new(store), events })
    }

    /// Room on the disk for more.
    pub(crate) fn room(&self) -> &Room {
        &self.room
    }

    /// The store itself, for mounts.
    pub(crate) fn store(&self) -> Arc<Store> {
        self.store.clone()
    }

    /// Removes what operations of a killed daemon left, now that nothing of theirs runs any more. Blocks.
    pub(crate) fn remove_leftovers(&self) {
        for _ in 0..LEFTOVERS_TRIES {
            match self.store.remove_leftovers() {
                Ok(true) => return,
                Ok(false) => std::thread::sleep(LEFTOVERS_PAUSE),
                Err(error) => return tracing::warn!(error = &error as &dyn std::error::Error, "image store"),
            }
        }
        tracing::warn!("image store: something still writes into unfinished images of an earlier daemon");
    }

    /// Brings the catalog up to what the store knows.
    pub(crate) fn publish(&self, catalog: &Catalog) {
        catalog.replace(self.store.list().iter().map(|summary| view(&self.store, summary)).collect());
    }

    /// Tells everybody that a version is damaged.
    pub(crate) fn tell_damage(&self, image: &ImageId, damage: &[String], running: u64) {
        let what = damage.join(", ");
        tracing::error!(%image, what, running, "damaged: no container starts from it any more");
        let about = About { subject: EventSubject::Image, name: &image.to_string(), id: None };
        self.events.publish(about, "damaged", &[("what", what), ("running", running.to_string())]);
    }

    pub(crate) fn event(&self, image: &ImageId, action: &str) {
        let about = About { subject: EventSubject::Image, name: &image.to_string(), id: None };
        self.events.publish(about, action, &[]);
    }

    /// Imports `source` as `image`; `converter` reads it. Blocks.
    ///
    /// # Errors
    ///
    /// What is at fault in the source, or the disk is nearly full; nothing of the image is left then.
    pub(crate) fn import(
        &self,
        image: &ImageId,
        (source, request): (OwnedFd, ImportImage),
        converter: Box<dyn Convert>,
        progress: &Progress,
    ) -> Result<NewImage, Problem> {
        let mut import = ImportRequest::of(File::from(source));
        import.config = request.config;
        import.mount_plan = request.mount_plan;
        import.reference = request.reference;
        import.converter = converter;
        let importing = |cancelled: &dyn Fn() -> bool| {
            let work = |watch: Watch<'_>| self.store.import(image, import, Timestamp::now(), watch);
            watched(progress, cancelled, work).map_err(|error| self.import_problem(&error))
        };
        let imported = self.room.keep(image, || progress.is_cancelled(), importing)?;
        self.event(image, "published");
        let mut warnings: Vec<String> = imported.problems.iter().map(ToString::to_string).collect();
        warnings.extend(dropped_attributes(imported.dropped_attributes));
        Ok(NewImage { image: self.show(image)?, warnings })
    }

    /// Builds `recipe`, whose relative paths start in `directory`, with the packages of `lock` if there is one;
    /// `converter` reads its archive. Blocks.
    ///
    /// # Errors
    ///
    /// What is at fault in the recipe, its sources or its commands, or the disk is nearly full; nothing of the image is
    /// left then.
    pub(crate) fn build(
        &self,
        (recipe, directory, lock): (&Recipe, &Path, Option<&PackageLock>),
        runner: &mut dyn CommandRunner,
        converter: &dyn Convert,
        progress: &Progress,
    ) -> Result<NewImage, Problem> {
        let request = BuildRequest { recipe, directory, limits: TreeLimits::standard(), converter, lock };
        let building = |cancelled: &dyn Fn() -> bool| {
            let work = |watch: Watch<'_>| self.store.build(&request, Some(runner), Timestamp::now(), watch);
            watched(progress, cancelled, work).map_err(|error| image_build::problem(&error))
        };
        let built = self.room.keep(&recipe.id, || progress.is_cancelled(), building)?;
        self.event(&recipe.id, "published");
        let mut warnings: Vec<String> = built.published.warnings.iter().map(ToString::to_string).collect();
        warnings.extend(dropped_attributes(built.dropped_attributes));
        Ok(NewImage { image: self.show(&recipe.id)?, warnings })
    }

    fn import_problem(&self, error: &ImportError) -> Problem {
        let code = import_code(error);
        let problem = Problem::from_chain(code, error);
        match code {
            ProblemCode::Admission => problem.with_remedy(format!(
                "nothing of the image is left; free space on the file system of {}, for instance by `insula image gc`",
                self.state_dir.join("images").display()
            )),
            ProblemCode::Invalid => {
                problem.with_remedy("nothing of the image is left; mend the source and import it again")
            }
            _ => problem,
        }
    }

    /// Writes `image` to `target`. Blocks.
    ///
    /// # Errors
    ///
    /// What is at fault; the target may hold a part of it.
    pub(crate) fn export(
        &self,
        image: &ImageId,
        (format, target): (ExportFormat, OwnedFd),
        progress: &Progress,
    ) -> Result<u64, Problem> {
        let format = match format {
            ExportFormat::Tar => store::ExportFormat::Tar(Compression::None),
            ExportFormat::TarGz => store::ExportFormat::Tar(Compression::Gzip),
            ExportFormat::TarZst => store::ExportFormat::Tar(Compression::Zstd),
            ExportFormat::OciDirectory | ExportFormat::OciArchive => store::ExportFormat::Oci(LayerCompression::Gzip),
        };
        let target = File::from(target);
        let cancelled = || progress.is_cancelled();
        let written = watched(progress, &cancelled, |watch| self.store.export(image, format, &target, watch));
        written.map(|bytes| bytes.0).map_err(|error: ExportError| {
            let code = match &error.cause {
                ExportCause::Cancelled(_) => ProblemCode::Cancelled,
                ExportCause::TargetIsDirectory => ProblemCode::Invalid,
                ExportCause::Manifest(_) => ProblemCode::NotFound,
                _ => ProblemCode::Internal,
            };
            Problem::from_chain(code, &error)
        })
    }

    /// Compares every byte. Blocks.
    ///
    /// # Errors
    ///
    /// The comparison could not be done; damage is no error.
    pub(crate) fn verify(&self, image: &ImageId, progress: &Progress) -> Result<VerifyReport, Problem> {
        use store::VerifyError;
        let cancelled = || progress.is_cancelled();
        let compared = watched(progress, &cancelled, |watch| self.store.verify(image, Timestamp::now(), watch));
        let report = compared.map_err(|error| {
            let code = match &error {
                VerifyError::Unknown(_) => ProblemCode::NotFound,
                VerifyError::Cancelled { .. } => ProblemCode::Cancelled,
                VerifyError::File { .. } => ProblemCode::Internal,
            };
            Problem::from_chain(code, &error)
        })?;
        let intact = report.damage.is_empty();
        if !intact {
            self.event(image, "damaged");
        }
        let damaged = report.damage.iter().map(ToString::to_string).collect();
        let stage = self.show(image)?.stage;
        let signature = signature_view(&self.store, (image, stage), report.signature);
        Ok(VerifyReport { image: report.id, intact, bytes: report.bytes, damaged, signature })
    }

    /// Moves a tested version to production. Blocks: its bytes are compared first.
    ///
    /// # Errors
    ///
    /// It was never tested, its test failed, or it is there already.
    pub(crate) fn promote(&self, image: &ImageId) -> Result<ImageView, Problem> {
        self.store.promote(image, Timestamp::now(), Watch::nobody()).map_err(|error| change_problem(&error))?;
        self.event(image, "promoted");
        self.show(image)
    }

    /// Makes a version the one that its bare name means. Blocks.
    ///
    /// # Errors
    ///
    /// It is not there.
    pub(crate) fn set_default(&self, image: &ImageId) -> Result<ImageView, Problem> {
        self.store.set_default(image).map_err(|error| change_problem(&error))?;
        self.event(image, "default");
        self.show(image)
    }

    /// Records a test. Blocks.
    ///
    /// # Errors
    ///
    /// It is not there.
    pub(crate) fn record_test(&self, image: &ImageId, report: store::TestReport) -> Result<TestReport, Problem> {
        let shown = test_report(&report);
        self.store.record_test(image, report).map_err(|error| change_problem(&error))?;
        self.event(image, "tested");
        Ok(shown)
    }

    /// Removes a version that no container needs; the caller has made sure. Blocks.
    ///
    /// # Errors
    ///
    /// It is not there, in use, or the default beside others.
    pub(crate) fn remove(&self, image: &ImageId) -> Result<(), Problem> {
        self.store.remove(image).map_err(|error| {
            let code = match &error.cause {
                RemoveCause::Unknown(_) => ProblemCode::NotFound,
                RemoveCause::InUse | RemoveCause::Default => ProblemCode::Conflict,
                RemoveCause::File(_) => ProblemCode::Internal,
            };
            Problem::from_chain(code, &error)
        })?;
        self.event(image, "removed");
        Ok(())
    }

    /// Removes every version that is neither in `live`, nor a default, nor in use. Blocks.
    ///
    /// # Errors
    ///
    /// A version could not be removed.
    pub(crate) fn gc(&self, live: &BTreeSet<ImageId>) -> Result<CollectedImages, Problem> {
        let collected = self.store.gc(live).map_err(|error| Problem::from_chain(ProblemCode::Internal, &error))?;
        let freed_bytes = collected.freed().0;
        let removed: Vec<ImageId> = collected.removed.into_iter().map(|(image, _)| image).collect();
        for image in &removed {
            self.event(image, "removed");
        }
        Ok(CollectedImages { removed, kept: collected.kept.into_iter().collect(), freed_bytes })
    }

    /// The packages of a version, as a lock. Blocks.
    ///
    /// # Errors
    ///
    /// It is not there, or no packages are recorded in it.
    pub(crate) fn lock_of(&self, image: &ImageId) -> Result<ImageLock, Problem> {
        let manifest = self.manifest(image)?;
        let lock = PackageLock::of(&manifest).ok_or_else(|| {
            let detail = format!("image {image} has no packages of a distribution, so there is nothing to lock");
            Problem::new(ProblemCode::NotSupported, detail)
        })?;
        Ok(ImageLock { image: image.clone(), lock: lock.to_text(image) })
    }

    fn manifest(&self, image: &ImageId) -> Result<Manifest, Problem> {
        self.store.manifest(image).map_err(|error| {
            let code = match &error {
                store::ReadManifestError::Unknown(_) => ProblemCode::NotFound,
                _ => ProblemCode::Internal,
            };
            Problem::from_chain(code, &error)
        })
    }

    /// Whether `image` has the time zone that a container asks for. Blocks.
    ///
    /// # Errors
    ///
    /// It has others.
    pub(crate) fn expect_time_zone(&self, image: &ImageId, zone: &str) -> Result<(), Problem> {
        // Of an image that cannot be read the start says why.
        let Ok(manifest) = self.manifest(image) else { return Ok(()) };
        expect_time_zone(&manifest.tree, zone).map_err(|error| {
            let mut problem = Problem::from_chain(ProblemCode::Invalid, &error);
            problem.detail = format!("image {image}: {}", problem.detail);
            problem
        })
    }

    /// What differs between two versions. Blocks.
    ///
    /// # Errors
    ///
    /// One of them is not there.
    pub(crate) fn diff(&self, from: &ImageId, to: &ImageId) -> Result<ImageDiff, Problem> {
        Ok(image_diff(&diff::diff(&self.manifest(from)?, &self.manifest(to)?)))
    }

    /// What a version costs; `mount` is the root of its mount. Blocks.
    ///
    /// # Errors
    ///
    /// It is not there.
    pub(crate) fn usage(&self, image: &ImageId, mount: Option<&OwnedFd>) -> Result<ImageUsage, Problem> {
        let usage = self
            .store
            .usage(image, mount.map(AsFd::as_fd))
            .map_err(|error| Problem::from_chain(ProblemCode::NotFound, &error))?;
        Ok(ImageUsage {
            image: usage.id,
            disk_bytes: usage.disk.0,
            cached_bytes: usage.cached.map(|cached| cached.0),
            mount_cached_bytes: usage.mount_cached.map(|cached| cached.0),
            running: 0,
            containers: Vec::new(),
        })
    }

    pub(crate) fn show(&self, image: &ImageId) -> Result<ImageView, Problem> {
        let summary = self.store.show(image).map_err(|error| Problem::from_chain(ProblemCode::NotFound, &error))?;
        Ok(view(&self.store, &summary))
    }
}

fn dropped_attributes(number: u64) -> Option<String> {
    (number > 0).then(|| format!("{number} extended attributes that an image cannot hold were left out"))
}

/// Runs blocking work of the store with an operation's progress, for as long as it is not `cancelled`.
fn watched<T>(progress: &Progress, cancelled: &dyn Fn() -> bool, work: impl FnOnce(Watch<'_>) -> T) -> T {
    let report = |now: progress::Progress| {
        if let (Phase::Run, Some(steps)) = (now.phase, now.total) {
            // Commands are counted, not bytes.
            return progress.report(&format!("running command {} of {}", now.done.0 + 1, steps.0), 0, None);
        }
        let phase = match now.phase {
            Phase::Bootstrap(step) => bootstrapping(step),
            Phase::Import => "importing",
            Phase::Run => "running commands",
            Phase::Verify => "verifying",
            Phase::Export => "exporting",
        };
        progress.report(phase, now.done.0, now.total.map(|total| total.0));
    };
    work(Watch { progress: &report, cancelled })
}

/// What is shown while mmdebstrap works.
fn bootstrapping(step: BootstrapStep) -> &'static str {
    match step {
        BootstrapStep::Begin => "bootstrapping",
        BootstrapStep::Lists => "bootstrapping: fetching the lists of packages",
        BootstrapStep::Download => "bootstrapping: downloading packages",
        BootstrapStep::Extract => "bootstrapping: extracting packages",
        BootstrapStep::Essential => "bootstrapping: installing essential packages",
        BootstrapStep::Install => "bootstrapping: installing the other packages",
        BootstrapStep::Clean => "bootstrapping: cleaning up",
        BootstrapStep::Pack => "bootstrapping: packing",
    }
}

fn import_code(error: &ImportError) -> ProblemCode {
    let chain = std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source());
    let kinds = chain.filter_map(|error| error.downcast_ref::<std::io::Error>()).map(std::io::Error::kind);
    let is_full = |kind| matches!(kind, std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
    match &*error.cause {
        ImportCause::Begin(store::BeginError::Exists { .. } | store::BeginError::InFlight { .. }) => {
            ProblemCode::Conflict
        }
        ImportCause::Cancelled(_) => ProblemCode::Cancelled,
        ImportCause::Convert(ConvertError::Worker(error)) => worker_code(&**error),
        _ if kinds.into_iter().any(is_full) => ProblemCode::Admission,
        ImportCause::Begin(_) | ImportCause::File(_) | ImportCause::Publish(_) => ProblemCode::Internal,
        _ => ProblemCode::Invalid,
    }
}

pub(crate) fn change_problem(error: &ChangeImageError) -> Problem {
    let code = match error {
        ChangeImageError::Unknown(_) => ProblemCode::NotFound,
        ChangeImageError::Promote { .. } | ChangeImageError::Damaged { .. } | ChangeImageError::Signature(_) => {
            ProblemCode::Conflict
        }
        _ => ProblemCode::Internal,
    };
    Problem::from_chain(code, error)
}

fn view(store: &Store, summary: &ImageSummary) -> ImageView {
    let info = &summary.info;
    ImageView {
        image: info.id.clone(),
        name: info.id.name.clone(),
        version: info.id.version.clone(),
        default: summary.is_default,
        stage: summary.stage.stage,
        digest: info.digest,
        tree_digest: info.tree_digest,
        size: Bytes(info.file.bytes),
        entries: u64::try_from(info.entries).unwrap_or(u64::MAX),
        created: summary.stage.published,
        signature: signature_view(store, (&info.id, summary.stage.stage), summary.signature),
        damaged: summary.damage.as_ref().map(|damage| damage.what.clone()),
        config: info.config.clone(),
        mount_plan: info.mount_plan.clone(),
        test: summary.stage.test.as_ref().map(test_report),
        used_by: Vec::new(),
    }
}

fn test_report(report: &store::TestReport) -> TestReport {
    let line = |check: &store::CheckResult| {
        let code = check.exit_code.map_or_else(|| "never ended".to_owned(), |code| format!("exit code {code}"));
        format!("{}: {code} after {} ms", check.command.join(" "), check.duration_ms)
    };
    let note = Some(report.note.clone()).filter(|note| !note.is_empty());
    TestReport {
        passed: report.outcome == TestOutcome::Passed,
        time: report.finished,
        checks: report.checks.iter().map(line).chain(note).collect(),
    }
}

fn image_diff(found: &diff::ImageDiff) -> ImageDiff {
    let change = |kind| match kind {
        PathChangeKind::Added => PathChange::Added,
        PathChangeKind::Removed => PathChange::Removed,
        PathChangeKind::Content => PathChange::Content,
        PathChangeKind::Attributes => PathChange::Metadata,
    };
    let unset = || "unset".to_owned();
    ImageDiff {
        from: found.from.clone(),
        to: found.to.clone(),
        changes: found
            .paths
            .iter()
            .map(|path| ChangedPath { path: path.path.to_string(), change: change(path.kind) })
            .collect(),
        packages: found
            .packages
            .iter()
            .map(|package| {
                let (from, to) = (package.from.clone().unwrap_or_else(|| "-".to_owned()), package.to.clone());
                format!("{} {from} -> {}", package.name, to.unwrap_or_else(|| "-".to_owned()))
            })
            .collect(),
        config: found
            .settings
            .iter()
            .map(|setting| {
                let (from, to) = (setting.from.clone().unwrap_or_else(unset), setting.to.clone().unwrap_or_else(unset));
                format!("{}: {from} -> {to}", setting.field)
            })
            .collect(),
    }
}
