//! The launcher. See [`insula_init::launcher`].

use std::path::PathBuf;
use std::process::ExitCode;

use insula_init::launcher::{LauncherConfig, run};

/// `insula-launcher RUN-DIR`: returns when a daemon can connect; the launcher goes on by itself.
fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(run_dir), None) = (arguments.next(), arguments.next()) else {
        let usage = b"usage: insula-launcher RUN-DIR (started by insula node run)\n";
        std::io::Write::write_all(&mut std::io::stderr(), usage).unwrap_or_default();
        return ExitCode::from(2);
    };
    let programs = std::env::current_exe().ok().and_then(|path| path.parent().map(PathBuf::from)).unwrap_or_default();
    insula_init::exit_code("insula-launcher", run(&LauncherConfig { run_dir, programs }))
}
