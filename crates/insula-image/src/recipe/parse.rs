//! Recipes as text: what can be written, and what is wrong with what was.
//!
//! Parsing touches nothing but the text. What comes out is complete and checked: whoever builds decides nothing.

use std::collections::BTreeMap;
use std::fmt;

use insula_model::{
    Bytes, HealthCheck, ImageConfig, ImageId, ImageName, ImageVersion, MountPlan, Place, PlaceContent, RootAccess,
    Sha256Digest, Signal,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::accounts::User;
use super::bounds;
use super::debian::{DebianBase, check_component, check_mirror, check_package, check_suite, check_variant};
use super::run::{NetworkAccess, RunStep, SHELL};
use crate::mount_target::{MountPlanError, check_mount_plan};
use crate::path::ImagePath;

/// How an image is built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recipe {
    /// Name and version of the image.
    pub id: ImageId,
    /// What it begins with.
    pub base: Base,
    /// Files that are put in, in order.
    pub files: Vec<FileEntry>,
    /// Users that are added, in order.
    pub users: Vec<User>,
    /// Commands that run in the unfinished root, in order.
    pub run: Vec<RunStep>,
    /// Run configuration. Fields that are not set come from the base when that is an image.
    pub config: ImageConfig,
    /// Writable places; the base image's, else the default plan, when absent.
    pub mount_plan: Option<MountPlan>,
    /// No time in the image is above this second since 1970.
    pub source_date_epoch: u64,
    /// File with the packages that it is to have, relative to the recipe. What is built with it is no other image, so
    /// it is no part of the digest.
    #[serde(skip)]
    pub lock: Option<String>,
    /// Most bytes that the commands together may write. Not part of the digest, as all bounds.
    #[serde(skip)]
    pub layer_size_max: Bytes,
}

/// What an image begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Base {
    /// A Debian suite, made by mmdebstrap.
    Debian(DebianBase),
    /// A directory of the host; relative to the recipe.
    Directory(String),
    /// A tar archive, plain or under gzip or zstd; relative to the recipe.
    Tar(String),
    /// Nothing but busybox, at this path of the host.
    Busybox(String),
    /// Another image of the store.
    Image(ImageId),
}

/// A file that a recipe puts in. It replaces what the base has there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileEntry {
    /// Absolute path in the image.
    pub path: String,
    /// What is there.
    pub content: FileContent,
    /// Permissions; for links without meaning.
    pub mode: u16,
    /// Owner and group, by number.
    pub owner: (u32, u32),
}

/// What a file of a recipe is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileContent {
    /// A regular file with this text.
    Text(String),
    /// A regular file with the bytes of this file beside or below the recipe.
    Source(String),
    /// A symbolic link to this target.
    Link(String),
    /// A directory.
    Directory,
}

/// A text that is no recipe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseRecipeError {
    /// A field that recipes do not have.
    #[error("line {line}: unknown field `{field}`{}", suggest(suggestion.as_deref(), known))]
    UnknownField {
        /// Line, counted from 1.
        line: usize,
        /// The field.
        field: String,
        /// The known field that looks most like it, if one does.
        suggestion: Option<String>,
        /// All fields that can be there.
        known: Vec<String>,
    },
    /// Not TOML, or a value of the wrong kind, or a field that is missing.
    #[error("line {line}: {message}")]
    Toml {
        /// Line, counted from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A value that cannot be.
    #[error("{field}: {problem}")]
    Value {
        /// The field, such as `files[2].path`.
        field: String,
        /// What is wrong.
        problem: RecipeValueError,
    },
    /// The writable places are no plan.
    #[error("places: {0}")]
    Places(MountPlanError),
    /// Larger than any recipe.
    #[error("the recipe has {bytes} bytes; the most is {RECIPE_BYTES_MAX}")]
    TooLarge {
        /// Its bytes.
        bytes: usize,
    },
}

/// Why a value cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecipeValueError {
    /// Outside of the closed alphabet for such values.
    #[error("`{}` cannot be; {allowed}", given.escape_debug())]
    Alphabet {
        /// What was given.
        given: String,
        /// What can be.
        allowed: &'static str,
    },
    /// Not exactly one of several fields that exclude each other.
    #[error("give exactly one of {}", fields.join(", "))]
    ExactlyOne {
        /// The fields.
        fields: &'static [&'static str],
    },
    /// A field that means nothing with this base.
    #[error("it needs a base with `suite`; use `[[run]]` to install or remove packages in other bases")]
    NeedsSuite,
    /// Not an absolute, normalised path.
    #[error("`{}` is not an absolute path without `.`, `..` and extra slashes", given.escape_debug())]
    NotAbsolute {
        /// What was given.
        given: String,
    },
    /// Not a path that stays beneath the recipe's directory.
    #[error("`{}` does not stay in the recipe's directory; copy it there", given.escape_debug())]
    NotBeneath {
        /// What was given.
        given: String,
    },
    /// Nothing was given.
    #[error("it is empty")]
    Empty,
    /// A NUL byte or a line break where none can be.
    #[error("it holds a NUL byte, a line break or a colon")]
    Control,
    /// A bound that nothing keeps.
    #[error("it is 0; leave it out for the default")]
    Zero,
    /// Bits that are no permissions.
    #[error("{given:#o} is no mode; use 0o000 to 0o7777")]
    Mode {
        /// What was given.
        given: u32,
    },
    /// The same thing twice.
    #[error("`{}` is there twice", given.escape_debug())]
    Twice {
        /// What was given.
        given: String,
    },
}

fn suggest(suggestion: Option<&str>, known: &[String]) -> impl fmt::Display {
    match suggestion {
        Some(field) => format!("; did you mean `{field}`?"),
        None => format!("; known are {}", known.join(", ")),
    }
}

/// Most bytes of a recipe.
const RECIPE_BYTES_MAX: usize = 1 << 20;
/// The epoch of recipes that name none: 2024-01-01, UTC. A constant, so that the same recipe gives the same image;
/// and not 0, which account files take for "the password must be changed".
const EPOCH_DEFAULT: u64 = 1_704_067_200;
/// Files and directories in a writable place, per byte of its size, when a recipe does not say.
const PLACE_BYTES_PER_INODE: u64 = 4096;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRecipe {
    name: String,
    version: String,
    base: RawBase,
    #[serde(default)]
    packages: Vec<String>,
    #[serde(default)]
    remove_packages: Vec<String>,
    #[serde(default)]
    files: Vec<RawFile>,
    #[serde(default)]
    run: Vec<RawRun>,
    #[serde(default)]
    users: Vec<RawUser>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    timezone: Option<String>,
    #[serde(default)]
    config: RawConfig,
    places: Option<Vec<RawPlace>>,
    source_date_epoch: Option<u64>,
    lock: Option<String>,
    layer_size_max: Option<Bytes>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBase {
    suite: Option<String>,
    mirror: Option<String>,
    variant: Option<String>,
    components: Option<Vec<String>>,
    directory: Option<String>,
    tar: Option<String>,
    scratch: Option<String>,
    image: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    path: String,
    content: Option<String>,
    source: Option<String>,
    link: Option<String>,
    #[serde(default)]
    directory: bool,
    mode: Option<u32>,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRun {
    shell: Option<String>,
    command: Option<Vec<String>>,
    #[serde(default)]
    network: bool,
    timeout_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawUser {
    name: String,
    uid: Option<u32>,
    home: Option<String>,
    shell: Option<String>,
    #[serde(default)]
    comment: String,
    #[serde(default)]
    groups: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawConfig {
    entrypoint: Vec<String>,
    cmd: Vec<String>,
    workdir: Option<String>,
    user: Option<String>,
    stop_signal: Option<Signal>,
    init: Option<String>,
    health: Option<HealthCheck>,
    root: Option<RootAccess>,
    exposed_ports: Vec<String>,
    labels: BTreeMap<String, String>,
    checks: Vec<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPlace {
    path: String,
    size: Bytes,
    content: Option<PlaceContent>,
    inodes: Option<u32>,
}

fn refuse(field: impl Into<String>, problem: RecipeValueError) -> ParseRecipeError {
    ParseRecipeError::Value { field: field.into(), problem }
}

impl Recipe {
    /// Reads a recipe.
    ///
    /// # Errors
    ///
    /// Names the line or field, and the nearest known field for a misspelt one.
    pub fn parse(text: &str) -> Result<Self, ParseRecipeError> {
        if text.len() > RECIPE_BYTES_MAX {
            return Err(ParseRecipeError::TooLarge { bytes: text.len() });
        }
        let raw: RawRecipe = toml::from_str(text).map_err(|error| explain(text, &error))?;
        let name = ImageName::new(raw.name).map_err(|error| alphabet("name", &error.to_string()))?;
        let version = ImageVersion::new(raw.version).map_err(|error| alphabet("version", &error.to_string()))?;
        let full_init = raw.config.init.as_deref() == Some("systemd");
        let base = convert_base(raw.base, raw.packages, raw.remove_packages, full_init)?;
        Ok(Self {
            id: ImageId { name, version },
            base,
            files: convert_files(raw.files)?,
            users: convert_users(raw.users)?,
            run: convert_run(raw.run)?,
            config: convert_config(raw.config, raw.env, raw.timezone)?,
            mount_plan: raw.places.map(convert_places).transpose()?,
            source_date_epoch: raw.source_date_epoch.unwrap_or(EPOCH_DEFAULT),
            lock: raw.lock.map(|file| beneath("lock", file)).transpose()?,
            layer_size_max: bounds::layer_size(raw.layer_size_max).map_err(|zero| refuse("layer_size_max", zero))?,
        })
    }

    /// Digest of what the recipe says, however it was written.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        let json = serde_json::to_vec(self).expect("plain data with text keys");
        Sha256Digest(Sha256::digest(json).into())
    }
}

/// The names' own messages say all there is.
fn alphabet(field: &str, message: &str) -> ParseRecipeError {
    ParseRecipeError::Toml { line: 1, message: format!("{field}: {message}") }
}

/// Turns the parser's message into ours: line, and the nearest field for an unknown one.
fn explain(text: &str, error: &toml::de::Error) -> ParseRecipeError {
    let start = error.span().map_or(0, |span| span.start.min(text.len()));
    let line = text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1;
    let message = error.message();
    let mut quoted = message.split('`').skip(1).step_by(2).map(str::to_owned);
    if message.starts_with("unknown field")
        && let Some(field) = quoted.next()
    {
        let known: Vec<String> = quoted.collect();
        let suggestion = insula_model::near(&field, known.iter().map(String::as_str)).map(str::to_owned);
        return ParseRecipeError::UnknownField { line, suggestion, field, known };
    }
    ParseRecipeError::Toml { line, message: message.to_owned() }
}

/// Where the package puts it.
const BUSYBOX: &str = "/bin/busybox";
/// The package that brings systemd as process 1.
const SYSTEMD_PACKAGE: &str = "systemd-sysv";

fn convert_base(
    raw: RawBase,
    mut packages: Vec<String>,
    remove: Vec<String>,
    full_init: bool,
) -> Result<Base, ParseRecipeError> {
    const FIELDS: &[&str] = &["suite", "directory", "tar", "scratch", "image"];
    let given = [&raw.suite, &raw.directory, &raw.tar, &raw.scratch, &raw.image];
    if given.iter().filter(|field| field.is_some()).count() != 1 {
        return Err(refuse("base", RecipeValueError::ExactlyOne { fields: FIELDS }));
    }
    if let Some(suite) = raw.suite {
        check_suite(&suite).map_err(|problem| refuse("base.suite", problem))?;
        let variant = raw.variant.unwrap_or_else(|| "minbase".to_owned());
        check_variant(&variant).map_err(|problem| refuse("base.variant", problem))?;
        if let Some(mirror) = &raw.mirror {
            check_mirror(mirror).map_err(|problem| refuse("base.mirror", problem))?;
        }
        let components = raw.components.unwrap_or_else(|| vec!["main".to_owned()]);
        for component in &components {
            check_component(component).map_err(|problem| refuse("base.components", problem))?;
        }
        if full_init && !packages.iter().any(|package| package == SYSTEMD_PACKAGE) {
            packages.push(SYSTEMD_PACKAGE.to_owned());
        }
        for (field, names) in [("packages", &packages), ("remove_packages", &remove)] {
            for name in names {
                check_package(name).map_err(|problem| refuse(field, problem))?;
            }
        }
        packages.sort();
        packages.dedup();
        return Ok(Base::Debian(DebianBase { suite, mirror: raw.mirror, variant, components, packages, remove }));
    }
    let of_suite = [
        ("base.mirror", raw.mirror.is_some()),
        ("base.variant", raw.variant.is_some()),
        ("base.components", raw.components.is_some()),
        ("packages", !packages.is_empty()),
        ("remove_packages", !remove.is_empty()),
    ];
    if let Some((field, _)) = of_suite.iter().find(|(_, given)| *given) {
        return Err(refuse(*field, RecipeValueError::NeedsSuite));
    }
    let filled = |field: &'static str, text: String| {
        if text.is_empty() || text.contains('\0') { Err(refuse(field, RecipeValueError::Empty)) } else { Ok(text) }
    };
    match (raw.directory, raw.tar, raw.scratch, raw.image) {
        (Some(path), ..) => Ok(Base::Directory(filled("base.directory", path)?)),
        (_, Some(path), ..) => Ok(Base::Tar(filled("base.tar", path)?)),
        (_, _, Some(busybox), _) if busybox == "busybox" => Ok(Base::Busybox(BUSYBOX.to_owned())),
        (_, _, Some(path), _) => {
            absolute("base.scratch", &path)?;
            Ok(Base::Busybox(path))
        }
        (_, _, _, Some(image)) => {
            let id = image.parse::<ImageId>().map_err(|error| alphabet("base.image", &error.to_string()))?;
            Ok(Base::Image(id))
        }
        (None, None, None, None) => Err(refuse("base", RecipeValueError::ExactlyOne { fields: FIELDS })),
    }
}

fn absolute(field: &str, path: &str) -> Result<ImagePath, ParseRecipeError> {
    let wrong = || refuse(field, RecipeValueError::NotAbsolute { given: path.to_owned() });
    let parsed = ImagePath::parse(path).map_err(|_| wrong())?;
    let normal = !parsed.is_root() && path.as_bytes().strip_prefix(b"/") == Some(parsed.as_bytes());
    if normal { Ok(parsed) } else { Err(wrong()) }
}

/// The path is resolved beneath the recipe's directory when it is opened; this says it earlier.
fn beneath(field: &str, given: String) -> Result<String, ParseRecipeError> {
    let beneath = !given.starts_with('/') && ImagePath::parse(&given).is_ok_and(|path| !path.is_root());
    if beneath { Ok(given) } else { Err(refuse(field, RecipeValueError::NotBeneath { given })) }
}

fn convert_files(raw: Vec<RawFile>) -> Result<Vec<FileEntry>, ParseRecipeError> {
    const FIELDS: &[&str] = &["content", "source", "link", "directory"];
    let mut files: Vec<FileEntry> = Vec::new();
    for (index, file) in raw.into_iter().enumerate() {
        let field = |name: &str| format!("files[{index}].{name}");
        absolute(&field("path"), &file.path)?;
        if files.iter().any(|earlier| earlier.path == file.path) {
            return Err(refuse(field("path"), RecipeValueError::Twice { given: file.path }));
        }
        let content = match (file.content, file.source, file.link, file.directory) {
            (Some(text), None, None, false) => FileContent::Text(text),
            (None, Some(source), None, false) => FileContent::Source(beneath(&field("source"), source)?),
            (None, None, Some(target), false) => {
                if target.is_empty() || target.contains('\0') {
                    return Err(refuse(field("link"), RecipeValueError::Empty));
                }
                FileContent::Link(target)
            }
            (None, None, None, true) => FileContent::Directory,
            _ => return Err(refuse(format!("files[{index}]"), RecipeValueError::ExactlyOne { fields: FIELDS })),
        };
        let default = if content == FileContent::Directory { 0o755 } else { 0o644 };
        let given = file.mode.unwrap_or(default);
        let mode = u16::try_from(given).ok().filter(|mode| *mode <= 0o7777);
        let mode = mode.ok_or_else(|| refuse(field("mode"), RecipeValueError::Mode { given }))?;
        files.push(FileEntry { path: file.path, content, mode, owner: (file.uid, file.gid) });
    }
    Ok(files)
}

fn convert_users(raw: Vec<RawUser>) -> Result<Vec<User>, ParseRecipeError> {
    let mut users: Vec<User> = Vec::new();
    for (index, user) in raw.into_iter().enumerate() {
        let field = |name: &str| format!("users[{index}].{name}");
        let name_allowed = |name: &str| {
            let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
            let rest = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
            first && rest && name.len() <= 32
        };
        for (part, name) in [("name", &user.name)].into_iter().chain(user.groups.iter().map(|group| ("groups", group)))
        {
            if !name_allowed(name) {
                let allowed = "use 1 to 32 of a-z 0-9 _ -, beginning with a letter or _";
                return Err(refuse(field(part), RecipeValueError::Alphabet { given: name.clone(), allowed }));
            }
        }
        if users.iter().any(|earlier| earlier.name == user.name) {
            return Err(refuse(field("name"), RecipeValueError::Twice { given: user.name }));
        }
        let home = user.home.unwrap_or_else(|| format!("/home/{}", user.name));
        absolute(&field("home"), &home)?;
        let shell = user.shell.unwrap_or_else(|| "/bin/sh".to_owned());
        absolute(&field("shell"), &shell)?;
        for (part, text) in [("home", &home), ("shell", &shell), ("comment", &user.comment)] {
            if text.contains([':', '\n', '\r', '\0']) {
                return Err(refuse(field(part), RecipeValueError::Control));
            }
        }
        users.push(User { name: user.name, uid: user.uid, home, shell, comment: user.comment, groups: user.groups });
    }
    Ok(users)
}

fn convert_run(raw: Vec<RawRun>) -> Result<Vec<RunStep>, ParseRecipeError> {
    let convert = |(index, step): (usize, RawRun)| {
        let command = match (step.shell, step.command) {
            (Some(shell), None) => SHELL.map(str::to_owned).into_iter().chain([shell]).collect(),
            (None, Some(command)) => command,
            _ => {
                let fields = &["shell", "command"];
                return Err(refuse(format!("run[{index}]"), RecipeValueError::ExactlyOne { fields }));
            }
        };
        if command.first().is_none_or(String::is_empty) || command.iter().any(|word| word.contains('\0')) {
            return Err(refuse(format!("run[{index}]"), RecipeValueError::Empty));
        }
        let network = if step.network { NetworkAccess::Outside } else { NetworkAccess::None };
        let timeout = bounds::timeout(step.timeout_ms);
        let timeout = timeout.map_err(|zero| refuse(format!("run[{index}].timeout_ms"), zero))?;
        Ok(RunStep { command, network, timeout })
    };
    raw.into_iter().enumerate().map(convert).collect()
}

fn convert_config(
    raw: RawConfig,
    env: BTreeMap<String, String>,
    timezone: Option<String>,
) -> Result<ImageConfig, ParseRecipeError> {
    for (name, value) in &env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(refuse(format!("env.{}", name.escape_debug()), RecipeValueError::Control));
        }
    }
    if let Some(zone) = &timezone {
        let plain = zone.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_+-".contains(&byte));
        if !plain || zone.is_empty() || zone.starts_with('/') || zone.split('/').any(str::is_empty) {
            let allowed = "use the name of a time zone, such as Europe/Rome";
            return Err(refuse("timezone", RecipeValueError::Alphabet { given: zone.clone(), allowed }));
        }
    }
    let init = match raw.init {
        Some(init) if init == "systemd" => Some("/sbin/init".to_owned()),
        Some(init) => {
            absolute("config.init", &init)?;
            Some(init)
        }
        None => None,
    };
    if let Some(workdir) = raw.workdir.as_ref().filter(|workdir| *workdir != "/") {
        absolute("config.workdir", workdir)?;
    }
    let config = ImageConfig {
        entrypoint: raw.entrypoint,
        cmd: raw.cmd,
        env,
        user: raw.user,
        workdir: raw.workdir,
        init,
        stop_signal: raw.stop_signal,
        timezone,
        health: raw.health,
        root: raw.root,
        exposed_ports: raw.exposed_ports,
        labels: raw.labels,
        checks: raw.checks,
    };
    let words = config.entrypoint.iter().chain(&config.cmd).chain(config.checks.iter().flatten()).chain(&config.user);
    if words.clone().any(|word| word.contains('\0')) || config.checks.iter().any(Vec::is_empty) {
        return Err(refuse("config", RecipeValueError::Control));
    }
    Ok(config)
}

fn convert_places(raw: Vec<RawPlace>) -> Result<MountPlan, ParseRecipeError> {
    let place = |place: RawPlace| {
        let by_size = u32::try_from(place.size.0 / PLACE_BYTES_PER_INODE).unwrap_or(u32::MAX);
        Place {
            path: place.path,
            content: place.content.unwrap_or(PlaceContent::Defaults),
            size: place.size,
            inodes: place.inodes.unwrap_or(by_size),
        }
    };
    let plan = MountPlan { places: raw.into_iter().map(place).collect() };
    check_mount_plan(&plan).map_err(ParseRecipeError::Places)?;
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SMALL: &str = "name = \"web\"\nversion = \"1\"\n[base]\nscratch = \"busybox\"\n";

    fn parse(more: &str) -> Result<Recipe, ParseRecipeError> {
        // Top-level fields come before the first table.
        Recipe::parse(&format!("{more}\n{SMALL}"))
    }

    fn after(more: &str) -> Result<Recipe, ParseRecipeError> {
        Recipe::parse(&format!("{SMALL}{more}"))
    }

    #[test]
    fn a_whole_recipe_is_read() {
        let recipe = Recipe::parse(
            r#"
            name = "web"
            version = "1.0"
            packages = ["nginx", "curl"]
            remove_packages = ["e2fsprogs"]
            timezone = "Europe/Rome"
            source_date_epoch = 1700000000
            [base]
            suite = "bookworm"
            components = ["main", "contrib"]
            [env]
            LANG = "C.UTF-8"
            [[files]]
            path = "/etc/motd"
            content = "hello"
            mode = 0o600
            uid = 33
            [[files]]
            path = "/etc/link"
            link = "motd"
            [[run]]
            shell = "echo hello"
            [[run]]
            command = ["apt-get", "update"]
            network = true
            [[users]]
            name = "app"
            groups = ["sudo"]
            [config]
            init = "systemd"
            stop_signal = "SIGRTMIN+3"
            checks = [["true"]]
            [[places]]
            path = "/var"
            size = "50MiB"
            "#,
        )
        .unwrap();
        let Base::Debian(debian) = &recipe.base else { panic!("{:?}", recipe.base) };
        assert_eq!(debian.packages, ["curl", "nginx", "systemd-sysv"]);
        assert_eq!(recipe.config.init.as_deref(), Some("/sbin/init"));
        assert_eq!(recipe.files[0].owner, (33, 0));
        assert_eq!(recipe.run[1].network, NetworkAccess::Outside);
        assert_eq!(recipe.users[0].home, "/home/app");
        assert_eq!(recipe.mount_plan.unwrap().places[0].inodes, 12_800);
        assert_eq!(recipe.source_date_epoch, 1_700_000_000);
    }

    #[test]
    fn bounds_have_defaults_are_not_nothing_and_leave_the_digest_alone() {
        let step = "[[run]]\nshell = \"true\"\n";
        let plain = after(step).unwrap();
        assert_eq!((plain.run[0].timeout.as_secs(), plain.layer_size_max), (1_800, Bytes::mib(10_240)));
        let bounded = Recipe::parse(&format!("layer_size_max = \"1MiB\"\n{SMALL}{step}timeout_ms = 5\n")).unwrap();
        assert_eq!((bounded.run[0].timeout.as_millis(), bounded.layer_size_max), (5, Bytes::mib(1)));
        assert_eq!(plain.digest(), bounded.digest());
        for (refused, field) in [
            (parse("layer_size_max = 0"), "layer_size_max: it is 0"),
            (after(&format!("{step}timeout_ms = 0")), "run[0].timeout_ms: it is 0"),
        ] {
            let message = refused.unwrap_err().to_string();
            assert!(message.contains(field), "{message}");
        }
    }

    #[test]
    fn a_misspelt_field_is_named_with_its_line_and_the_nearest_one() {
        let cases = [
            ("timezon = \"UTC\"", 1, "timezon", Some("timezone")),
            ("\npackage = []", 2, "package", Some("packages")),
            ("zzzzzzzz = 1", 1, "zzzzzzzz", None),
        ];
        for (text, at, name, nearest) in cases {
            match parse(text).unwrap_err() {
                ParseRecipeError::UnknownField { line, field, suggestion, .. } => {
                    assert_eq!((line, field.as_str(), suggestion.as_deref()), (at, name, nearest));
                }
                other => panic!("{other:?}"),
            }
        }
        let nested = after("[[users]]\nname = \"a\"\nshel = \"/bin/sh\"").unwrap_err().to_string();
        assert_eq!(nested, "line 7: unknown field `shel`; did you mean `shell`?");
    }

    #[test]
    fn values_outside_the_contract_are_refused_by_their_fields() {
        let cases = [
            ("packages = [\"curl\"]", "packages"),
            ("timezone = \"../../etc/shadow\"", "timezone"),
            ("env = {\"A=B\" = \"\"}", "env"),
            ("files = [{path = \"etc/motd\", content = \"\"}]", "files[0].path"),
            ("files = [{path = \"/etc/../motd\", content = \"\"}]", "files[0].path"),
            ("files = [{path = \"/a\", source = \"../x\"}]", "files[0].source"),
            ("files = [{path = \"/a\", source = \"/etc/shadow\"}]", "files[0].source"),
            ("files = [{path = \"/a\"}]", "files[0]"),
            ("files = [{path = \"/a\", content = \"\", mode = 0o10000}]", "files[0].mode"),
            ("run = [{}]", "run[0]"),
            ("run = [{command = []}]", "run[0]"),
            ("users = [{name = \"a:b\"}]", "users[0].name"),
            ("users = [{name = \"-v\"}]", "users[0].name"),
            ("users = [{name = \"a\", comment = \"x\\ny\"}]", "users[0].comment"),
            ("places = [{path = \"/etc\", size = \"1GiB\"}]", "places"),
            ("config = {init = \"sbin/init\"}", "config.init"),
        ];
        for (text, field) in cases {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.starts_with(field), "{text}: {message}");
        }
    }

    #[test]
    fn bases_exclude_each_other_and_their_values_are_of_closed_alphabets() {
        let base = |text: &str| Recipe::parse(&format!("name = \"a\"\nversion = \"1\"\n[base]\n{text}"));
        for text in [
            "",
            "suite = \"bookworm\"\ntar = \"x\"",
            "suite = \"-o\"",
            "suite = \"book worm\"",
            "suite = \"bookworm\"\nvariant = \"--help\"",
            "suite = \"bookworm\"\nmirror = \"deb [trusted=yes] http://x /\"",
            "suite = \"bookworm\"\nmirror = \"http://x\\nfoo\"",
            "suite = \"bookworm\"\ncomponents = [\"main,x\"]",
            "tar = \"x\"\nvariant = \"minbase\"",
            "scratch = \"./busybox\"",
            "image = \"debian\"",
        ] {
            assert!(base(text).is_err(), "{text}");
        }
        base("suite = \"bookworm\"\nmirror = \"https://mirror.example/debian\"").unwrap();
    }

    #[test]
    fn the_digest_is_of_what_is_said_and_not_of_how() {
        let one = parse("timezone = \"UTC\"").unwrap().digest();
        let same = parse("# a comment\n\ntimezone   =   'UTC'").unwrap().digest();
        assert_eq!(one, same);
        assert_ne!(one, parse("timezone = \"Europe/Rome\"").unwrap().digest());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,200}", field in "[a-z_]{1,12}", value in ".{0,40}") {
            let _ = Recipe::parse(&text);
            let _ = parse(&format!("{field} = {value:?}"));
        }

        #[test]
        fn what_goes_to_a_helper_program_has_no_option_and_no_control_character(name in ".{0,20}") {
            let quoted = toml::Value::String(name.clone()).to_string();
            let text = format!("name = \"a\"\nversion = \"1\"\npackages = [{quoted}]\n[base]\nsuite = \"bookworm\"");
            if let Ok(recipe) = Recipe::parse(&text) {
                let Base::Debian(base) = recipe.base else { unreachable!("it has a suite") };
                let steering = |c: char| c.is_whitespace() || c.is_control() || "'\"$`\\;&|<>(),*?".contains(c);
                let harmless = base.packages.iter().all(|package| !package.starts_with('-') && !package.contains(steering));
                prop_assert!(harmless);
            }
        }
    }
}
