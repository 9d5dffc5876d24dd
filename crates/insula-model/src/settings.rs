//! Changing one setting of a container by its key: `insula set NAME KEY=VALUE`.
//!
//! Keys are a closed list ([`SETTINGS`]); an empty value takes the setting away, so that the image's or the node's
//! default counts again. A change is made as a whole or not at all: the new configuration is checked before the old
//! one is touched.

use std::str::FromStr;

use crate::spelling::nearest;
use crate::{
    CheckSpecError, ContainerSpec, HealthCheck, InitKind, LogMode, NameError, NetworkMode, ParseBytesError,
    ParseCpuLimitError, ParseImageRefError, ParsePortError, ParseRestartPolicyError, ParseSignalError, PublishedPort,
    ResourceSpec, RestartPolicy, RootAccess, Ulimit,
};

/// When a change counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Now, also for a running container.
    Live,
    /// From the next start on.
    NextStart,
}

/// One key of [`ContainerSpec::apply`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// The key. One that ends in `NAME` stands for a key for each name, such as `env.PATH`.
    pub key: &'static str,
    /// One line: what it is, in which form or unit.
    pub help: &'static str,
    /// When a change counts.
    pub effect: Effect,
}

macro_rules! settings {
    ($($effect:ident $key:literal $help:literal;)*) => {
        /// Every key, in alphabetical order.
        pub const SETTINGS: &[Setting] = &[$(Setting { key: $key, help: $help, effect: Effect::$effect }),*];
    };
}

settings! {
    NextStart "cap.add" "capabilities beside the default ones, separated by commas: NET_ADMIN,SYS_NICE";
    NextStart "cap.drop" "capabilities taken away, separated by commas; ALL is every one";
    Live "cpu.limit" "most processor time in processors, 0.01 to 4096: 1.5";
    Live "cpu.weight" "share of contended processors, 1 to 10000; 100 is everybody's";
    NextStart "data.size" "most bytes in /data, and in a writable root: 10GiB; it only grows";
    NextStart "dns" "name servers by address, at most 3, separated by commas";
    NextStart "env.NAME" "environment variable NAME";
    NextStart "files.limit" "most open files of one process, 32 or more";
    Live "health.command" "shell command inside that exits 0 when the container is healthy";
    Live "health.deadline" "time from the start until it must be healthy: 60s";
    Live "health.interval" "time between two health checks: 5s";
    Live "health.retries" "failures in a row that make it unhealthy: 3";
    Live "health.timeout" "time that one health check may take: 30s";
    NextStart "hostname" "host name; the container's name when empty";
    NextStart "image" "image, or image@version, of the next start";
    NextStart "init" "who is process 1: insula, or image for the image's own init system";
    Live "label.NAME" "free text under the key NAME";
    NextStart "log" "whether its output is kept: kept or discarded";
    Live "memory.guarantee" "memory that the node promises; its limit when empty: 64MiB";
    Live "memory.limit" "most memory, page cache and tmpfs included: 256MiB";
    NextStart "network" "network stack: default, none or host";
    NextStart "no_new_privileges" "whether set-user-id programs lose their effect: true or false";
    Live "pids.limit" "most processes and threads";
    NextStart "ports" "published ports, separated by commas: 8080:80,127.0.0.1:53:53/udp,9000-9009:9000-9009";
    Live "restart" "when it ends by itself: no, on-failure, on-failure:5 or always";
    NextStart "root" "whether / can be written to: read-only or writable";
    Live "stop.signal" "signal that asks it to stop: SIGTERM";
    Live "stop.timeout" "time from that signal to the kill: 10s";
    NextStart "sysctl.NAME" "kernel setting NAME of its own namespaces: sysctl.net.ipv4.ip_forward";
    Live "template" "where limits come from that it does not name itself; files and data.size count at the next start";
    NextStart "timezone" "time zone: Europe/Rome";
    NextStart "ulimit.NAME" "resource limit NAME as SOFT or SOFT:HARD: ulimit.core=0";
    NextStart "user" "who runs the command: NAME, UID, NAME:GROUP or UID:GID";
    NextStart "workdir" "working directory of the command";
}

/// A change that is refused; the configuration is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// There is no such setting.
    #[error("setting `{}` is unknown; the nearest is {nearest}", key.escape_debug())]
    UnknownKey {
        /// What was given.
        key: String,
        /// The key of the list that is spelt most alike.
        nearest: &'static str,
    },
    /// The value is none for this key.
    #[error("setting {key}")]
    BadValue {
        /// Which.
        key: String,
        /// What is wrong.
        #[source]
        source: ValueError,
    },
    /// It is none of the limits, which templates are made of.
    #[error("setting {key} is no limit; a template has cpu., memory., pids., files., data. and ulimit. settings")]
    NoLimit {
        /// Which.
        key: &'static str,
    },
    /// A container has no default for this.
    #[error("setting {key} needs a value")]
    NoValue {
        /// Which.
        key: String,
    },
}

/// What is wrong with a setting's value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// No amount of bytes.
    #[error(transparent)]
    Bytes(#[from] ParseBytesError),
    /// No name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No number of processors.
    #[error(transparent)]
    Cpu(#[from] ParseCpuLimitError),
    /// No image.
    #[error(transparent)]
    Image(#[from] ParseImageRefError),
    /// No restart policy.
    #[error(transparent)]
    Restart(#[from] ParseRestartPolicyError),
    /// No signal.
    #[error(transparent)]
    Signal(#[from] ParseSignalError),
    /// No port.
    #[error(transparent)]
    Port(#[from] ParsePortError),
    /// It is understood, and cannot stand.
    #[error(transparent)]
    Check(#[from] CheckSpecError),
    /// Not a whole number.
    #[error("`{}` is not a whole number", given.escape_debug())]
    Number {
        /// What was given.
        given: String,
    },
    /// Not a time.
    #[error("`{}` is not a time; write a whole number with ms, s, m or h, like 10s", given.escape_debug())]
    Duration {
        /// What was given.
        given: String,
    },
    /// Not an address.
    #[error("`{}` is not an IPv4 or IPv6 address", given.escape_debug())]
    Address {
        /// What was given.
        given: String,
    },
    /// Not one of the words.
    #[error("`{}` is not {choices}", given.escape_debug())]
    Choice {
        /// What was given.
        given: String,
        /// The words, as a list for people.
        choices: &'static str,
    },
    /// A health check needs a command before its times.
    #[error("there is no health check yet; set health.command first")]
    NoHealthCommand,
}

/// Milliseconds between two health checks that do not say.
const HEALTH_INTERVAL_MS: u64 = 30_000;
/// Milliseconds until a container whose health check does not say must be healthy.
const HEALTH_DEADLINE_MS: u64 = 60_000;

impl ContainerSpec {
    /// Sets `key` to `value`, or takes it away when `value` is empty.
    ///
    /// # Errors
    ///
    /// The key is unknown, or the value is none for it; the configuration is as it was.
    pub fn apply(&mut self, key: &str, value: &str) -> Result<Effect, SettingError> {
        let (setting, name) = find(key)?;
        let mut changed = self.clone();
        let bad = |source: ValueError| SettingError::BadValue { key: key.to_owned(), source };
        if setting.key == "image" && value.is_empty() {
            return Err(SettingError::NoValue { key: key.to_owned() });
        }
        match name {
            Some(name) => changed.set_named(setting.key, name, value),
            None if setting.key.contains('.') => changed.set_number(setting.key, value),
            None => changed.set_plain(setting.key, value),
        }
        .map_err(bad)?;
        changed.check().map_err(|error| bad(error.into()))?;
        *self = changed;
        Ok(setting.effect)
    }

    /// `env.NAME` and its like.
    fn set_named(&mut self, key: &str, name: &str, value: &str) -> Result<(), ValueError> {
        if key == "ulimit.NAME" {
            return self.resources.set_ulimit(name, value);
        }
        let map = match key {
            "env.NAME" => &mut self.env,
            "sysctl.NAME" => &mut self.sysctls,
            _ => &mut self.labels,
        };
        if value.is_empty() {
            map.remove(name);
        } else {
            map.insert(name.to_owned(), value.to_owned());
        }
        Ok(())
    }

    /// Keys with a dot: numbers, times and lists by group.
    fn set_number(&mut self, key: &str, value: &str) -> Result<(), ValueError> {
        if is_limit(key) {
            return self.resources.set(key, value);
        }
        match key {
            "cap.add" => self.cap_add = list(value),
            "cap.drop" => self.cap_drop = list(value),
            "stop.signal" => self.stop_signal = parsed(value)?,
            "stop.timeout" => self.stop_timeout_ms = duration_ms(value)?,
            _ => self.set_health(key, value)?,
        }
        Ok(())
    }

    fn set_health(&mut self, key: &str, value: &str) -> Result<(), ValueError> {
        if key == "health.command" {
            // A shell reads it, as people write it; an image without a shell names its check itself.
            let command = ["/bin/sh", "-c", value].map(str::to_owned).to_vec();
            let (interval_ms, deadline_ms) = match &self.health {
                Some(health) => (health.interval_ms, health.deadline_ms),
                None => (HEALTH_INTERVAL_MS, HEALTH_DEADLINE_MS),
            };
            let (timeout_ms, retries) = self.health.as_ref().map_or((None, None), |now| (now.timeout_ms, now.retries));
            let check = HealthCheck { command, interval_ms, deadline_ms, timeout_ms, retries };
            self.health = (!value.is_empty()).then_some(check);
            return Ok(());
        }
        let health = self.health.as_mut().ok_or(ValueError::NoHealthCommand)?;
        match key {
            "health.interval" => health.interval_ms = duration_ms(value)?.unwrap_or(HEALTH_INTERVAL_MS),
            "health.retries" => health.retries = number(value)?,
            "health.timeout" => health.timeout_ms = duration_ms(value)?,
            _ => health.deadline_ms = duration_ms(value)?.unwrap_or(HEALTH_DEADLINE_MS),
        }
        Ok(())
    }

    /// Keys of one word.
    fn set_plain(&mut self, key: &str, value: &str) -> Result<(), ValueError> {
        let text = || (!value.is_empty()).then(|| value.to_owned());
        match key {
            "image" => self.image = value.parse()?,
            "hostname" => self.hostname = text(),
            "template" => self.template = parsed(value)?,
            "timezone" => self.timezone = text(),
            "user" => self.user = text(),
            "workdir" => self.workdir = text(),
            "restart" => self.restart = parsed(value)?.unwrap_or(RestartPolicy::No),
            "init" => {
                self.init =
                    choice(value, "insula or image", &[("insula", InitKind::Insula), ("image", InitKind::Image)])?;
            }
            "root" => {
                let words = [("read-only", RootAccess::ReadOnly), ("writable", RootAccess::Writable)];
                self.root = choice(value, "read-only or writable", &words)?;
            }
            "log" => {
                let words = [("kept", LogMode::Kept), ("discarded", LogMode::Discarded)];
                self.log = choice(value, "kept or discarded", &words)?.unwrap_or_default();
            }
            "network" => {
                let words =
                    [("default", NetworkMode::Default), ("none", NetworkMode::None), ("host", NetworkMode::Host)];
                self.network = choice(value, "default, none or host", &words)?.unwrap_or_default();
            }
            "no_new_privileges" => {
                let words = [("true", true), ("false", false)];
                self.no_new_privileges = choice(value, "true or false", &words)?.unwrap_or_default();
            }
            "ports" => {
                let ranges =
                    list(value).iter().map(|port| PublishedPort::parse_range(port)).collect::<Result<Vec<_>, _>>()?;
                self.ports = ranges.concat();
            }
            _ => {
                let address = |text: &String| text.parse().map_err(|_| ValueError::Address { given: text.clone() });
                self.dns = list(value).iter().map(address).collect::<Result<_, _>>()?;
            }
        }
        Ok(())
    }
}

impl ResourceSpec {
    /// Sets one limit, as [`ContainerSpec::apply`] does.
    ///
    /// # Errors
    ///
    /// The key is unknown or no limit, or the value is none for it; nothing is changed then.
    pub fn apply(&mut self, key: &str, value: &str) -> Result<Effect, SettingError> {
        let (setting, name) = find(key)?;
        if !is_limit(setting.key) {
            return Err(SettingError::NoLimit { key: setting.key });
        }
        let mut changed = self.clone();
        let bad = |source: ValueError| SettingError::BadValue { key: key.to_owned(), source };
        match name {
            Some(name) => changed.set_ulimit(name, value),
            None => changed.set(setting.key, value),
        }
        .map_err(bad)?;
        changed.check().map_err(|error| bad(error.into()))?;
        *self = changed;
        Ok(setting.effect)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), ValueError> {
        match key {
            "cpu.limit" => self.cpu_limit = parsed(value)?,
            "cpu.weight" => self.cpu_weight = number(value)?,
            "data.size" => self.data_size = parsed(value)?,
            "files.limit" => self.files_limit = number(value)?,
            "memory.guarantee" => self.memory_guarantee = parsed(value)?,
            "memory.limit" => self.memory_limit = parsed(value)?,
            _ => self.pids_limit = number(value)?,
        }
        Ok(())
    }

    fn set_ulimit(&mut self, name: &str, value: &str) -> Result<(), ValueError> {
        self.ulimits.retain(|limit| limit.name != name);
        if !value.is_empty() {
            let (soft, hard) = value.split_once(':').unwrap_or((value, value));
            self.ulimits.push(Ulimit { name: name.to_owned(), soft: limit(soft)?, hard: limit(hard)? });
        }
        Ok(())
    }
}

/// When a change of `key` counts.
///
/// # Errors
///
/// The key is unknown.
pub fn effect_of(key: &str) -> Result<Effect, SettingError> {
    find(key).map(|(setting, _)| setting.effect)
}

/// Whether a setting is one of [`ResourceSpec`].
fn is_limit(key: &str) -> bool {
    ["cpu.", "data.", "files.", "memory.", "pids.", "ulimit."].iter().any(|group| key.starts_with(group))
}

/// The setting of a key, and the name in it.
fn find(key: &str) -> Result<(&'static Setting, Option<&str>), SettingError> {
    for setting in SETTINGS {
        match setting.key.strip_suffix("NAME") {
            None if setting.key == key => return Ok((setting, None)),
            Some(prefix) => match key.strip_prefix(prefix) {
                Some(name) if !name.is_empty() => return Ok((setting, Some(name))),
                _ => {}
            },
            None => {}
        }
    }
    let nearest = nearest(key, SETTINGS.iter().map(|setting| setting.key)).unwrap_or_default();
    Err(SettingError::UnknownKey { key: key.chars().take(128).collect(), nearest })
}

/// The value's type reads it; empty is none.
fn parsed<T: FromStr>(value: &str) -> Result<Option<T>, ValueError>
where
    ValueError: From<T::Err>,
{
    if value.is_empty() { Ok(None) } else { Ok(Some(value.parse::<T>()?)) }
}

fn number<T: FromStr>(value: &str) -> Result<Option<T>, ValueError> {
    let wrong = || ValueError::Number { given: value.to_owned() };
    if value.is_empty() {
        return Ok(None);
    }
    // The standard library takes a plus sign as well, and nobody writes one on purpose.
    if !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    value.parse().map(Some).map_err(|_| wrong())
}

/// A resource limit; `unlimited` is the largest number.
fn limit(value: &str) -> Result<u64, ValueError> {
    match value {
        "unlimited" => Ok(u64::MAX),
        value => number(value)?.ok_or_else(|| ValueError::Number { given: value.to_owned() }),
    }
}

/// Milliseconds; a bare number is seconds, as the field has it.
fn duration_ms(value: &str) -> Result<Option<u64>, ValueError> {
    let wrong = || ValueError::Duration { given: value.to_owned() };
    if value.is_empty() {
        return Ok(None);
    }
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = value.split_at(digits);
    let factor = match unit {
        "ms" => 1,
        "s" | "" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    let count: u64 = count.parse().map_err(|_| wrong())?;
    count.checked_mul(factor).map(Some).ok_or_else(wrong)
}

fn choice<T: Copy>(value: &str, choices: &'static str, words: &[(&str, T)]) -> Result<Option<T>, ValueError> {
    if value.is_empty() {
        return Ok(None);
    }
    match words.iter().find(|(word, _)| *word == value) {
        Some((_, meaning)) => Ok(Some(*meaning)),
        None => Err(ValueError::Choice { given: value.chars().take(128).collect(), choices }),
    }
}

/// Words between commas; an empty value is an empty list, an empty word stays one and is refused where it is read.
fn list(value: &str) -> Vec<String> {
    if value.is_empty() { Vec::new() } else { value.split(',').map(|word| word.trim().to_owned()).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bytes;
    use proptest::prelude::*;

    fn spec() -> ContainerSpec {
        ContainerSpec::new("debian@12".parse().unwrap())
    }

    /// A value that stands for each key.
    const EXAMPLES: [(&str, &str); 34] = [
        ("cap.add", "NET_ADMIN,sys_nice"),
        ("cap.drop", "ALL"),
        ("cpu.limit", "1.5"),
        ("cpu.weight", "200"),
        ("data.size", "10GiB"),
        ("dns", "1.1.1.1, ::1"),
        ("env.PATH", "/bin"),
        ("files.limit", "4096"),
        ("health.command", "curl -f localhost"),
        ("health.deadline", "90s"),
        ("health.interval", "500ms"),
        ("health.retries", "5"),
        ("health.timeout", "3s"),
        ("hostname", "web.example.org"),
        ("image", "debian@13"),
        ("init", "image"),
        ("label.owner", "somebody else"),
        ("log", "discarded"),
        ("memory.guarantee", "64MiB"),
        ("memory.limit", "256MiB"),
        ("network", "none"),
        ("no_new_privileges", "true"),
        ("pids.limit", "64"),
        ("ports", "8080:80,53:53/udp"),
        ("restart", "on-failure:3"),
        ("root", "writable"),
        ("stop.signal", "SIGINT"),
        ("stop.timeout", "3"),
        ("sysctl.net.ipv4.ip_forward", "1"),
        ("template", "small"),
        ("timezone", "Europe/Rome"),
        ("ulimit.core", "0:unlimited"),
        ("user", "www-data"),
        ("workdir", "/srv"),
    ];

    #[test]
    fn every_key_of_the_list_can_be_set_and_taken_away() {
        let mut keys: Vec<String> = Vec::new();
        for (key, value) in EXAMPLES {
            let mut changed = spec();
            changed.health = Some(HealthCheck {
                command: vec!["true".to_owned()],
                interval_ms: 1_000,
                deadline_ms: 1_000,
                timeout_ms: Some(1_000),
                retries: Some(1),
            });
            let before = changed.clone();
            changed.apply(key, value).unwrap_or_else(|error| panic!("{key}: {error:?}"));
            assert_ne!(changed, before, "{key}");
            if key != "image" {
                changed.apply(key, "").unwrap_or_else(|error| panic!("{key}: {error:?}"));
            }
            let setting = find(key).unwrap().0;
            assert!(!setting.help.is_empty() && !setting.help.ends_with('.'), "{key}");
            keys.push(setting.key.to_owned());
        }
        assert!(SETTINGS.iter().map(|setting| setting.key).eq(keys.iter().map(String::as_str)), "{keys:?}");
        assert!(SETTINGS.windows(2).all(|pair| pair[0].key < pair[1].key));
    }

    #[test]
    fn values_arrive_where_they_belong() {
        let mut spec = spec();
        assert_eq!(spec.apply("memory.limit", "256MiB"), Ok(Effect::Live));
        assert_eq!(spec.apply("image", "debian@13"), Ok(Effect::NextStart));
        spec.apply("health.command", "test -e /ok && true").unwrap();
        spec.apply("health.interval", "2m").unwrap();
        spec.apply("health.timeout", "2500ms").unwrap();
        spec.apply("health.retries", "4").unwrap();
        spec.apply("ulimit.nofile", "100:200").unwrap();
        spec.apply("label.a.b", "c=d").unwrap();
        assert_eq!(spec.resources.memory_limit, Some(Bytes::mib(256)));
        assert_eq!(spec.image.to_string(), "debian@13");
        let health = spec.health.clone().unwrap();
        assert_eq!((health.interval_ms, health.deadline_ms), (120_000, 60_000));
        assert_eq!((health.timeout_ms, health.retries), (Some(2_500), Some(4)));
        assert_eq!(health.command, ["/bin/sh", "-c", "test -e /ok && true"]);
        assert_eq!(spec.resources.ulimits[0], Ulimit { name: "nofile".to_owned(), soft: 100, hard: 200 });
        assert_eq!(spec.labels["a.b"], "c=d");
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest() {
        for (key, expected) in [("memory", "memory.limit"), ("memry.limit", "memory.limit"), ("hostnam", "hostname")] {
            match spec().apply(key, "1") {
                Err(SettingError::UnknownKey { nearest, .. }) => assert_eq!(nearest, expected),
                other => panic!("{key}: {other:?}"),
            }
        }
        for key in ["", "env.", "label.", "env", "Memory.limit", "memory.limit ", "-e"] {
            assert!(matches!(spec().apply(key, "1"), Err(SettingError::UnknownKey { .. })), "{key}");
        }
    }

    #[test]
    fn a_refused_change_leaves_everything_as_it_was() {
        for (key, value) in [
            ("image", ""),
            ("image", "a b"),
            ("cpu.weight", "+5"),
            ("cpu.weight", "10001"),
            ("pids.limit", "99999999999999999999"),
            ("stop.timeout", "-1s"),
            ("stop.timeout", "999999999999h"),
            ("hostname", "-x"),
            ("user", "root\n"),
            ("env.A=B", "x"),
            ("env.A", "x\0y"),
            ("sysctl.kernel.core_pattern", "|/x"),
            ("network", "bridge"),
            ("dns", "example.org"),
            ("dns", "1.1.1.1,1.1.1.2,1.1.1.3,1.1.1.4"),
            ("ports", "80:80,80:81"),
            ("health.interval", "5s"),
            ("health.timeout", "5s"),
            ("health.retries", "1"),
            ("ulimit.core", "2:1"),
            ("ulimit.cores", "1"),
            ("cap.add", "NET_ADMIN,,"),
        ] {
            let mut changed = spec();
            let error = changed.apply(key, value).unwrap_err();
            assert_eq!(changed, spec(), "{key}={value:?}: {error}");
        }
    }

    #[test]
    fn times_and_counts_of_a_check_have_bounds() {
        let mut with_check = spec();
        with_check.apply("health.command", "true").unwrap();
        for (key, value) in [
            ("health.timeout", "0"),
            ("health.timeout", "99ms"),
            ("health.timeout", "25h"),
            ("health.timeout", "soon"),
            ("health.retries", "0"),
            ("health.retries", "1001"),
            ("health.retries", "1.5"),
        ] {
            let mut changed = with_check.clone();
            let error = changed.apply(key, value).unwrap_err();
            assert_eq!(changed, with_check, "{key}={value:?}: {error}");
        }
    }

    #[test]
    fn a_message_names_the_key_and_its_source_says_why() {
        let error = spec().apply("memory.limit", "12parsecs").unwrap_err();
        assert_eq!(error.to_string(), "setting memory.limit");
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("unknown unit `parsecs`"), "{source}");
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_stands_and_reads_back(index in 0..EXAMPLES.len(), name in ".{0,20}", value in any::<String>()) {
            let (key, _) = EXAMPLES[index];
            // Keys with a name in them get any name.
            let key = match find(key).unwrap().0.key.strip_suffix("NAME") {
                Some(prefix) => format!("{prefix}{name}"),
                None => key.to_owned(),
            };
            let mut changed = spec();
            if changed.apply(&key, &value).is_ok() {
                changed.check().unwrap();
                let json = serde_json::to_string(&changed).unwrap();
                prop_assert!(!json.contains("\\u0000"), "{}", json);
                prop_assert_eq!(serde_json::from_str::<ContainerSpec>(&json).unwrap(), changed);
            } else {
                prop_assert_eq!(changed, spec());
            }
        }

        #[test]
        fn any_answer_is_fit_for_a_terminal(index in 0..EXAMPLES.len() + 5, key in any::<String>(), value in any::<String>()) {
            let mut changed = spec();
            let key = EXAMPLES.get(index).map_or(key.as_str(), |(key, _)| key);
            if let Err(error) = changed.apply(key, &value) {
                let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                let harmless = |text: &str| !text.chars().any(char::is_control);
                prop_assert!(harmless(&error.to_string()) && harmless(&source), "{} {:?}", error, source);
            }
        }

        #[test]
        fn hostile_values_never_reach_a_stored_configuration(
            value in "(-{0,2}[a-z]{0,3}(\0|\n|\"|'|;|\\$\\(x\\)|\u{430}){1,3}[a-z/]{0,3})"
        ) {
            for key in ["hostname", "timezone", "user", "workdir", "image", "restart", "dns", "stop.signal", "network"] {
                prop_assert!(spec().apply(key, &value).is_err(), "{}={:?}", key, value);
            }
        }
    }
}
