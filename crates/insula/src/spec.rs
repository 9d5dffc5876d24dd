//! From the options of `run` and `create` to the container that is asked for.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use insula_api::CreateContainer;
use insula_model::{ContainerSpec, HealthCheck, LogMode, StdinMode, VolumeMount};

use crate::args::{HealthArgs, SpecArgs};
use crate::failure::{Failure, chain};
use crate::text_file;
use crate::values::{KeyValue, Variable, milliseconds, split_words};

/// Milliseconds from one health check to the next when the command line names the check.
const HEALTH_INTERVAL_MS: u64 = 30_000;

/// Milliseconds until a container whose check the command line names must be healthy.
const HEALTH_DEADLINE_MS: u64 = 60_000;

/// Largest file of environment variables, in bytes.
const ENV_FILE_BYTES_MAX: u64 = 1 << 20;

/// What the options are relative to.
#[allow(missing_debug_implementations, reason = "a closure has nothing to show")]
pub struct Surroundings<'a> {
    /// Looks a variable of the caller's environment up.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// The caller's working directory.
    pub directory: &'a Path,
}

/// What happens to the container besides being created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// It stays when it ends.
    Kept,
    /// It is deleted when it ends (`--rm`).
    Removed,
}

impl From<bool> for Lifetime {
    fn from(rm: bool) -> Self {
        if rm { Self::Removed } else { Self::Kept }
    }
}

/// The request that creates what the options say, neither started nor attached.
///
/// # Errors
///
/// A file of environment variables cannot be read or parsed, a volume is malformed, a command line has an open
/// quotation, or the options contradict each other.
pub fn create_request(
    args: SpecArgs,
    lifetime: Lifetime,
    around: &Surroundings<'_>,
) -> Result<CreateContainer, Failure> {
    let mut spec = ContainerSpec::new(args.image);
    spec.env = environment(&args.env.env, &args.env.env_file, around)?;
    spec.labels = pairs(args.env.label);
    spec.command = args.command;
    // As in the field: one program; an empty one takes the image's away.
    spec.entrypoint = args.entrypoint.map(|program| if program.is_empty() { Vec::new() } else { vec![program] });
    spec.workdir = args.workdir;
    spec.user = args.user;
    spec.hostname = args.hostname;
    spec.timezone = args.timezone;
    spec.init = args.init.map(Into::into);
    spec.root = args.root.map(Into::into);
    spec.restart = args.restart;
    spec.stop_signal = args.stop_signal;
    spec.stop_timeout_ms = args.stop_timeout.map(milliseconds);
    spec.health = health_check(&args.health)?;
    spec.log = if args.no_log { LogMode::Discarded } else { LogMode::Kept };
    spec.tty = args.tty;
    spec.stdin = if args.interactive { StdinMode::Open } else { StdinMode::Closed };
    spec.volumes = args.mounts.volume.iter().map(|given| volume(given, around)).collect::<Result<_, _>>()?;
    spec.tmpfs = args.mounts.tmpfs;
    spec.devices = args.mounts.device;
    spec.network = args.network.network.into();
    spec.ports = args.network.publish.into_iter().flat_map(|range| range.0).collect();
    spec.dns = args.network.dns;
    spec.hosts = args.network.add_host;
    spec.cap_add = args.isolation.cap_add;
    spec.cap_drop = args.isolation.cap_drop;
    spec.privileged = args.isolation.privileged;
    spec.no_new_privileges = args.isolation.no_new_privileges;
    spec.sysctls = pairs(args.isolation.sysctl);
    spec.template = args.template;
    spec.resources.memory_limit = args.limits.memory;
    spec.resources.cpu_limit = args.limits.cpus;
    spec.resources.pids_limit = args.limits.pids_limit;
    spec.resources.ulimits = args.limits.ulimit;
    for KeyValue { key, value } in &args.settings {
        spec.apply(key, value).map_err(|error| Failure::argument(format!("--set {key}={value}"), chain(&error)))?;
    }
    if lifetime == Lifetime::Removed && spec.restart != insula_model::RestartPolicy::No {
        return Err(Failure::argument("--rm", "a container that is deleted when it ends cannot have --restart"));
    }
    let (name, strict, remove) = (args.name, args.strict, lifetime == Lifetime::Removed);
    Ok(CreateContainer { name, spec, strict, remove, attach: false, start: false })
}

/// A command that tells health, from one text.
///
/// # Errors
///
/// It is empty or has an open quotation.
pub fn health_command(given: &str) -> Result<Vec<String>, Failure> {
    match split_words(given) {
        Ok(words) if words.is_empty() => Err(Failure::argument("--health", "the command is empty")),
        Ok(words) => Ok(words),
        Err(error) => Err(Failure::argument("--health", error.to_string())),
    }
}

fn health_check(args: &HealthArgs) -> Result<Option<HealthCheck>, Failure> {
    let interval_ms = args.health_interval.map_or(HEALTH_INTERVAL_MS, milliseconds);
    let command = match (&args.health, &args.health_cmd) {
        _ if args.no_healthcheck => Vec::new(),
        (Some(words), _) => health_command(words)?,
        (None, Some(script)) => ["/bin/sh", "-c", script.as_str()].map(str::to_owned).to_vec(),
        (None, None) => return Ok(None),
    };
    let deadline_ms = args.health_start_period.map_or(HEALTH_DEADLINE_MS, |period| milliseconds(period).max(100));
    let (timeout_ms, retries) = (args.health_timeout.map(milliseconds), args.health_retries);
    Ok(Some(HealthCheck { command, interval_ms, deadline_ms, timeout_ms, retries }))
}

fn pairs(given: Vec<KeyValue>) -> BTreeMap<String, String> {
    given.into_iter().map(|KeyValue { key, value }| (key, value)).collect()
}

/// Files in order, then options in order; the last one of a name wins.
///
/// # Errors
///
/// A file cannot be read or has a line that is no variable.
pub fn environment(
    options: &[Variable],
    files: &[PathBuf],
    around: &Surroundings<'_>,
) -> Result<BTreeMap<String, String>, Failure> {
    let mut env = BTreeMap::new();
    let mut add = |Variable { key, value }: Variable| {
        // As in the field: without value it is the caller's, and nothing if the caller has none.
        if let Some(value) = value.or_else(|| (around.variable)(&key)) {
            env.insert(key, value);
        }
    };
    for file in files {
        let text = text_file::read(&around.directory.join(file), ENV_FILE_BYTES_MAX)?;
        for variable in env_file_lines(&text, file)? {
            add(variable);
        }
    }
    options.iter().cloned().for_each(add);
    Ok(env)
}

/// Empty lines and those that begin with `#` are skipped; quotes are part of the value, as in the field.
fn env_file_lines(text: &str, path: &Path) -> Result<Vec<Variable>, Failure> {
    let mut variables = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let argument = || format!("--env-file {} line {}", path.display(), index + 1);
        let variable: Variable = line.parse().map_err(|error| {
            let error: crate::values::ParseValueError = error;
            Failure::argument(argument(), error.to_string())
        })?;
        if variable.key.contains(char::is_whitespace) {
            return Err(Failure::argument(
                argument(),
                format!("`{}` contains white space", variable.key.escape_debug()),
            ));
        }
        variables.push(variable);
    }
    Ok(variables)
}

/// `SRC:DST[:ro]` whose SRC may begin with `.` or `~/`: it is the caller's, and made absolute here.
fn volume(given: &str, around: &Surroundings<'_>) -> Result<VolumeMount, Failure> {
    let absolute = match given.split_once(':') {
        Some((source, rest))
            if source == "." || source == ".." || source.starts_with("./") || source.starts_with("../") =>
        {
            format!("{}:{rest}", plain_absolute(&around.directory.join(source)))
        }
        Some((source, rest)) if source.len() > 1 && source.starts_with('/') => {
            format!("{}:{rest}", source.trim_end_matches('/'))
        }
        _ => given.to_owned(),
    };
    absolute.parse().map_err(|error: insula_model::ParseVolumeError| Failure::Argument {
        argument: "--volume".to_owned(),
        reason: error.to_string(),
        remedy: Some("write SRC:DST, both absolute or SRC beginning with ./".to_owned()),
    })
}

/// An absolute path without `.` and `..`, by its text alone: the node resolves links itself.
fn plain_absolute(path: &Path) -> String {
    let mut parts = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name),
            Component::ParentDir => {
                parts.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    parts.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};

    fn request(options: &[&str]) -> Result<CreateContainer, Failure> {
        let words = ["insula", "run"].into_iter().chain(options.iter().copied());
        let Command::Run(run) = Cli::read(words.map(Into::into)).unwrap().command else { panic!("run") };
        let variable = |name: &str| (name == "HOME").then(|| "/home/me".to_owned());
        let around = Surroundings { variable: &variable, directory: Path::new("/work/site") };
        create_request(run.spec, run.rm.into(), &around)
    }

    #[test]
    #[allow(clippy::too_many_lines, reason = "one table of options")]
    fn options_of_the_contract_reach_the_specification() {
        let request = request(&[
            "--rm",
            "-it",
            "--name",
            "web",
            "-e",
            "A=b=c",
            "-e",
            "HOME",
            "-e",
            "NONE",
            "-w",
            "/srv",
            "-u",
            "www:www",
            "--hostname",
            "h",
            "-v",
            "./data:/data2:ro",
            "-v",
            "/srv/:/srv",
            "-p",
            "127.0.0.1:8080:80",
            "-p",
            "53:53/udp",
            "--init",
            "insula",
            "--root",
            "writable",
            "--cap-add",
            "NET_ADMIN",
            "--cap-drop",
            "ALL",
            "--device",
            "/dev/fuse",
            "--privileged",
            "--network",
            "none",
            "--tmpfs",
            "/t:size=1m",
            "--ulimit",
            "core=0",
            "--sysctl",
            "net.ipv4.ip_forward=1",
            "--label",
            "a=b",
            "--label",
            "c",
            "--entrypoint",
            "",
            "--stop-timeout",
            "2.5",
            "--dns",
            "1.1.1.1",
            "--add-host",
            "db:10.0.0.7",
            "--memory",
            "256MiB",
            "--cpus",
            "1.5",
            "--no-log",
            "--strict",
            "--timezone",
            "Europe/Rome",
            "--health",
            "test -f '/a b'",
            "debian@12",
            "sh",
            "-c",
            "exit 3",
            "--rm",
        ])
        .unwrap();
        assert!(request.strict && request.remove && !request.attach && !request.start);
        insta::assert_json_snapshot!(request.spec);
    }

    #[test]
    fn a_restart_policy_and_removal_contradict_each_other() {
        assert_eq!(request(&["--rm", "--restart", "always", "x"]).unwrap_err().exit_code(), 2);
        assert!(request(&["--restart", "on-failure:3", "x"]).is_ok());
    }

    #[test]
    fn settings_go_over_options() {
        let spec =
            request(&["--memory", "1GiB", "--set", "memory.limit=64MiB", "--set", "label.a=b", "i"]).unwrap().spec;
        assert_eq!(spec.resources.memory_limit, Some(insula_model::Bytes::mib(64)));
        assert_eq!(spec.labels["a"], "b");
        let failure = request(&["--set", "memroy.limit=1", "i"]).unwrap_err();
        assert_eq!(failure.exit_code(), 2);
        assert!(failure.chain().contains("memory.limit"), "{}", failure.chain());
    }

    #[test]
    fn a_template_is_named_beside_the_limits_that_go_before_it() {
        let spec = request(&["--template", "small", "--set", "pids.limit=5", "x"]).unwrap().spec;
        assert_eq!(spec.template.unwrap().as_str(), "small");
        assert_eq!((spec.resources.pids_limit, spec.resources.memory_limit), (Some(5), None));
    }

    #[test]
    fn a_relative_volume_is_the_callers() {
        for (given, source) in
            [(".:/x", "/work/site"), ("../a/./b:/x", "/work/a/b"), ("./..:/x:ro", "/work"), ("/a//:/x", "/a")]
        {
            assert_eq!(request(&["-v", given, "i"]).unwrap().spec.volumes[0].source, source, "{given}");
        }
        assert_eq!(request(&["-v", "data:/x", "i"]).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn files_of_variables_are_read_before_options() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("env");
        std::fs::write(&path, "# comment\n\nA=1\nB=\"two\" \n  HOME\nNONE\n").unwrap();
        let path = path.to_str().unwrap();
        let env = request(&["--env-file", path, "-e", "A=2", "i"]).unwrap().spec.env;
        let expected = [("A", "2"), ("B", "\"two\" "), ("HOME", "/home/me")];
        assert_eq!(env, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        std::fs::write(path, "A=1\nB C=2\n").unwrap();
        let failure = request(&["--env-file", path, "i"]).unwrap_err();
        assert!(failure.to_string().ends_with("line 2: `B C` contains white space"), "{failure}");
        assert_eq!(request(&["--env-file", "/no/such/file", "i"]).unwrap_err().exit_code(), 1);
    }
}
