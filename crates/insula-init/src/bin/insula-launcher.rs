//! The launcher. See [`insula_init::launcher`].

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use insula_init::launcher::{LauncherConfig, RESUME_ARGUMENT, resume, run};

/// `insula-launcher RUN-DIR` (an absolute path): returns when a daemon can connect; the launcher goes on by itself.
/// `insula-launcher --resume FD RUN-DIR`: a running launcher becomes this build.
fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let programs = std::env::current_exe().ok().and_then(|path| path.parent().map(PathBuf::from)).unwrap_or_default();
    let config = |run_dir: &OsString| LauncherConfig { run_dir: run_dir.into(), programs };
    let ended = match &arguments[..] {
        // Anything else would be made a directory of, and a launcher would stay behind that nobody knows of.
        [run_dir] if Path::new(run_dir).is_absolute() => run(&config(run_dir)),
        [resuming, state, run_dir] if resuming == RESUME_ARGUMENT => {
            let Some(state) = state.to_str().and_then(|number| number.parse().ok()) else { return usage() };
            resume(&config(run_dir), state)
        }
        _ => return usage(),
    };
    insula_init::exit_code("insula-launcher", ended)
}

fn usage() -> ExitCode {
    let usage = b"usage: insula-launcher /RUN-DIR (started by insula node run)\n";
    std::io::Write::write_all(&mut std::io::stderr(), usage).unwrap_or_default();
    ExitCode::from(2)
}
