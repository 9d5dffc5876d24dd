//! Small values of the command line: text to checked value, without looking at the machine.

use std::str::FromStr;
use std::time::Duration;

use insula_model::{Bytes, DeviceSpec, HostEntry, ParsePortError, PublishedPort, TmpfsMount, Ulimit};

/// Size of a `--tmpfs` that names none.
const TMPFS_SIZE_DEFAULT: Bytes = Bytes::mib(64);

/// Permission bits of a `--tmpfs` that names none.
const TMPFS_MODE_DEFAULT: u32 = 0o1777;

/// `KEY=VALUE`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// Before the first `=`; not empty.
    pub key: String,
    /// After it.
    pub value: String,
}

/// `KEY` or `KEY=VALUE`: an environment variable, which without value is taken from the caller's environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Before the first `=`; not empty.
    pub key: String,
    /// After it, if there is one.
    pub value: Option<String>,
}

/// Text that is not of the form that an option takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not {form}", given.escape_debug())]
pub struct ParseValueError {
    given: String,
    form: &'static str,
}

fn wrong(given: &str, form: &'static str) -> ParseValueError {
    ParseValueError { given: given.to_owned(), form }
}

impl FromStr for KeyValue {
    type Err = ParseValueError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        match given.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self { key: key.to_owned(), value: value.to_owned() }),
            _ => Err(wrong(given, "KEY=VALUE")),
        }
    }
}

impl FromStr for Variable {
    type Err = ParseValueError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let (key, value) = match given.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (given, None),
        };
        if key.is_empty() || given.contains('\0') {
            return Err(wrong(given, "KEY=VALUE or KEY"));
        }
        Ok(Self { key: key.to_owned(), value })
    }
}

/// `KEY` or `KEY=VALUE`, as a label.
///
/// # Errors
///
/// The key is empty.
pub fn parse_label(given: &str) -> Result<KeyValue, ParseValueError> {
    let Variable { key, value } = given.parse().map_err(|_| wrong(given, "KEY or KEY=VALUE"))?;
    Ok(KeyValue { key, value: value.unwrap_or_default() })
}

/// `NAME:ADDRESS`
///
/// # Errors
///
/// The name is empty or the rest is no address.
pub fn parse_host_entry(given: &str) -> Result<HostEntry, ParseValueError> {
    let form = "NAME:ADDRESS, such as db:10.0.0.7";
    let (name, address) = given.split_once(':').ok_or_else(|| wrong(given, form))?;
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    let usable = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#');
    match bare.parse() {
        Ok(address) if usable => Ok(HostEntry { name: name.to_owned(), address }),
        _ => Err(wrong(given, form)),
    }
}

/// `SRC[:DST][:ACCESS]` with any of `r`, `w`, `m` as access.
///
/// # Errors
///
/// A path is not absolute, or the access has other letters.
pub fn parse_device(given: &str) -> Result<DeviceSpec, ParseValueError> {
    let form = "a device SRC[:DST][:ACCESS], such as /dev/fuse or /dev/sda:/dev/disk:r";
    let is_access = |text: &str| !text.is_empty() && text.bytes().all(|byte| b"rwm".contains(&byte));
    let parts: Vec<&str> = given.split(':').collect();
    let (source, target, access) = match parts[..] {
        [source] => (source, source, "rwm"),
        [source, access] if is_access(access) => (source, source, access),
        [source, target] => (source, target, "rwm"),
        [source, target, access] if is_access(access) => (source, target, access),
        _ => return Err(wrong(given, form)),
    };
    if !source.starts_with('/') || !target.starts_with('/') {
        return Err(wrong(given, form));
    }
    Ok(DeviceSpec { source: source.to_owned(), target: target.to_owned(), access: access.to_owned() })
}

/// A directory inside, without the slash that completion leaves at its end.
///
/// # Errors
///
/// None: whether it is one is the node's to say.
pub fn parse_directory(given: &str) -> Result<String, std::convert::Infallible> {
    let trimmed = given.trim_end_matches('/');
    Ok(if trimmed.is_empty() { given } else { trimmed }.to_owned())
}

/// `DST[:size=SIZE][,mode=OCTAL]`
///
/// # Errors
///
/// The path is not absolute, or an option is unknown.
pub fn parse_tmpfs(given: &str) -> Result<TmpfsMount, ParseValueError> {
    let form = "PATH[:size=SIZE,mode=OCTAL], such as /scratch:size=16MiB";
    let (target, options) = given.split_once(':').unwrap_or((given, ""));
    let target = target.trim_end_matches('/');
    if !target.starts_with('/') || target.len() < 2 {
        return Err(wrong(given, form));
    }
    let mut mount = TmpfsMount { target: target.to_owned(), size: TMPFS_SIZE_DEFAULT, mode: TMPFS_MODE_DEFAULT };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", size)) => mount.size = size.parse().map_err(|_| wrong(given, form))?,
            Some(("mode", mode)) => {
                mount.mode = u32::from_str_radix(mode, 8)
                    .ok()
                    .filter(|&mode| mode <= 0o7777)
                    .ok_or_else(|| wrong(given, form))?;
            }
            // Every file system of ours is mounted with these; the field's scripts name them all the same.
            _ if matches!(option, "rw" | "nosuid" | "nodev") => {}
            _ => return Err(wrong(given, form)),
        }
    }
    Ok(mount)
}

/// Ports as one `--publish` names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRange(pub Vec<PublishedPort>);

impl FromStr for PortRange {
    type Err = ParsePortError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        PublishedPort::parse_range(given).map(Self)
    }
}

/// `NAME=SOFT[:HARD]`; `unlimited` or `-1` is no limit.
///
/// # Errors
///
/// An amount is no number, or the soft one is greater than the hard one.
pub fn parse_ulimit(given: &str) -> Result<Ulimit, ParseValueError> {
    let form = "NAME=SOFT[:HARD], such as nofile=1024:4096";
    let amount = |text: &str| match text {
        "unlimited" | "-1" => Some(u64::MAX),
        _ => text.parse().ok(),
    };
    let (name, amounts) = given.split_once('=').ok_or_else(|| wrong(given, form))?;
    let (soft, hard) = amounts.split_once(':').unwrap_or((amounts, amounts));
    match (amount(soft), amount(hard)) {
        (Some(soft), Some(hard)) if soft <= hard && !name.is_empty() => {
            Ok(Ulimit { name: name.to_ascii_lowercase(), soft, hard })
        }
        (Some(_), Some(_)) if !name.is_empty() => Err(wrong(given, "NAME=SOFT:HARD with a SOFT of at most HARD")),
        _ => Err(wrong(given, form)),
    }
}

/// Time between two readings of something: as [`parse_duration`], a tenth of a second at least.
///
/// # Errors
///
/// It is no such amount, or less.
pub fn parse_interval(given: &str) -> Result<Duration, ParseValueError> {
    let least = Duration::from_millis(100);
    parse_duration(given)
        .ok()
        .filter(|time| *time >= least)
        .ok_or_else(|| wrong(given, "a length of time of 0.1 seconds or more, such as 0.5, 2 or 1m"))
}

/// Seconds as `10`, `0.5`, or with a unit: `500ms`, `10s`, `5m`, `2h`, `1d`.
///
/// # Errors
///
/// It is no such amount, or more than ten years.
pub fn parse_duration(given: &str) -> Result<Duration, ParseValueError> {
    let form = "a length of time, such as 10, 0.5, 500ms, 5m or 2h";
    let split = given.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(given.len());
    let (number, unit) = given.split_at(split);
    let factor = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return Err(wrong(given, form)),
    };
    let plain = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let seconds = number.parse::<f64>().ok().filter(|_| plain).map(|number| number * factor);
    let ten_years = 10.0 * 365.0 * 86_400.0;
    match seconds.filter(|&seconds| seconds <= ten_years) {
        Some(seconds) => Duration::try_from_secs_f64(seconds).map_err(|_| wrong(given, form)),
        None => Err(wrong(given, form)),
    }
}

/// Whole milliseconds of a length of time, as the API takes them.
#[must_use]
pub fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Splits a command line at white space, with `'…'`, `"…"` and `\` as in a shell, but nothing else of a shell.
///
/// # Errors
///
/// A quotation is not closed.
pub fn split_words(given: &str) -> Result<Vec<String>, ParseValueError> {
    let form = "a command line with closed quotations";
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut characters = given.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => {
                word.get_or_insert_default().push(characters.next().ok_or_else(|| wrong(given, form))?);
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(wrong(given, form));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tmpfs_mounts_have_a_size_and_a_mode() {
        let plain = parse_tmpfs("/scratch").unwrap();
        assert_eq!((plain.size, plain.mode), (Bytes::mib(64), 0o1777));
        let full = parse_tmpfs("/s:rw,size=16m,mode=700").unwrap();
        assert_eq!((full.target.as_str(), full.size, full.mode), ("/s", Bytes::mib(16), 0o700));
        assert_eq!(parse_tmpfs("/s/:size=1m").unwrap().target, "/s");
        for bad in ["", "/", "x", "/x:size=", "/x:mode=8", "/x:mode=10000", "/x:exec=1"] {
            assert!(parse_tmpfs(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_directory_may_end_as_completion_leaves_it() {
        let directories = ["/srv/", "/srv//", "/srv", "/", "", "./"].map(|given| parse_directory(given).unwrap());
        assert_eq!(directories, ["/srv", "/srv", "/srv", "/", "", "."]);
    }

    #[test]
    fn devices_have_two_paths_and_an_access() {
        let shown = |given| parse_device(given).map(|d| format!("{} {} {}", d.source, d.target, d.access));
        assert_eq!(shown("/dev/fuse").unwrap(), "/dev/fuse /dev/fuse rwm");
        assert_eq!(shown("/dev/sda:r").unwrap(), "/dev/sda /dev/sda r");
        assert_eq!(shown("/dev/sda:/dev/disk").unwrap(), "/dev/sda /dev/disk rwm");
        assert_eq!(shown("/dev/sda:/dev/disk:rw").unwrap(), "/dev/sda /dev/disk rw");
        for bad in ["", "fuse", "/dev/a:b:c:d", "/dev/a:/dev/b:x", "/dev/a:x"] {
            assert!(parse_device(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits_have_a_soft_and_a_hard_side() {
        let shown = |given| parse_ulimit(given).map(|u| (u.name, u.soft, u.hard));
        assert_eq!(shown("nofile=1024").unwrap(), ("nofile".to_owned(), 1024, 1024));
        assert_eq!(shown("CORE=0:unlimited").unwrap(), ("core".to_owned(), 0, u64::MAX));
        for bad in ["", "nofile", "=1", "nofile=2:1", "nofile=x"] {
            assert!(parse_ulimit(bad).is_err(), "{bad}");
        }
        assert!(parse_ulimit("nofile=2:1").unwrap_err().to_string().contains("at most HARD"));
    }

    #[test]
    fn an_interval_is_no_busy_loop() {
        assert_eq!(parse_interval("0.1").unwrap(), Duration::from_millis(100));
        for bad in ["0", "0.05", "50ms", "x"] {
            assert!(parse_interval(bad).unwrap_err().to_string().contains("0.1 seconds or more"), "{bad}");
        }
    }

    #[test]
    fn host_entries_take_both_families() {
        assert_eq!(parse_host_entry("db:10.0.0.7").unwrap().address.to_string(), "10.0.0.7");
        assert_eq!(parse_host_entry("db:fd00::1").unwrap().address.to_string(), "fd00::1");
        assert_eq!(parse_host_entry("db:[fd00::1]").unwrap().address.to_string(), "fd00::1");
        for bad in ["", "db", ":1.2.3.4", "d b:1.2.3.4", "db:x"] {
            assert!(parse_host_entry(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_have_units() {
        let millis = |given| parse_duration(given).map(milliseconds);
        for (given, expected) in
            [("10", 10_000), ("0.5", 500), ("500ms", 500), ("5m", 300_000), ("0", 0), ("1d", 86_400_000)]
        {
            assert_eq!(millis(given), Ok(expected), "{given}");
        }
        for bad in ["", "s", "-1", "1x", "1.2.3", "1e9", "99999d", "inf", "nan"] {
            assert!(millis(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn command_lines_are_split_as_a_shell_does() {
        let words = |given| split_words(given).unwrap();
        assert_eq!(words("curl -f  http://localhost"), ["curl", "-f", "http://localhost"]);
        assert_eq!(words(r#"sh -c "test \"$x\" = 'a b'" '' a\ b"#), ["sh", "-c", r#"test "$x" = 'a b'"#, "", "a b"]);
        assert!(split_words("'open").is_err());
        assert!(split_words("end\\").is_err());
        assert!(words("  ").is_empty());
    }

    #[test]
    fn variables_may_lack_a_value() {
        assert_eq!("A=b=c".parse::<Variable>().unwrap(), Variable { key: "A".into(), value: Some("b=c".into()) });
        assert_eq!("A".parse::<Variable>().unwrap(), Variable { key: "A".into(), value: None });
        assert!("=x".parse::<Variable>().is_err());
        assert!("A".parse::<KeyValue>().is_err());
    }
}
