//! Building a recipe into the store.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use insula_model::{Bytes, ImageConfig, ImageId, MountPlan};
use jiff::Timestamp;

use super::accounts::AccountError;
use super::assembly::Assembly;
use super::busybox::{BUSYBOX_PATH, Busybox, BusyboxError};
use super::debian::{Bootstrap, BootstrapError};
use super::lock::{LockMismatch, PackageLock};
use super::parse::{Base, Recipe};
use super::run::{CommandRunner, RunStepError, UPPER_DIR, UnfinishedRoot, WORK_DIR};
use crate::archive::WalkError;
use crate::attributes::Attributes;
use crate::convert::{Conversion, ConversionOrder, Convert, ConvertError, Converted, add_missing_places, unpublished};
use crate::draft::{NewEntry, NewKind, TreeLimits};
use crate::erofs::{AddEntryError, ContentReader, ImageWriter, WriteImageError, WrittenImage};
use crate::manifest::{Package, Provenance, UnpublishedImage};
use crate::mount_target::{MountTargetProblem, mount_target_problems};
use crate::path::{ImagePath, ImagePathError};
use crate::progress::{Cancelled, Phase, Progress, Watch};
use crate::store::{
    BeginError, Incoming, OpenForMountError, PublishError, Published, ReadManifestError, Store, StoreFileError,
};
use crate::time_zone::{UnknownTimeZoneError, expect_time_zone};
use crate::tree::{ImageTree, InodeKind};

/// A recipe to be built.
#[derive(Debug)]
pub struct BuildRequest<'caller> {
    /// What is built.
    pub recipe: &'caller Recipe,
    /// Where relative paths of the recipe start.
    pub directory: &'caller Path,
    /// Bounds on the root.
    pub limits: TreeLimits,
    /// Who reads a base that others made: an archive or a directory.
    pub converter: &'caller dyn Convert,
    /// The packages that it is to have, no more and no less.
    pub lock: Option<&'caller PackageLock>,
}

/// A built version.
#[derive(Debug, Clone)]
pub struct Built {
    /// The version.
    pub published: Published,
    /// Number of packages in it.
    pub packages: usize,
    /// Extended attributes of name spaces that an image cannot hold: they are not in it.
    pub dropped_attributes: u64,
}

/// An image could not be built; nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[error("build image {id}")]
pub struct BuildError {
    /// The version.
    pub id: ImageId,
    /// Why not.
    #[source]
    pub cause: Box<BuildCause>,
}

/// Why an image could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildCause {
    /// Its name is taken.
    #[error(transparent)]
    Begin(#[from] BeginError),
    /// The Debian base could not be made.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// There is no usable busybox.
    #[error(transparent)]
    Busybox(#[from] BusyboxError),
    /// What it says of the time is not known to it.
    #[error(transparent)]
    TimeZone(#[from] UnknownTimeZoneError),
    /// The base image cannot be read.
    #[error(transparent)]
    BaseManifest(#[from] ReadManifestError),
    /// The base image is damaged.
    #[error(transparent)]
    BaseImage(#[from] OpenForMountError),
    /// The base archive or directory is at fault, or whoever converts it failed.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// What the commands left cannot be an image.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// A file that the recipe names, or one of the base that a build reads.
    #[error("read {name}")]
    Source {
        /// Its name.
        name: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A path that no image can have.
    #[error("path `{}`", given.escape_debug())]
    Path {
        /// What was given.
        given: String,
        /// Why not.
        #[source]
        source: ImagePathError,
    },
    /// A user cannot be added.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// An entry cannot be part of an image, or the disk is full.
    #[error(transparent)]
    Entry(#[from] AddEntryError),
    /// The whole cannot be an image, or the disk is full.
    #[error(transparent)]
    Image(#[from] WriteImageError),
    /// The recipe has commands, and nobody is here to run them.
    #[error("the recipe has commands, and this program runs no containers; build it on a node")]
    NoRunner,
    /// A command failed.
    #[error("step {number} of {steps}")]
    Run {
        /// Which, counted from 1.
        number: usize,
        /// How many commands the recipe has.
        steps: usize,
        /// Why.
        #[source]
        source: RunStepError,
    },
    /// What the commands left cannot be read.
    #[error("read what the commands left")]
    Merged(#[source] RunStepError),
    /// It has other packages than it is to have.
    #[error(transparent)]
    Lock(#[from] LockMismatch),
    /// A writable place is no directory of the root.
    #[error(transparent)]
    MountTarget(#[from] MountTargetProblem),
    /// A file of the store could not be used.
    #[error(transparent)]
    File(#[from] StoreFileError),
    /// It could not be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// It was asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// What the base says beside its entries.
#[derive(Default)]
struct BaseFacts {
    config: Option<ImageConfig>,
    mount_plan: Option<MountPlan>,
    /// Packages with the digests that the base's own build recorded.
    packages: Vec<Package>,
    dropped_attributes: u64,
}

impl Store {
    /// Builds a recipe and publishes the result. Without a runner, recipes with commands are refused.
    ///
    /// # Errors
    ///
    /// Names what is at fault; see [`BuildCause`]. Nothing of the image is left then.
    pub fn build(
        &self,
        request: &BuildRequest<'_>,
        runner: Option<&mut dyn CommandRunner>,
        now: Timestamp,
        watch: Watch<'_>,
    ) -> Result<Built, BuildError> {
        let build = Build { store: self, request, now, watch };
        build.run(runner).map_err(|cause| {
            let cause = if watch.is_cancelled() { BuildCause::Cancelled(Cancelled) } else { cause };
            BuildError { id: request.recipe.id.clone(), cause: Box::new(cause) }
        })
    }
}

/// One build.
struct Build<'build> {
    store: &'build Store,
    request: &'build BuildRequest<'build>,
    now: Timestamp,
    watch: Watch<'build>,
}

/// Name of the image that commands run over, in the operation's own directory.
const UNFINISHED_IMAGE: &str = "unfinished.erofs";

impl Build<'_> {
    fn recipe(&self) -> &Recipe {
        self.request.recipe
    }

    fn run(&self, runner: Option<&mut dyn CommandRunner>) -> Result<Built, BuildCause> {
        let recipe = self.recipe();
        if runner.is_none() && !recipe.run.is_empty() {
            return Err(BuildCause::NoRunner);
        }
        let incoming = self.store.begin(&recipe.id)?;
        let has_commands = !recipe.run.is_empty();
        let first =
            if has_commands { incoming.create_work_file(UNFINISHED_IMAGE)? } else { incoming.create_image_file()? };
        let mut assembly = Assembly::new(ImageWriter::new(first, self.request.limits.clone())?, recipe);
        let facts = self.add_base(&mut assembly, &incoming)?;
        let directory = self.open_source(Path::new("."))?;
        assembly.add_recipe(recipe, directory.as_fd())?;
        let config = facts.config.map_or_else(|| recipe.config.clone(), |base| overlay_config(base, &recipe.config));
        let mount_plan = recipe.mount_plan.clone().or(facts.mount_plan).unwrap_or_else(MountPlan::default_plan);
        let mut archive = assembly.take_archive();
        archive.add_recorded(&facts.packages);
        let (mut image, mut packages) = finish(assembly, &mount_plan)?;
        let mut dropped_attributes = facts.dropped_attributes;
        if let Some(runner) = runner.filter(|_| has_commands) {
            drop(image);
            (image, packages, dropped_attributes) = self.run_commands(runner, &incoming, &config, &mount_plan)?;
        }
        for package in &mut packages {
            package.sha256 = archive.digest_of(package);
        }
        if let Some(lock) = self.request.lock {
            lock.check(&packages, &archive)?;
        }
        let image = self.unpublished(image, packages, config, mount_plan);
        let manifest = &image.manifest;
        if let Some(problem) = mount_target_problems(&manifest.tree, &manifest.mount_plan).into_iter().next() {
            return Err(problem.into());
        }
        if let Some(zone) = &manifest.config.timezone {
            expect_time_zone(&manifest.tree, zone)?;
        }
        let packages = manifest.provenance.packages.len();
        let published = self.store.publish(incoming, image, self.now, self.watch)?;
        Ok(Built { published, packages, dropped_attributes })
    }

    fn unpublished(
        &self,
        image: WrittenImage,
        packages: Vec<Package>,
        config: ImageConfig,
        mount_plan: MountPlan,
    ) -> UnpublishedImage {
        let provenance = Provenance {
            archive: None,
            recipe: Some(self.recipe().digest()),
            source_date_epoch: Some(self.recipe().source_date_epoch),
            packages,
        };
        unpublished(self.recipe().id.clone(), image, provenance, config, mount_plan)
    }

    fn add_base(&self, assembly: &mut Assembly, incoming: &Incoming) -> Result<BaseFacts, BuildCause> {
        match &self.recipe().base {
            Base::Debian(base) => {
                let inputs = (self.recipe().source_date_epoch, self.request.lock);
                let bootstrap = Bootstrap::start(base, inputs, &incoming.work_dir())?;
                let archive = bootstrap.archive().map_err(BootstrapError::Run)?;
                let read = self.add_foreign(assembly, incoming, archive, &|| Phase::Bootstrap(bootstrap.step()));
                // Its own words come before what a broken-off archive looks like; after anything else it is stopped.
                match read {
                    Ok(facts) => bootstrap.finish().map(|()| facts).map_err(BuildCause::from),
                    Err(BuildCause::Convert(error)) if error.is_of_the_source() && !self.watch.is_cancelled() => {
                        bootstrap.finish()?;
                        Err(error.into())
                    }
                    Err(error) => Err(error),
                }
            }
            Base::Directory(path) | Base::Tar(path) => {
                let source = self.open_source(Path::new(path))?;
                self.add_foreign(assembly, incoming, source, &|| Phase::Import)
            }
            Base::Busybox(path) => {
                add_busybox(assembly, Path::new(path))?;
                Ok(BaseFacts::default())
            }
            Base::Image(id) => self.add_image(assembly, id),
        }
    }

    /// Adds what a foreign archive or directory holds. It is made an image first, by whoever may read foreign bytes, and
    /// only that image is read here: one more write of the base, for a parser less in this process.
    fn add_foreign(
        &self,
        assembly: &mut Assembly,
        incoming: &Incoming,
        source: File,
        phase: &dyn Fn() -> Phase,
    ) -> Result<BaseFacts, BuildCause> {
        let told = Cell::new(phase());
        self.watch.report(told.get(), 0, None)?;
        let file = incoming.create_work_file("base.erofs")?;
        let image = file.try_clone().map_err(WriteImageError::Write)?;
        let conversion = Conversion {
            id: self.recipe().id.clone(),
            source,
            image: file,
            spool: incoming.create_work_file("base.tar")?,
            hand_over: incoming.create_work_file("base.cbor")?,
            order: ConversionOrder {
                limits: self.request.limits.clone(),
                mount_plan: self.recipe().mount_plan.clone(),
                reference: None,
            },
        };
        let progress = |progress: Progress| {
            told.set(phase());
            (self.watch.progress)(Progress { phase: told.get(), ..progress });
        };
        // Asked often, also as long as nothing comes to read.
        let cancelled = || {
            let now = phase();
            if told.replace(now) != now {
                (self.watch.progress)(Progress { phase: now, done: Bytes(0), total: None });
            }
            (self.watch.cancelled)()
        };
        let watch = Watch { progress: &progress, cancelled: &cancelled };
        let converted = self.request.converter.convert(conversion, watch)?;
        let Converted { image: UnpublishedImage { manifest, .. }, dropped_attributes } = converted;
        self.add_tree(assembly, &manifest.tree, &image)?;
        let (config, mount_plan) = (Some(manifest.config), Some(manifest.mount_plan));
        Ok(BaseFacts { config, mount_plan, packages: Vec::new(), dropped_attributes })
    }

    fn add_image(&self, assembly: &mut Assembly, id: &ImageId) -> Result<BaseFacts, BuildCause> {
        let _hold = self.store.hold(id).map_err(ReadManifestError::from)?;
        let base = self.store.manifest(id)?;
        let image = File::from(self.store.open_for_mount(id, self.now, self.watch)?.fd);
        self.add_tree(assembly, &base.tree, &image)?;
        let (config, mount_plan) = (Some(base.config), Some(base.mount_plan));
        Ok(BaseFacts { config, mount_plan, packages: base.provenance.packages, dropped_attributes: 0 })
    }

    fn add_tree(&self, assembly: &mut Assembly, tree: &ImageTree, image: &File) -> Result<(), BuildCause> {
        let total = tree.content_bytes();
        let mut done = 0;
        for item in tree.iter() {
            let attributes = item.inode.attributes.clone();
            let path = item.path.clone();
            if let Some(target) = item.linked_to {
                assembly.add(path, NewEntry::hard_link(target.clone()), &mut io::empty())?;
                continue;
            }
            let kind = match &item.inode.kind {
                InodeKind::File(content) => {
                    self.watch.report(Phase::Import, done, Some(total))?;
                    done += content.size;
                    let entry = NewEntry { kind: NewKind::File { size: content.size }, attributes };
                    assembly.add(path, entry, &mut ContentReader::new(image, content))?;
                    continue;
                }
                InodeKind::Directory => NewKind::Directory,
                InodeKind::Symlink(target) => NewKind::Symlink(target.clone()),
                InodeKind::CharDevice(device) => NewKind::CharDevice(*device),
                InodeKind::BlockDevice(device) => NewKind::BlockDevice(*device),
                InodeKind::Fifo => NewKind::Fifo,
                InodeKind::Socket => NewKind::Socket,
            };
            assembly.add(path, NewEntry { kind, attributes }, &mut io::empty())?;
        }
        Ok(())
    }

    /// Runs the commands over the unfinished image and makes the final one of what they left.
    fn run_commands(
        &self,
        runner: &mut dyn CommandRunner,
        incoming: &Incoming,
        config: &ImageConfig,
        mount_plan: &MountPlan,
    ) -> Result<(WrittenImage, Vec<Package>, u64), BuildCause> {
        let work_dir = incoming.work_dir();
        let [image, layer] = [UNFINISHED_IMAGE, "layer"].map(|name| work_dir.join(name));
        for dir in [&layer, &layer.join(UPPER_DIR), &layer.join(WORK_DIR)] {
            std::fs::create_dir(dir).map_err(StoreFileError::on("create directory", dir))?;
            // The merged root has the upper directory's mode.
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(dir, open).map_err(StoreFileError::on("set the mode of", dir))?;
        }
        let layer_bytes_max = self.recipe().layer_size_max;
        let root = UnfinishedRoot { image: &image, layer: &layer, env: &config.env, layer_bytes_max };
        let steps = &self.recipe().run;
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        for (number, step) in steps.iter().enumerate() {
            self.watch.report(Phase::Run, count(number), Some(count(steps.len())))?;
            let failed = |source| BuildCause::Run { number: number + 1, steps: steps.len(), source };
            runner.run(&root, step).map_err(failed)?;
        }
        self.watch.report(Phase::Import, 0, None)?;
        let merged = runner.open_merged(&root).map_err(BuildCause::Merged)?;
        let writer = ImageWriter::new(incoming.create_image_file()?, self.request.limits.clone())?;
        let mut assembly = Assembly::plain(writer, self.recipe().source_date_epoch);
        let dropped_attributes = assembly.add_directory(merged.as_fd())?;
        let (image, packages) = finish(assembly, mount_plan)?;
        Ok((image, packages, dropped_attributes))
    }

    /// Opens something that the recipe names; relative names start at the recipe's directory.
    fn open_source(&self, path: &Path) -> Result<File, BuildCause> {
        let whole: PathBuf = self.request.directory.join(path);
        let named = |source| BuildCause::Source { name: whole.display().to_string(), source };
        File::open(&whole).map_err(named)
    }
}

fn finish(mut assembly: Assembly, mount_plan: &MountPlan) -> Result<(WrittenImage, Vec<Package>), BuildCause> {
    assembly.suit_systemd()?;
    let (mut writer, packages) = assembly.into_parts();
    add_missing_places(&mut writer, mount_plan)?;
    Ok((writer.finish()?, packages))
}

fn add_busybox(assembly: &mut Assembly, path: &Path) -> Result<(), BuildCause> {
    let busybox = Busybox::read(path)?;
    let plain = |mode| Attributes::of_root(mode);
    let parse = |path: &str| ImagePath::parse(path).expect("a short plain path");
    let root = NewEntry { kind: NewKind::Directory, attributes: plain(0o700) };
    assembly.add(parse("root"), root, &mut io::empty())?;
    let size = |bytes: &[u8]| NewKind::File { size: u64::try_from(bytes.len()).unwrap_or(u64::MAX) };
    let program = NewEntry { kind: size(&busybox.program), attributes: plain(0o755) };
    assembly.add(parse(BUSYBOX_PATH), program, &mut busybox.program.as_slice())?;
    for applet in busybox.applets {
        let kind = NewKind::Symlink(b"/bin/busybox".as_slice().into());
        assembly.add(applet, NewEntry { kind, attributes: plain(0o777) }, &mut io::empty())?;
    }
    for (file, (text, mode)) in Busybox::files() {
        let entry = NewEntry { kind: size(text.as_bytes()), attributes: plain(mode) };
        assembly.add(parse(file), entry, &mut text.as_bytes())?;
    }
    Ok(())
}

/// A base image's configuration with a recipe's over it: what the recipe sets, and every variable and label of both.
fn overlay_config(base: ImageConfig, over: &ImageConfig) -> ImageConfig {
    let list = |over: &Vec<String>, base: Vec<String>| if over.is_empty() { base } else { over.clone() };
    let mut env = base.env;
    env.extend(over.env.clone());
    let mut labels = base.labels;
    labels.extend(over.labels.clone());
    // Arguments of the base's entry point mean nothing to another one.
    let cmd = if over.entrypoint.is_empty() { list(&over.cmd, base.cmd) } else { over.cmd.clone() };
    ImageConfig {
        entrypoint: list(&over.entrypoint, base.entrypoint),
        cmd,
        env,
        user: over.user.clone().or(base.user),
        workdir: over.workdir.clone().or(base.workdir),
        init: over.init.clone().or(base.init),
        stop_signal: over.stop_signal.or(base.stop_signal),
        timezone: over.timezone.clone().or(base.timezone),
        health: over.health.clone().or(base.health),
        root: over.root.or(base.root),
        exposed_ports: list(&over.exposed_ports, base.exposed_ports),
        labels,
        checks: if over.checks.is_empty() { base.checks } else { over.checks.clone() },
    }
}
