//! The peers' newest packages, unpacked once into a root that is kept between runs.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::stage::{self, StageError};

/// What the benchmarks compare with, and what those programs need.
const PACKAGES: &str = "crun,podman,conmon,netavark,aardvark-dns,docker.io,docker-cli,tini,nftables,iptables,iproute2,\
                        erofs-utils,golang-github-containers-common";

/// The distribution that has the newest versions.
const SUITE: &str = "sid";

/// The root with the peers' packages, made at first use; takes one to two minutes then.
///
/// It stays below `target/bench`; remove that folder for newer packages.
///
/// # Errors
///
/// - This machine's package manager knows no mirror, or the mirror does not answer.
pub(crate) fn root() -> Result<PathBuf, StageError> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    let root = folder.join(format!("peers-{SUITE}"));
    if root.exists() {
        return root.canonicalize().map_err(|source| StageError::File { what: "find the peers' root", source });
    }
    std::fs::create_dir_all(&folder)
        .map_err(|source| StageError::File { what: "make the folder of the peers' root", source })?;
    ensure("mmdebstrap", "mmdebstrap")?;
    println!("unpacking the peers' newest packages into {}", root.display());
    // An unfinished root never bears the name of a finished one.
    let unfinished = folder.join(format!("peers-{SUITE}.{}", std::process::id()));
    let mut unpack = Command::new("mmdebstrap");
    unpack.args(["--quiet", "--aptopt=Acquire::Check-Valid-Until \"false\"", "--variant=minbase", "--components=main"]);
    unpack.arg(format!("--include={PACKAGES}")).arg(SUITE).arg(&unfinished).arg(mirror()?);
    stage::run(&mut unpack)?;
    std::fs::rename(&unfinished, &root).map_err(|source| StageError::File { what: "name the peers' root", source })?;
    root.canonicalize().map_err(|source| StageError::File { what: "find the peers' root", source })
}

/// The mirror that this machine takes its own packages from.
fn mirror() -> Result<String, StageError> {
    let failed = |outcome: String| StageError::Helper { program: "apt-get indextargets".to_owned(), outcome };
    let release = std::fs::read_to_string("/etc/os-release")
        .map_err(|source| StageError::File { what: "read /etc/os-release", source })?;
    let suite = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap_or(SUITE);
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(RELEASE) $(REPO_URI)"])
        .output()
        .map_err(|error| failed(error.to_string()))?;
    let targets = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut mirrors = targets.lines().filter_map(|line| line.strip_prefix(suite)?.strip_prefix(' '));
    mirrors.next().map(str::to_owned).ok_or_else(|| failed(format!("this machine knows no mirror of {suite}")))
}

/// Installs the package that brings `program` unless it is there.
fn ensure(program: &str, package: &str) -> Result<(), StageError> {
    let found =
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|at| at.join(program).exists()));
    if found {
        Ok(())
    } else {
        stage::run(Command::new("apt-get").args(["install", "--yes", "--quiet", "--no-install-recommends", package]))
    }
}
