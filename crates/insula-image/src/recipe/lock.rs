//! Locks: exactly the packages that an earlier build had, wanted again.
//!
//! A recipe names packages; which versions of them and of everything that they need get into the image is the
//! archive's of that hour. A lock names all of it. *Same inputs* are recipe, lock and files: two builds from them have
//! the same digest or one of them is refused with what the archive does not have any more.
//!
//! ```text
//!  # Packages of debian@12.1
//!  format = 1
//!  packages = [
//!      "apt 2.6.1 amd64 sha256:6e60…",
//!      …
//!  ]
//! ```
//!
//! Nothing of a lock gets into the image: it is only held against what came out.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use insula_model::{ImageId, Sha256Digest};
use serde::Deserialize;

use super::archive_lists::ArchivePackages;
use super::debian::check_package;
use crate::manifest::{Manifest, Package};

/// Most bytes of a lock: some 100,000 packages.
pub const LOCK_BYTES_MAX: u64 = 16 << 20;
/// Number of the format.
const FORMAT: u32 = 1;
/// Differences that a refusal names.
const NAMED_MAX: usize = 5;

/// The packages that a build is to have, no more and no less.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageLock {
    /// By name and architecture.
    packages: BTreeMap<(String, String), Locked>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Locked {
    version: String,
    /// Of the file that it is installed from; unknown for what a recipe's own commands install.
    sha256: Option<Sha256Digest>,
}

/// Text that is no lock.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseLockError {
    /// Not TOML, or other fields than a lock has.
    #[error("{0}")]
    Toml(String),
    /// A newer program wrote it.
    #[error("it has format {format}; this version reads format {FORMAT}")]
    Format {
        /// The number found.
        format: u32,
    },
    /// A line that names no package.
    #[error("`{}` is not `NAME VERSION ARCHITECTURE sha256:DIGEST` (or `-` for the digest)", line.escape_debug())]
    Line {
        /// The line.
        line: String,
    },
    /// The same package twice.
    #[error("package {name} is there twice")]
    Twice {
        /// The package.
        name: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLock {
    format: u32,
    packages: Vec<String>,
}

impl PackageLock {
    /// The lock of what an image holds; none when no packages are recorded in it.
    #[must_use]
    pub fn of(manifest: &Manifest) -> Option<Self> {
        let packages = manifest.provenance.packages.iter().map(|package| {
            let key = (package.name.clone(), package.architecture.clone());
            (key, Locked { version: package.version.clone(), sha256: package.sha256 })
        });
        let packages: BTreeMap<_, _> = packages.collect();
        (!packages.is_empty()).then_some(Self { packages })
    }

    /// Reads a lock.
    ///
    /// # Errors
    ///
    /// Says which line names no package.
    pub fn parse(text: &str) -> Result<Self, ParseLockError> {
        let raw: RawLock = toml::from_str(text).map_err(|error| ParseLockError::Toml(error.message().to_owned()))?;
        if raw.format != FORMAT {
            return Err(ParseLockError::Format { format: raw.format });
        }
        let mut packages = BTreeMap::new();
        for line in raw.packages {
            let Some((key, locked)) = parse_line(&line) else { return Err(ParseLockError::Line { line }) };
            if let Some((name, _)) = packages.insert(key.clone(), locked).map(|_| key) {
                return Err(ParseLockError::Twice { name });
            }
        }
        Ok(Self { packages })
    }

    /// The lock of `image` as text.
    #[must_use]
    pub fn to_text(&self, image: &ImageId) -> String {
        let mut text = format!(
            "# Packages of {image}. `insula image build --locked` wants exactly these; this file beside the recipe\n\
             # as {}.lock, or named in it: lock = \"FILE\".\nformat = {FORMAT}\npackages = [\n",
            image.name
        );
        for ((name, architecture), locked) in &self.packages {
            let digest = locked.sha256.map_or_else(|| "-".to_owned(), |sha256| sha256.to_string());
            let _ = writeln!(text, "    \"{name} {} {architecture} {digest}\",", locked.version);
        }
        text.push_str("]\n");
        text
    }

    /// What makes apt take these versions and no others, older ones too.
    pub(super) fn apt_preferences(&self) -> String {
        let mut text = String::new();
        for ((name, _), locked) in &self.packages {
            let _ = write!(text, "Package: {name}\nPin: version {}\nPin-Priority: 1001\n\n", locked.version);
        }
        text
    }

    /// Compares with what a build came to, whose archives had `archive`.
    pub(super) fn check(&self, found: &[Package], archive: &ArchivePackages) -> Result<(), LockMismatch> {
        let mut differences = Vec::new();
        let key = |package: &Package| (package.name.clone(), package.architecture.clone());
        let by_key: BTreeMap<_, _> = found.iter().map(|package| (key(package), package)).collect();
        for (key, locked) in &self.packages {
            let name = key.0.clone();
            let wanted = locked.version.clone();
            let has = || archive.versions_of(&key.0).iter().map(|version| (*version).to_owned()).collect::<Vec<_>>();
            match by_key.get(key) {
                Some(package) if package.version == wanted => {
                    let digests = (locked.sha256, package.sha256);
                    if let (Some(locked), Some(found)) = digests
                        && locked != found
                    {
                        differences.push(LockDifference::OtherFile { name, version: wanted, found });
                    }
                }
                _ if !has().contains(&wanted) => differences.push(LockDifference::Dropped { name, wanted, has: has() }),
                Some(package) => {
                    let found = package.version.clone();
                    differences.push(LockDifference::OtherVersion { name, wanted, found });
                }
                None => differences.push(LockDifference::Missing { name, wanted }),
            }
        }
        for (key, package) in &by_key {
            if !self.packages.contains_key(key) {
                let (name, version) = (package.name.clone(), package.version.clone());
                differences.push(LockDifference::Unlocked { name, version });
            }
        }
        if differences.is_empty() { Ok(()) } else { Err(LockMismatch { differences }) }
    }
}

fn parse_line(line: &str) -> Option<((String, String), Locked)> {
    let words: Vec<_> = line.split(' ').collect();
    let [name, version, architecture, digest] = words[..] else { return None };
    check_package(&format!("{name}={version}")).ok()?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.contains([':', '=']) || architecture.is_empty() || !architecture.chars().all(plain) {
        return None;
    }
    let sha256 = if digest == "-" { None } else { Some(digest.parse().ok()?) };
    Some(((name.to_owned(), architecture.to_owned()), Locked { version: version.to_owned(), sha256 }))
}

/// What a build came to is not what its lock says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockMismatch {
    /// In the order of the lock, then what is in no lock.
    pub differences: Vec<LockDifference>,
}

impl std::error::Error for LockMismatch {}

impl fmt::Display for LockMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the lock cannot be kept: ")?;
        for (index, difference) in self.differences.iter().take(NAMED_MAX).enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{difference}")?;
        }
        match self.differences.len().saturating_sub(NAMED_MAX) {
            0 => {}
            more => write!(f, "; and {more} more")?,
        }
        f.write_str(
            "; use a mirror that has these, or build without the lock and make a new one by `insula image lock`",
        )
    }
}

/// One difference between a lock and a build.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LockDifference {
    /// The archives do not have the version any more.
    #[error("the mirror has no {name} {wanted}{}", others(has))]
    Dropped {
        /// The package.
        name: String,
        /// The locked version.
        wanted: String,
        /// What there is instead.
        has: Vec<String>,
    },
    /// Another version was installed, although the locked one is there.
    #[error("{name} is {found} instead of {wanted}")]
    OtherVersion {
        /// The package.
        name: String,
        /// The locked version.
        wanted: String,
        /// The installed one.
        found: String,
    },
    /// The same version from another file.
    #[error("{name} {version} comes from another file ({found})")]
    OtherFile {
        /// The package.
        name: String,
        /// Its version.
        version: String,
        /// Digest of the file.
        found: Sha256Digest,
    },
    /// It was not installed.
    #[error("{name} {wanted} was not installed: the recipe does not ask for it any more")]
    Missing {
        /// The package.
        name: String,
        /// The locked version.
        wanted: String,
    },
    /// It was installed and the lock does not name it.
    #[error("{name} {version} is not in the lock")]
    Unlocked {
        /// The package.
        name: String,
        /// The installed version.
        version: String,
    },
}

fn others(has: &[String]) -> String {
    if has.is_empty() { String::new() } else { format!(" (it has {})", has.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str, digest: u8) -> Package {
        Package {
            name: name.to_owned(),
            version: version.to_owned(),
            architecture: "amd64".to_owned(),
            sha256: Some(Sha256Digest([digest; 32])),
        }
    }

    fn lock_of(packages: &[Package]) -> PackageLock {
        let packages = packages.iter().map(|package| {
            let key = (package.name.clone(), package.architecture.clone());
            (key, Locked { version: package.version.clone(), sha256: package.sha256 })
        });
        PackageLock { packages: packages.collect() }
    }

    #[test]
    fn a_lock_comes_back_from_its_text() {
        let own = Package { sha256: None, ..package("own", "1:2.0~rc1-3+b1", 0) };
        let lock = lock_of(&[package("apt", "2.6.1", 1), package("g++", "4:12.2.0-3", 2), own]);
        let text = lock.to_text(&"debian@12.1".parse().unwrap());
        assert_eq!(PackageLock::parse(&text).unwrap(), lock);
        assert!(text.contains("\"own 1:2.0~rc1-3+b1 amd64 -\""), "{text}");
    }

    #[test]
    fn other_text_is_refused_by_its_line() {
        let with = |line: &str| PackageLock::parse(&format!("format = 1\npackages = [{line:?}]"));
        let digest = Sha256Digest([1; 32]);
        assert!(with(&format!("apt 2.6 amd64 {digest}")).is_ok());
        for bad in [
            "apt",
            "apt 2.6 amd64",
            "apt 2.6 amd64 sha256:00",
            "apt 2.6 amd64 - x",
            "--x 1 all -",
            "a:b 1 all -",
            "a 1\nPin: x all -",
            "a 1 $(x) -",
            "a  all -",
        ] {
            assert!(matches!(with(bad), Err(ParseLockError::Line { .. })), "{bad}");
        }
        assert!(matches!(PackageLock::parse("format = 2\npackages = []"), Err(ParseLockError::Format { format: 2 })));
        assert!(matches!(PackageLock::parse("format = 1\npackage = []"), Err(ParseLockError::Toml(_))));
        let twice = "format = 1\npackages = [\"a 1 all -\", \"a 2 all -\"]";
        assert_eq!(PackageLock::parse(twice), Err(ParseLockError::Twice { name: "a".to_owned() }));
    }

    #[test]
    fn every_kind_of_difference_is_named() {
        let lock = lock_of(&[
            package("same", "1", 1),
            package("gone", "1", 1),
            package("newer", "1", 1),
            package("refilled", "1", 1),
            package("unasked", "1", 1),
        ]);
        let mut archive = ArchivePackages::default();
        archive.add_recorded(&[
            package("gone", "2", 2),
            package("newer", "1", 1),
            package("newer", "2", 2),
            package("unasked", "1", 1),
        ]);
        let found = [
            package("same", "1", 1),
            package("gone", "2", 2),
            package("newer", "2", 2),
            package("refilled", "1", 9),
            package("extra", "3", 3),
        ];
        let said = lock.check(&found, &archive).unwrap_err().to_string();
        for part in [
            "the mirror has no gone 1 (it has 2)",
            "newer is 2 instead of 1",
            "refilled 1 comes from another file",
            "unasked 1 was not installed",
            "extra 3 is not in the lock",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!said.contains("same"), "{said}");
        assert_eq!(lock_of(&found).check(&found, &archive), Ok(()));
    }

    #[test]
    fn apt_is_pinned_to_each_version() {
        let text = lock_of(&[package("apt", "2.6.1", 1), package("curl", "7.88", 2)]).apt_preferences();
        assert_eq!(
            text,
            "Package: apt\nPin: version 2.6.1\nPin-Priority: 1001\n\n\
             Package: curl\nPin: version 7.88\nPin-Priority: 1001\n\n"
        );
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_reader_of_locks_panic(text in ".{0,200}", lines in "([a-z=:.0-9]{0,12}[ \\t\\n]){0,12}", cut in 0_usize..400) {
            let _ = PackageLock::parse(&text);
            let _ = PackageLock::parse(&lines);
            let whole = lock_of(&[package("a", "1", 1), package("b", "2:3~4", 2)]).to_text(&"a@1".parse().unwrap()) + &lines;
            let _ = PackageLock::parse(whole.get(..cut).unwrap_or(&whole));
        }
    }
}
