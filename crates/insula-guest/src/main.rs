//! The guest services. See [`insula_guest`].

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

/// `insula-guest RUN-DIR ID SOCKETS`, with the table and the sockets as descriptors from 3 on; started by the launcher.
/// The run directory only tells whoever looks at processes which node this is of.
fn main() -> ExitCode {
    let mut words = std::env::args().skip(2);
    let id = words.next().and_then(|word| word.parse().ok());
    let sockets = words.next().and_then(|word| word.parse().ok());
    let (Some(id), Some(sockets)) = (id, sockets) else {
        return complain("usage: insula-guest RUN-DIR ID SOCKETS (started by insula-launcher)");
    };
    let Err(failure) = insula_guest::run(id, sockets) else { return ExitCode::SUCCESS };
    let mut text = failure.to_string();
    let mut cause = failure.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    complain(&text)
}

fn complain(text: &str) -> ExitCode {
    // Nobody is left to be told if this fails.
    std::io::stderr().write_all(format!("insula-guest: {text}\n").as_bytes()).unwrap_or_default();
    ExitCode::FAILURE
}
