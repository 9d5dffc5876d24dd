//! A node in the foreground: `node CONFIG`, without the client around it. Logs to standard error.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1).map(PathBuf::from) else { return ExitCode::from(2) };
    let config = insula_node::Config::load(Some(&path), insula_node::Overrides::default());
    let done = config
        .map_err(|error| Box::new(error) as Box<dyn std::error::Error>)
        .and_then(|config| insula_node::run(config).map_err(|error| Box::new(error) as Box<dyn std::error::Error>));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let chain: Vec<String> =
                std::iter::successors(Some(&*error), |error| error.source()).map(ToString::to_string).collect();
            tracing::error!("{}", chain.join(": "));
            ExitCode::FAILURE
        }
    }
}
