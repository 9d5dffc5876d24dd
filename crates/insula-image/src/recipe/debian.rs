//! Debian bases: mmdebstrap's command line, made of closed alphabets, and its archive as a stream.
//!
//! The sources are the recipe's mirror or those that the host's own apt uses for the suite, moved to the suite when
//! the host runs another one. Sources of others on the host (no component `main`) do not get into images.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde::Serialize;

use super::lock::PackageLock;
use super::parse::RecipeValueError;
use crate::progress::BootstrapStep;

/// A Debian suite and what is added to and taken from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DebianBase {
    /// Name of the suite, such as `bookworm`.
    pub suite: String,
    /// Address of the archive; the host's own when absent.
    pub mirror: Option<String>,
    /// mmdebstrap's name for the set of packages to begin with.
    pub variant: String,
    /// Components of the archive.
    pub components: Vec<String>,
    /// Packages to add, sorted; a version can follow after `=`.
    pub packages: Vec<String>,
    /// Packages to remove at the end.
    pub remove: Vec<String>,
}

/// A base could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The program is not there.
    #[error("mmdebstrap is not installed; run `apt-get install mmdebstrap`")]
    NotInstalled,
    /// The program could not be started or waited for.
    #[error("run mmdebstrap")]
    Run(#[source] io::Error),
    /// It failed.
    #[error("mmdebstrap ended with {status}: {}", complaints(output))]
    Failed {
        /// How.
        status: String,
        /// The end of what it said.
        output: String,
    },
}

/// What apt and dpkg complained of, without what the programs around them say of it; all there is when that is nothing.
fn complaints(output: &str) -> String {
    let of_others = ["E: apt-get ", "E: setup failed", "E: run_chroot failed", "E: mmdebstrap failed"];
    let own = |line: &&str| {
        (line.starts_with("E: ") || line.starts_with("dpkg: error"))
            && !of_others.iter().any(|other| line.starts_with(other))
    };
    let found: Vec<&str> = output.lines().filter(own).map(|line| line.trim_start_matches("E: ")).collect();
    if found.is_empty() { output.trim_end().to_owned() } else { found.join("; ") }
}

fn alphabet(given: &str, allowed: &'static str, is_allowed: bool) -> Result<(), RecipeValueError> {
    if is_allowed { Ok(()) } else { Err(RecipeValueError::Alphabet { given: given.to_owned(), allowed }) }
}

/// Whether `text` begins with a lower-case letter or digit and goes on with those and `more`.
fn is_plain(text: &str, more: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(alphanumeric) && text.len() <= 128 && text.chars().all(|c| alphanumeric(c) || more.contains(c))
}

pub(super) fn check_suite(suite: &str) -> Result<(), RecipeValueError> {
    alphabet(suite, "use the name of a suite, such as bookworm", is_plain(suite, "-."))
}

pub(super) fn check_component(component: &str) -> Result<(), RecipeValueError> {
    alphabet(component, "use the name of a component, such as main", is_plain(component, "-"))
}

pub(super) fn check_variant(variant: &str) -> Result<(), RecipeValueError> {
    let known = ["apt", "buildd", "essential", "important", "minbase", "required", "standard"];
    let allowed = "use apt, buildd, essential, important, minbase, required or standard";
    alphabet(variant, allowed, known.contains(&variant))
}

pub(super) fn check_mirror(mirror: &str) -> Result<(), RecipeValueError> {
    let rest = ["http://", "https://", "file:///"].iter().find_map(|scheme| mirror.strip_prefix(scheme));
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~:/@%+,=".contains(c);
    let allowed = "use an address that begins with http://, https:// or file:///";
    alphabet(mirror, allowed, rest.is_some_and(|rest| !rest.is_empty() && rest.chars().all(plain)))
}

/// Package names as Debian has them, perhaps with `:` and an architecture or `=` and a version. One that ends in `-`
/// would tell apt to remove it.
pub(super) fn check_package(package: &str) -> Result<(), RecipeValueError> {
    let (name, version) = package.split_once('=').map_or((package, None), |(name, version)| (name, Some(version)));
    let version_plain = |version: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || ".+:~-".contains(c);
        !version.is_empty() && version.len() <= 128 && version.chars().all(plain)
    };
    let right = is_plain(name, "+-.:") && !name.ends_with('-') && version.is_none_or(version_plain);
    alphabet(package, "use the name of a package, such as curl or curl=7.88.1-10", right)
}

/// An entry of the host's apt sources.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct AptSource {
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    signed_by: Option<String>,
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Entries of a `.sources` file.
fn parse_deb822(text: &str) -> Vec<AptSource> {
    let mut sources = Vec::new();
    for paragraph in text.split("\n\n") {
        let field = |wanted: &str| {
            let lines = paragraph.lines().filter(|line| !line.starts_with('#'));
            let mut fields = lines.filter_map(|line| line.split_once(':'));
            let found = fields.find(|(name, _)| name.eq_ignore_ascii_case(wanted));
            found.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        if !words(&field("Types")).iter().any(|kind| kind == "deb") || field("Enabled").eq_ignore_ascii_case("no") {
            continue;
        }
        sources.push(AptSource {
            uris: words(&field("URIs")),
            suites: words(&field("Suites")),
            components: words(&field("Components")),
            signed_by: Some(field("Signed-By")).filter(|path| path.starts_with('/')),
        });
    }
    sources
}

/// Entries of a `sources.list` file.
fn parse_one_line(text: &str) -> Vec<AptSource> {
    let parse = |line: &str| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => ("", rest),
        };
        let mut parts = words(rest).into_iter();
        let (uri, suite) = (parts.next()?, parts.next()?);
        let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
        Some(AptSource {
            uris: vec![uri],
            suites: vec![suite],
            components: parts.take_while(|part| !part.starts_with('#')).collect(),
            signed_by: signed_by.filter(|path| path.starts_with('/')).map(str::to_owned),
        })
    };
    text.lines().filter_map(parse).collect()
}

/// Lines for the image's sources: the host's for `suite` with its updates, or those of the host's own suite
/// (`host_suite`) moved to it.
fn source_lines(sources: &[AptSource], base: &DebianBase, host_suite: Option<&str>) -> Vec<String> {
    let of = |suite: &str| -> Vec<String> {
        let mut lines = Vec::new();
        for source in sources.iter().filter(|source| source.components.iter().any(|name| name == "main")) {
            for (uri, host) in source.uris.iter().flat_map(|uri| source.suites.iter().map(move |host| (uri, host))) {
                let pocket = host.strip_prefix(suite);
                let Some(pocket) = pocket.filter(|p| ["", "-updates", "-security", "/updates"].contains(p)) else {
                    continue;
                };
                let signed = source.signed_by.as_ref().map_or(String::new(), |path| format!("[signed-by={path}] "));
                let line = format!("deb {signed}{uri} {}{pocket} {}", base.suite, base.components.join(" "));
                if check_mirror(uri).is_ok() && !lines.contains(&line) {
                    lines.push(line);
                }
            }
        }
        lines
    };
    let own = of(&base.suite);
    match (own.is_empty(), host_suite) {
        (true, Some(host_suite)) => of(host_suite),
        _ => own,
    }
}

/// What the host's apt is set to.
fn host_sources() -> Vec<AptSource> {
    let mut sources = Vec::new();
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    sources.extend(parse_one_line(&read(Path::new("/etc/apt/sources.list"))));
    let files = std::fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    let mut paths: Vec<_> = files.map(|file| file.path()).collect();
    paths.sort();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => sources.extend(parse_deb822(&read(&path))),
            Some("list") => sources.extend(parse_one_line(&read(&path))),
            _ => {}
        }
    }
    sources
}

/// The suite that a Debian host runs.
fn host_suite() -> Option<String> {
    let release = std::fs::read_to_string("/etc/os-release").ok()?;
    let field = |name: &str| {
        let mut lines = release.lines();
        lines.find_map(|line| Some(line.strip_prefix(name)?.strip_prefix('=')?.trim_matches('"').to_owned()))
    };
    field("ID").filter(|id| id == "debian")?;
    field("VERSION_CODENAME")
}

/// Name of the variable that tells the hooks where the locked versions are.
const PINS: &str = "INSULA_PINS";
/// Has apt take the locked versions from its first step on, and takes the file away in the end.
const PIN: [&str; 2] = [
    "--setup-hook=cp \"$INSULA_PINS\" \"$1/etc/apt/preferences.d/insula-lock\"",
    "--customize-hook=rm \"$1/etc/apt/preferences.d/insula-lock\"",
];

/// mmdebstrap's arguments. `sources` are empty when it is to use its own.
fn arguments(base: &DebianBase, sources: Vec<String>, lock: Option<&PackageLock>) -> Vec<String> {
    let mut arguments = vec![
        format!("--variant={}", base.variant),
        "--format=tar".to_owned(),
        // They say which file each package came from; the normaliser takes them out.
        "--skip=cleanup/apt/lists".to_owned(),
        format!("--components={}", base.components.join(",")),
    ];
    if !base.packages.is_empty() {
        arguments.push(format!("--include={}", base.packages.join(",")));
    }
    if !base.remove.is_empty() {
        // The names are of a closed alphabet that means nothing to the shell.
        let names = base.remove.join(" ");
        arguments.push(format!("--customize-hook=chroot \"$1\" apt-get -y --allow-remove-essential purge -- {names}"));
    }
    if lock.is_some() {
        arguments.extend(PIN.map(str::to_owned));
    }
    arguments.extend(["--".to_owned(), base.suite.clone(), "-".to_owned()]);
    arguments.extend(base.mirror.clone().map_or(sources, |mirror| vec![mirror]));
    arguments
}

/// Where the programs are.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Bytes of a failed program's messages that are shown.
const MESSAGE_BYTES: usize = 2048;

/// How mmdebstrap's lines begin when it goes on to something else.
const STEPS: [(&str, BootstrapStep); 7] = [
    ("I: running apt-get update", BootstrapStep::Lists),
    ("I: downloading packages", BootstrapStep::Download),
    ("I: extracting archives", BootstrapStep::Extract),
    ("I: installing essential packages", BootstrapStep::Essential),
    ("I: installing remaining packages", BootstrapStep::Install),
    ("I: cleaning", BootstrapStep::Clean),
    ("I: creating tarball", BootstrapStep::Pack),
];
/// As much of a line as is looked at: more than any beginning above has.
const LINE_BYTES: usize = 64;

/// Finds those lines in what the tools write, which comes in any pieces and may be anything.
#[derive(Debug, Default)]
struct StepLines {
    line: Vec<u8>,
}

impl StepLines {
    /// The last step that a whole line of `bytes` tells of, if any does.
    fn take(&mut self, bytes: &[u8]) -> Option<BootstrapStep> {
        let mut last = None;
        for &byte in bytes {
            if matches!(byte, b'\n' | b'\r') {
                let begun = |(beginning, _): &&(&str, BootstrapStep)| self.line.starts_with(beginning.as_bytes());
                last = STEPS.iter().find(begun).map(|(_, step)| *step).or(last);
                self.line.clear();
            } else if self.line.len() < LINE_BYTES {
                self.line.push(byte);
            }
        }
        last
    }
}

/// A running mmdebstrap.
#[derive(Debug)]
pub(super) struct Bootstrap {
    child: Child,
    archive: ChildStdout,
    messages: Option<JoinHandle<VecDeque<u8>>>,
    step: Arc<Mutex<BootstrapStep>>,
    ended: bool,
}

impl Bootstrap {
    /// Starts it. `scratch` is a directory for what it unpacks; the archive's times end at `epoch`. With a lock, apt
    /// prefers its versions to all others; whether they were there shows what is installed.
    pub(super) fn start(
        base: &DebianBase,
        (epoch, lock): (u64, Option<&PackageLock>),
        scratch: &Path,
    ) -> Result<Self, BootstrapError> {
        let sources = source_lines(&host_sources(), base, host_suite().as_deref());
        if !PATH.split(':').any(|folder| Path::new(folder).join("mmdebstrap").is_file()) {
            return Err(BootstrapError::NotInstalled);
        }
        // In a process tree and with mounts of its own, which end with whoever builds: asked to stop, it waits for its
        // children, and killed, it leaves them and its mounts behind.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--"]);
        command.arg("mmdebstrap").args(arguments(base, sources, lock)).env_clear();
        // Nothing of the daemon's environment may change an image.
        command.env("PATH", PATH).env("LC_ALL", "C.UTF-8").env("HOME", "/root").env("TMPDIR", scratch);
        command.env("SOURCE_DATE_EPOCH", epoch.to_string());
        if let Some(lock) = lock {
            let pins = scratch.join("pins");
            std::fs::write(&pins, lock.apt_preferences()).map_err(BootstrapError::Run)?;
            command.env(PINS, pins);
        }
        // How the host reaches the mirror is the host's business and leaves no trace in the image.
        for proxy in ["http_proxy", "https_proxy", "no_proxy"] {
            if let Some(value) = std::env::var_os(proxy) {
                command.env(proxy, value);
            }
        }
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.map_err(BootstrapError::Run)?;
        let (archive, stderr) = (child.stdout.take(), child.stderr.take());
        let (Some(archive), Some(mut stderr)) = (archive, stderr) else {
            return Err(BootstrapError::Run(io::Error::other("it has no pipes")));
        };
        let step = Arc::new(Mutex::new(BootstrapStep::Begin));
        let said = step.clone();
        let messages = std::thread::spawn(move || {
            let mut tail = VecDeque::new();
            let mut lines = StepLines::default();
            let mut buffer = [0; 1024];
            while let Ok(got @ 1..) = stderr.read(&mut buffer) {
                if let Some(last) = lines.take(&buffer[..got]) {
                    *said.lock().unwrap_or_else(PoisonError::into_inner) = last;
                }
                tail.extend(&buffer[..got]);
                tail.drain(..tail.len().saturating_sub(MESSAGE_BYTES));
            }
            tail
        });
        Ok(Self { child, archive, messages: Some(messages), step, ended: false })
    }

    /// What it does now, by its own words.
    pub(super) fn step(&self) -> BootstrapStep {
        *self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where its archive comes out. It is silent for as long as it downloads and installs.
    pub(super) fn archive(&self) -> io::Result<File> {
        Ok(self.archive.as_fd().try_clone_to_owned()?.into())
    }

    /// Waits for its end after the archive was read, and says whether the archive is good.
    pub(super) fn finish(mut self) -> Result<(), BootstrapError> {
        // What is left of an archive that was refused: with its pipe closed it would say that it cannot write.
        io::copy(&mut self.archive, &mut io::sink()).map_err(BootstrapError::Run)?;
        let status = self.child.wait().map_err(BootstrapError::Run)?;
        self.ended = true;
        if status.success() {
            return Ok(());
        }
        let tail = self.messages.take().and_then(|messages| messages.join().ok()).unwrap_or_default();
        let output = String::from_utf8_lossy(&tail.into_iter().collect::<Vec<_>>()).into_owned();
        Err(BootstrapError::Failed { status: status.to_string(), output })
    }
}

impl Drop for Bootstrap {
    /// A build that ends early ends the program with everything that it started.
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // It may have ended by itself; reaped, whatever it was: there is nobody left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // All its processes write their messages to one pipe: its end is the end of the last of them, and what they
        // have unpacked can be removed.
        let _ = self.messages.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_failure_the_cause_is_told_and_not_what_followed_from_it() {
        let output = "I: running apt-get update...\nE: Unable to locate package nosuch\n\
                      E: setup failed: E: apt-get -o Dir::Bin::dpkg=env failed\nE: mmdebstrap failed to run\n";
        let error = BootstrapError::Failed { status: "exit status: 25".to_owned(), output: output.to_owned() };
        assert_eq!(error.to_string(), "mmdebstrap ended with exit status: 25: Unable to locate package nosuch");
        assert_eq!(complaints("E: mmdebstrap failed to run\n"), "E: mmdebstrap failed to run", "better than nothing");
    }

    #[test]
    fn the_step_is_the_last_that_a_whole_line_tells_of_in_whatever_pieces_it_comes() {
        let output =
            b"I: automatically chosen mode: root\nI: running apt-get update...\rdone\n\xff\xfe\x1b[2J I: cleaning\n\
                       I: downloading packages with apt...\nI: extracting archives...";
        let mut whole = StepLines::default();
        assert_eq!(whole.take(output), Some(BootstrapStep::Download), "the last line has no end yet");
        assert_eq!(whole.take(b"\n"), Some(BootstrapStep::Extract));
        let mut pieces = StepLines::default();
        let told: Vec<_> = output.chunks(1).filter_map(|piece| pieces.take(piece)).collect();
        assert_eq!(told, [BootstrapStep::Lists, BootstrapStep::Download]);
        let mut endless = StepLines::default();
        assert_eq!(endless.take(&[b'x'; 100_000]), None);
        assert!(endless.line.len() <= LINE_BYTES);
        assert!(STEPS.iter().all(|(beginning, _)| beginning.len() < LINE_BYTES));
    }

    fn base(suite: &str) -> DebianBase {
        DebianBase {
            suite: suite.to_owned(),
            mirror: None,
            variant: "minbase".to_owned(),
            components: vec!["main".to_owned()],
            packages: vec!["curl".to_owned(), "g++=4:12".to_owned()],
            remove: vec![],
        }
    }

    const HOST: &str = "Types: deb\n# a comment\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
        Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n\
        Types: deb\nURIs: http://mirror.example/security\nSuites: bookworm-security\nComponents: main contrib\n\n\
        Types: deb\nURIs: https://other.example/apt\nSuites: bookworm\nComponents: stable\n\n\
        Types: deb\nEnabled: no\nURIs: http://off.example/debian\nSuites: bookworm\nComponents: main\n";

    #[test]
    fn the_hosts_own_sources_are_used_and_those_of_others_are_not() {
        let lines = source_lines(&parse_deb822(HOST), &base("bookworm"), Some("bookworm"));
        let key = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
        assert_eq!(
            lines,
            [
                format!("deb {key} http://mirror.example/debian bookworm main"),
                format!("deb {key} http://mirror.example/debian bookworm-updates main"),
                "deb http://mirror.example/security bookworm-security main".to_owned(),
            ]
        );
    }

    #[test]
    fn another_suite_comes_from_the_same_mirror() {
        let sources = parse_one_line(
            "# deb http://no.example x main\ndeb [arch=amd64 signed-by=/k.gpg] http://m.example/debian bookworm main # x\n\
             deb-src http://m.example/debian bookworm main\n",
        );
        assert_eq!(
            source_lines(&sources, &base("trixie"), Some("bookworm")),
            ["deb [signed-by=/k.gpg] http://m.example/debian trixie main"]
        );
        assert_eq!(source_lines(&sources, &base("trixie"), None), Vec::<String>::new());
    }

    #[test]
    fn the_command_line_is_options_an_end_and_operands() {
        let named = DebianBase { mirror: Some("http://m.example/debian".to_owned()), ..base("bookworm") };
        let expected = [
            "--variant=minbase",
            "--format=tar",
            "--skip=cleanup/apt/lists",
            "--components=main",
            "--include=curl,g++=4:12",
            "--",
            "bookworm",
            "-",
            "http://m.example/debian",
        ];
        assert_eq!(arguments(&named, vec!["deb not used".to_owned()], None), expected);
    }

    #[test]
    fn package_names_of_debian_pass_and_others_do_not() {
        for good in ["curl", "g++", "libstdc++6", "zlib1g:amd64", "curl=7.88.1-10+deb12u5", "0ad"] {
            check_package(good).unwrap();
        }
        for bad in ["", "-y", "--purge", "foo-", "Foo", "a b", "a;b", "a=", "$(x)", "a=b c", "a\nb", "?essential"] {
            assert!(check_package(bad).is_err(), "{bad:?}");
        }
    }
}
