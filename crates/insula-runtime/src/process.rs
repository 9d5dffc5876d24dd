//! The processes of a container as process 1 is told to run them.

use std::collections::BTreeMap;
use std::ffi::CString;

use insula_model::{ContainerName, ContainerSpec, ImageConfig};
use insula_plan::protocol::process::{ProcessSpec, Stdio, UserSpec};

use crate::request::{MainStreams, PlanStartError};
use crate::rights::Rights;

/// Where programs are searched when neither container nor image says.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a further process of a container is to be.
#[derive(Debug, Clone, Copy)]
pub struct ExecRequest<'a> {
    /// Command line.
    pub command: &'a [String],
    /// Variables beside the container's.
    pub env: &'a BTreeMap<String, String>,
    /// Working directory; the container's when absent.
    pub workdir: Option<&'a String>,
    /// User; the container's when absent.
    pub user: Option<&'a String>,
}

/// The command line of a container: its own words before those of its image, as the field does it.
pub(crate) fn command_line(spec: &ContainerSpec, config: &ImageConfig) -> Vec<String> {
    let (entrypoint, cmd) = match &spec.entrypoint {
        // A container's own entrypoint takes the image's command away too.
        Some(entrypoint) => (entrypoint.as_slice(), [].as_slice()),
        None => (config.entrypoint.as_slice(), config.cmd.as_slice()),
    };
    let rest = if spec.command.is_empty() { cmd } else { spec.command.as_slice() };
    entrypoint.iter().chain(rest).cloned().collect()
}

/// The environment of a container's processes.
pub(crate) fn environment(
    name: &ContainerName,
    spec: &ContainerSpec,
    config: &ImageConfig,
    terminal: bool,
) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([("PATH".to_owned(), PATH.to_owned())]);
    env.insert("HOSTNAME".to_owned(), host_name(name, spec).to_owned());
    env.insert("container".to_owned(), "insula".to_owned());
    if terminal {
        env.insert("TERM".to_owned(), "xterm".to_owned());
    }
    if let Some(zone) = spec.timezone.as_ref().or(config.timezone.as_ref()) {
        env.insert("TZ".to_owned(), zone.clone());
    }
    for (key, value) in config.env.iter().chain(&spec.env) {
        env.insert(key.clone(), value.clone());
    }
    env
}

/// The host name of a container.
pub(crate) fn host_name<'a>(name: &'a ContainerName, spec: &'a ContainerSpec) -> &'a str {
    spec.hostname.as_deref().unwrap_or(name.as_str())
}

/// The main process of a container under our process 1.
///
/// # Errors
///
/// There is no command, the user is none, or a value has a NUL byte.
pub fn main_process(
    name: &ContainerName,
    spec: &ContainerSpec,
    config: &ImageConfig,
    (rights, streams): (Rights, MainStreams),
) -> Result<ProcessSpec, PlanStartError> {
    let command = command_line(spec, config);
    if command.is_empty() {
        return Err(PlanStartError::NoCommand);
    }
    let terminal = matches!(streams, MainStreams::Terminal(_));
    let mut process = ProcessSpec::new(strings("command", command)?, rights.rule());
    process.env = variables(environment(name, spec, config, terminal))?;
    process.cwd = directory(spec.workdir.as_ref().or(config.workdir.as_ref()))?;
    process.user = user(spec.user.as_ref().or(config.user.as_ref()))?;
    process.new_privileges = rights.new_privileges;
    process.stdio = stdio(streams);
    Ok(process)
}

/// A further process of a container: `command` with `env` beside the container's, in `workdir` and as `user` where
/// given.
///
/// # Errors
///
/// There is no command, the user is none, or a value has a NUL byte.
pub fn exec_process(
    (name, spec, config): (&ContainerName, &ContainerSpec, &ImageConfig),
    request: &ExecRequest<'_>,
    (rights, streams): (Rights, MainStreams),
) -> Result<ProcessSpec, PlanStartError> {
    if request.command.is_empty() {
        return Err(PlanStartError::NoCommand);
    }
    let terminal = matches!(streams, MainStreams::Terminal(_));
    let mut env = environment(name, spec, config, terminal);
    env.extend(request.env.iter().map(|(key, value)| (key.clone(), value.clone())));
    let mut process = ProcessSpec::new(strings("command", request.command.to_vec())?, rights.rule());
    process.env = variables(env)?;
    process.cwd = directory(request.workdir.or(spec.workdir.as_ref()).or(config.workdir.as_ref()))?;
    process.user = user(request.user.or(spec.user.as_ref()).or(config.user.as_ref()))?;
    process.new_privileges = rights.new_privileges;
    process.stdio = stdio(streams);
    Ok(process)
}

fn stdio(streams: MainStreams) -> Stdio {
    match streams {
        MainStreams::Given | MainStreams::Absent => Stdio::Given,
        MainStreams::Terminal(size) => Stdio::Terminal(size),
    }
}

fn user(given: Option<&String>) -> Result<UserSpec, PlanStartError> {
    given.map_or(Ok(UserSpec::ROOT), |given| given.parse().map_err(PlanStartError::User))
}

fn directory(given: Option<&String>) -> Result<CString, PlanStartError> {
    string("working directory", given.map_or("/", String::as_str))
}

/// `text` for a program.
pub(crate) fn string(what: &'static str, text: impl Into<Vec<u8>>) -> Result<CString, PlanStartError> {
    CString::new(text).map_err(|_| PlanStartError::Nul { what })
}

fn strings(what: &'static str, texts: Vec<String>) -> Result<Vec<CString>, PlanStartError> {
    texts.into_iter().map(|text| string(what, text)).collect()
}

/// `NAME=value` for each variable.
pub(crate) fn variables(env: BTreeMap<String, String>) -> Result<Vec<CString>, PlanStartError> {
    env.into_iter().map(|(key, value)| string("environment", format!("{key}={value}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn command_lines_are_put_together_as_in_the_field() {
        let config = ImageConfig { entrypoint: words(&["/init"]), cmd: words(&["serve"]), ..ImageConfig::default() };
        let mut spec = ContainerSpec::new("a".parse().unwrap());
        assert_eq!(command_line(&spec, &config), ["/init", "serve"]);
        spec.command = words(&["check", "-v"]);
        assert_eq!(command_line(&spec, &config), ["/init", "check", "-v"]);
        spec.entrypoint = Some(words(&["sh"]));
        assert_eq!(command_line(&spec, &config), ["sh", "check", "-v"]);
        spec.command.clear();
        assert_eq!(command_line(&spec, &config), ["sh"]);
    }

    #[test]
    fn a_containers_variables_go_before_its_images() {
        let mut config = ImageConfig::default();
        config.env.insert("STAGE".to_owned(), "dev".to_owned());
        let mut spec = ContainerSpec::new("a".parse().unwrap());
        spec.env.insert("STAGE".to_owned(), "prod".to_owned());
        let env = environment(&"web".parse().unwrap(), &spec, &config, true);
        assert_eq!((env["STAGE"].as_str(), env["HOSTNAME"].as_str(), env["TERM"].as_str()), ("prod", "web", "xterm"));
    }

    #[test]
    fn what_cannot_run_is_refused() {
        let spec = ContainerSpec::new("a".parse().unwrap());
        let rights = Rights::resolve(&spec, false).unwrap();
        let name = "web".parse().unwrap();
        let run =
            |spec: &ContainerSpec| main_process(&name, spec, &ImageConfig::default(), (rights, MainStreams::Given));
        assert!(matches!(run(&spec), Err(PlanStartError::NoCommand)));
        let with = |command: &str, user: Option<&str>| ContainerSpec {
            command: words(&[command]),
            user: user.map(str::to_owned),
            ..spec.clone()
        };
        assert!(matches!(run(&with("a\0b", None)), Err(PlanStartError::Nul { what: "command" })));
        assert!(matches!(run(&with("true", Some(":"))), Err(PlanStartError::User(_))));
    }
}
