//! Words that mean something to shells, to terminals, to C, to option parsers, or to a reader's eye.

/// Fixed ones; no argument of a program can hold a NUL, so the command line gets those without.
pub(crate) const HOSTILE: [&str; 22] = [
    "",
    " ",
    "-",
    "--",
    "--privileged",
    "-rf /",
    "a\nb",
    "a\0b",
    "'\"`$(reboot);&|<>\\",
    "\u{1b}[2J\u{7}",
    "%s%n%99999999d",
    "{{ .Secret }}",
    "../../../etc/shadow",
    "/proc/self/root",
    "99999999999999999999999999999999",
    "-9223372036854775808",
    "18446744073709551615",
    "1e999",
    "NaN",
    "b\u{75}s\u{443}box",
    "root\u{202e}toor",
    "\u{ff11}\u{ff12}",
];

/// Pieces of the random ones.
const PIECES: [&str; 20] = [
    "-",
    "\n",
    "\0",
    "'",
    "\"",
    "=",
    ":",
    "/",
    "..",
    "@",
    ",",
    "%00",
    "\u{a0}",
    "\u{0430}",
    "\u{1f980}",
    "9",
    "999999999",
    "a",
    "A",
    "\t",
];

/// A random word, the same for the same number (a linear congruential generator).
pub(crate) fn random(number: u64) -> String {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    let length = next(6) + if next(40) == 0 { 3_000 } else { 1 };
    (0..length).map(|_| PIECES[next(PIECES.len())]).collect()
}

/// The textual options of `create`, up to where the word goes.
pub(crate) const OPTIONS: [&str; 30] = [
    "--name=",
    "--env=",
    "--env=KEY=",
    "--workdir=",
    "--user=",
    "--hostname=",
    "--entrypoint=",
    "--timezone=",
    "--init=",
    "--root=",
    "--restart=",
    "--stop-signal=",
    "--stop-timeout=",
    "--health=",
    "--template=",
    "--set=",
    "--set=memory.limit=",
    "--label=",
    "--volume=",
    "--tmpfs=",
    "--device=",
    "--network=",
    "--publish=",
    "--dns=",
    "--add-host=",
    "--cap-add=",
    "--sysctl=",
    "--memory=",
    "--cpus=",
    "--ulimit=",
];

/// The textual fields of a container that is created through the API; `@` is where the word goes.
pub(crate) const FIELDS: [&str; 33] = [
    r#""entrypoint":["@"]"#,
    r#""command":["true","@"]"#,
    r#""env":{"@":"v"}"#,
    r#""env":{"K":"@"}"#,
    r#""workdir":"@""#,
    r#""user":"@""#,
    r#""hostname":"@""#,
    r#""timezone":"@""#,
    r#""init":"@""#,
    r#""root":"@""#,
    r#""volumes":["@:/x"]"#,
    r#""volumes":["/srv:@"]"#,
    r#""tmpfs":[{"target":"@","size":1048576,"mode":511}]"#,
    r#""devices":[{"source":"@","target":"/dev/x","access":"r"}]"#,
    r#""devices":[{"source":"/dev/null","target":"@","access":"r"}]"#,
    r#""devices":[{"source":"/dev/null","target":"/dev/x","access":"@"}]"#,
    r#""network":"@""#,
    r#""ports":["@"]"#,
    r#""ports":["8080:@"]"#,
    r#""dns":["@"]"#,
    r#""hosts":[{"name":"@","address":"10.0.0.1"}]"#,
    r#""restart":"@""#,
    r#""stop_signal":"@""#,
    r#""cap_add":["@"]"#,
    r#""sysctls":{"@":"1"}"#,
    r#""sysctls":{"net.ipv4.ip_forward":"@"}"#,
    r#""template":"@""#,
    r#""resources":{"cpu_limit":"@"}"#,
    r#""resources":{"ulimits":[{"name":"@","soft":1,"hard":1}]}"#,
    r#""health":{"command":["@"],"interval_ms":1000,"deadline_ms":1000}"#,
    r#""labels":{"@":"v"}"#,
    r#""labels":{"k":"@"}"#,
    r#""@":1"#,
];
