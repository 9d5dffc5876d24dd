//! Configuration of OCI images to and from ours.

use std::collections::BTreeMap;

use insula_model::{HealthCheck, ImageConfig, RootAccess, Signal};
use serde_json::{Map, Value, json};

use super::document::{Healthcheck, RunConfig};

/// A configuration that no container could have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertConfigError {
    /// The stop signal is none.
    #[error("stop signal `{}` is unknown", given.escape_debug())]
    StopSignal {
        /// What it says.
        given: String,
    },
    /// A NUL byte, which no argument and no variable can hold.
    #[error("{field} holds a NUL byte")]
    Nul {
        /// Where.
        field: &'static str,
    },
}

/// Docker's defaults, in milliseconds and tries.
const HEALTH_INTERVAL_MS: u64 = 30_000;
const HEALTH_RETRIES: u64 = 3;
const NANOSECONDS_PER_MS: u64 = 1_000_000;

/// Our configuration of an OCI image. Its root is writable unless a container says otherwise, as its makers expect.
pub(super) fn from_oci(run: RunConfig) -> Result<ImageConfig, ConvertConfigError> {
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    let stop_signal = match filled(run.stop_signal) {
        Some(given) => Some(given.parse::<Signal>().map_err(|_| ConvertConfigError::StopSignal { given })?),
        None => None,
    };
    let env: BTreeMap<_, _> = run
        .env
        .unwrap_or_default()
        .into_iter()
        // A name without a value sets nothing.
        .filter_map(|variable| variable.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())))
        .collect();
    let config = ImageConfig {
        entrypoint: run.entrypoint.unwrap_or_default(),
        cmd: run.cmd.unwrap_or_default(),
        env,
        user: filled(run.user),
        workdir: filled(run.working_dir),
        stop_signal,
        health: run.healthcheck.and_then(health_from_oci),
        root: Some(RootAccess::Writable),
        exposed_ports: run.exposed_ports.unwrap_or_default().into_keys().collect(),
        labels: run.labels.unwrap_or_default(),
        ..ImageConfig::default()
    };
    refuse_nul(&config)?;
    Ok(config)
}

fn health_from_oci(check: Healthcheck) -> Option<HealthCheck> {
    let test = check.test?;
    let command = match test.split_first()? {
        (kind, rest) if kind == "CMD" && !rest.is_empty() => rest.to_vec(),
        (kind, [script]) if kind == "CMD-SHELL" => vec!["/bin/sh".to_owned(), "-c".to_owned(), script.clone()],
        _ => return None,
    };
    let ms = |time: Option<u64>| time.filter(|ns| *ns > 0).map(|ns| ns.div_ceil(NANOSECONDS_PER_MS));
    let interval_ms = ms(check.interval).unwrap_or(HEALTH_INTERVAL_MS);
    let retries = check.retries.filter(|count| *count > 0).unwrap_or(HEALTH_RETRIES);
    let deadline_ms = ms(check.start_period).unwrap_or(0).saturating_add(interval_ms.saturating_mul(retries));
    let retries = u32::try_from(retries).ok();
    Some(HealthCheck { command, interval_ms, deadline_ms, timeout_ms: ms(check.timeout), retries })
}

/// Refuses NUL bytes wherever a program would be given them.
pub(crate) fn refuse_nul(config: &ImageConfig) -> Result<(), ConvertConfigError> {
    let health = config.health.iter().flat_map(|health| &health.command);
    let fields: [(&'static str, Vec<&String>); 6] = [
        ("the command", config.entrypoint.iter().chain(&config.cmd).chain(&config.init).collect()),
        ("the environment", config.env.iter().flat_map(|(name, value)| [name, value]).collect()),
        ("the user", config.user.iter().collect()),
        ("the working directory", config.workdir.iter().collect()),
        ("the health check", health.collect()),
        ("a check", config.checks.iter().flatten().collect()),
    ];
    match fields.iter().find(|(_, texts)| texts.iter().any(|text| text.contains('\0'))) {
        Some((field, _)) => Err(ConvertConfigError::Nul { field }),
        None => Ok(()),
    }
}

/// The `config` object of an OCI image of ours; only what is set is in it.
pub(super) fn to_oci(config: &ImageConfig) -> Value {
    let mut run = Map::new();
    let mut set = |key: &str, value: Value| run.insert(key.to_owned(), value);
    if let Some(user) = &config.user {
        set("User", json!(user));
    }
    if !config.exposed_ports.is_empty() {
        let ports: Map<_, _> = config.exposed_ports.iter().map(|port| (port.clone(), json!({}))).collect();
        set("ExposedPorts", Value::Object(ports));
    }
    if !config.env.is_empty() {
        let env: Vec<_> = config.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        set("Env", json!(env));
    }
    // A full-init image runs its init where others run their command.
    if let Some(init) = &config.init {
        set("Entrypoint", json!([init]));
    } else {
        if !config.entrypoint.is_empty() {
            set("Entrypoint", json!(config.entrypoint));
        }
        if !config.cmd.is_empty() {
            set("Cmd", json!(config.cmd));
        }
    }
    if let Some(workdir) = &config.workdir {
        set("WorkingDir", json!(workdir));
    }
    if !config.labels.is_empty() {
        set("Labels", json!(config.labels));
    }
    let stop_signal = config.stop_signal.or(config.init.as_ref().map(|_| Signal::SYSTEMD_HALT));
    if let Some(signal) = stop_signal {
        set("StopSignal", json!(signal.to_string()));
    }
    Value::Object(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: Value) -> Result<ImageConfig, ConvertConfigError> {
        from_oci(serde_json::from_value(json).unwrap())
    }

    #[test]
    fn every_field_of_an_oci_configuration_arrives() {
        let config = parse(json!({
            "User": "www:www", "ExposedPorts": {"80/tcp": {}}, "Env": ["PATH=/bin", "A=b=c", "UNSET"],
            "Entrypoint": ["/entry"], "Cmd": ["a", "b"], "WorkingDir": "/srv", "Labels": {"k": "v"},
            "StopSignal": "SIGQUIT", "Volumes": {"/x": {}},
            "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000_u64, "Retries": 2},
        }));
        let config = config.unwrap();
        assert_eq!(config.entrypoint, ["/entry"]);
        assert_eq!(config.cmd, ["a", "b"]);
        assert_eq!(config.env.get("A").map(String::as_str), Some("b=c"));
        assert!(!config.env.contains_key("UNSET"));
        assert_eq!(config.user.as_deref(), Some("www:www"));
        assert_eq!(config.workdir.as_deref(), Some("/srv"));
        assert_eq!(config.exposed_ports, ["80/tcp"]);
        assert_eq!(config.stop_signal, Some("SIGQUIT".parse().unwrap()));
        assert_eq!(config.root, Some(RootAccess::Writable));
        let health = config.health.unwrap();
        assert_eq!(health.command, ["/bin/sh", "-c", "true"]);
        assert_eq!((health.interval_ms, health.deadline_ms), (5_000, 10_000));
    }

    #[test]
    fn nulls_and_absent_fields_are_nothing() {
        let config = parse(json!({"Cmd": null, "Env": null, "Labels": null, "StopSignal": "", "User": ""})).unwrap();
        assert_eq!(config, ImageConfig { root: Some(RootAccess::Writable), ..ImageConfig::default() });
    }

    #[test]
    fn what_no_container_could_have_is_refused() {
        assert!(matches!(parse(json!({"StopSignal": "SIGNOPE"})), Err(ConvertConfigError::StopSignal { .. })));
        for bad in [json!({"Cmd": ["a\u{0}"]}), json!({"Env": ["A=\u{0}"]}), json!({"User": "\u{0}"})] {
            assert!(matches!(parse(bad), Err(ConvertConfigError::Nul { .. })));
        }
    }

    #[test]
    fn a_configuration_survives_the_way_out_and_in() {
        let config = ImageConfig {
            cmd: vec!["/bin/sh".to_owned()],
            env: BTreeMap::from([("A".to_owned(), "1".to_owned())]),
            user: Some("1000".to_owned()),
            stop_signal: Some(Signal::KILL),
            root: Some(RootAccess::Writable),
            ..ImageConfig::default()
        };
        assert_eq!(parse(to_oci(&config)).unwrap(), config);
    }
}
