//! Release programs, all side by side in `target/release/`, where `insula` looks for its helpers.

use std::fs;
use std::path::PathBuf;

use crate::{step, workspace};

/// Programs that users run, or that `insula` runs.
const PROGRAMS: [&str; 5] = ["insula", "insula-guest", "insula-init", "insula-keeper", "insula-launcher"];

/// Where cargo puts what it builds.
fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace::root().join("target"), PathBuf::from)
}

/// Builds the release programs and puts them into `target/release/`.
///
/// Cargo is told a target (`.cargo/config.toml`), so its own folder is `target/<target>/release/`.
pub(crate) fn release() -> Result<(), Box<dyn std::error::Error>> {
    let packages = ["--package=insula", "--package=insula-guest", "--package=insula-init"];
    step::cargo("build", &[&["build", "--release", "--locked"][..], &packages].concat())?;
    let built = target_folder().join(format!("{}-unknown-linux-gnu", std::env::consts::ARCH)).join("release");
    let folder = workspace::root().join("target/release");
    fs::create_dir_all(&folder)?;
    for program in PROGRAMS {
        // A program that runs cannot be written to; a new file in its place can be made.
        let fresh = folder.join(format!(".{program}.new"));
        fs::copy(built.join(program), &fresh)?;
        fs::rename(&fresh, folder.join(program))?;
    }
    println!("programs are in {}", folder.display());
    Ok(())
}
