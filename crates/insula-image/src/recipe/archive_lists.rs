//! Which packages a Debian archive has, by the lists that apt fetched and whose signatures it checked.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read};

use insula_model::Sha256Digest;

use crate::manifest::Package;
use crate::path::ImagePath;

/// Where apt keeps its lists in a root.
const LISTS: &[u8] = b"var/lib/apt/lists/";
/// Longest line of a list, in bytes.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// Most packages of all lists together; Debian has some 65,000 in one.
const PACKAGES_MAX: usize = 1 << 20;

/// Whether a file of a root is a list of packages.
pub(super) fn is_package_list(path: &ImagePath) -> bool {
    path.as_bytes().strip_prefix(LISTS).is_some_and(|name| name.ends_with(b"_Packages") && !name.contains(&b'/'))
}

/// One version of a package in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    version: String,
    architecture: String,
    sha256: Sha256Digest,
}

/// The packages of an archive, and the digests of their files.
#[derive(Debug, Clone, Default)]
pub(super) struct ArchivePackages {
    by_name: HashMap<String, Vec<Version>>,
    count: usize,
}

impl ArchivePackages {
    /// Adds what a list says.
    pub(super) fn read_list(&mut self, list: &mut dyn Read) -> io::Result<()> {
        let mut list = BufReader::with_capacity(1 << 16, list);
        let mut line = Vec::new();
        let mut package = Paragraph::default();
        loop {
            line.clear();
            list.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
            match line.strip_suffix(b"\n") {
                Some(b"") => self.add(std::mem::take(&mut package))?,
                Some(text) => package.take(text),
                None if line.is_empty() => return self.add(package),
                None if u64::try_from(line.len()).is_ok_and(|length| length < LINE_BYTES_MAX) => package.take(&line),
                None => return Err(io::Error::other(format!("a line has more than {LINE_BYTES_MAX} bytes"))),
            }
        }
    }

    fn add(&mut self, found: Paragraph) -> io::Result<()> {
        let Paragraph { name: Some(name), version: Some(version), architecture: Some(architecture), sha256 } = found
        else {
            return Ok(());
        };
        let Some(sha256) = sha256 else { return Ok(()) };
        if self.count == PACKAGES_MAX {
            return Err(io::Error::other(format!("the lists have more than {PACKAGES_MAX} packages")));
        }
        self.count += 1;
        self.by_name.entry(name).or_default().push(Version { version, architecture, sha256 });
        Ok(())
    }

    /// Adds packages whose digests somebody else recorded: those of a base image.
    pub(super) fn add_recorded(&mut self, packages: &[Package]) {
        for package in packages {
            let Some(sha256) = package.sha256 else { continue };
            let (version, architecture) = (package.version.clone(), package.architecture.clone());
            self.by_name.entry(package.name.clone()).or_default().push(Version { version, architecture, sha256 });
        }
    }

    /// Digest of the file that a package was installed from, if an archive has that version.
    pub(super) fn digest_of(&self, package: &Package) -> Option<Sha256Digest> {
        let versions = self.by_name.get(&package.name)?.iter();
        let mut same =
            versions.filter(|found| found.version == package.version && found.architecture == package.architecture);
        same.next().map(|found| found.sha256)
    }

    /// The versions of a package that the archives have; empty when they have none.
    pub(super) fn versions_of(&self, name: &str) -> Vec<&str> {
        let versions = self.by_name.get(name).into_iter().flatten();
        let mut versions: Vec<_> = versions.map(|found| found.version.as_str()).collect();
        versions.sort_unstable();
        versions.dedup();
        versions
    }
}

/// The fields of interest of one package.
#[derive(Default)]
struct Paragraph {
    name: Option<String>,
    version: Option<String>,
    architecture: Option<String>,
    sha256: Option<Sha256Digest>,
}

impl Paragraph {
    fn take(&mut self, line: &[u8]) {
        let field = |name: &[u8]| {
            let value = line.strip_prefix(name)?.strip_prefix(b":")?;
            std::str::from_utf8(value).ok().map(|value| value.trim().to_owned())
        };
        match line.first() {
            Some(b'P') => self.name = field(b"Package").or_else(|| self.name.take()),
            Some(b'V') => self.version = field(b"Version").or_else(|| self.version.take()),
            Some(b'A') => self.architecture = field(b"Architecture").or_else(|| self.architecture.take()),
            Some(b'S') => {
                let digest = field(b"SHA256").and_then(|hex| format!("sha256:{hex}").parse().ok());
                self.sha256 = digest.or(self.sha256);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(version: &str) -> Package {
        Package { name: "curl".to_owned(), version: version.to_owned(), architecture: "amd64".to_owned(), sha256: None }
    }

    #[test]
    fn lists_give_the_digest_of_each_version() {
        let list = format!(
            "Package: curl\nPre-Depends: x\nVersion: 7.88\nVcs: y\nArchitecture: amd64\nSHA256: {0}\nSection: web\n\n\
             Package: curl\nVersion: 7.90\nArchitecture: amd64\nSHA256: {1}\n\n\
             Package: no-digest\nVersion: 1\nArchitecture: all\n\n\
             Package: last\nVersion: 2\nArchitecture: all\nSHA256: {0}",
            "a".repeat(64),
            "b".repeat(64)
        );
        let mut archive = ArchivePackages::default();
        archive.read_list(&mut list.as_bytes()).unwrap();
        assert_eq!(archive.digest_of(&package("7.88")), Some(Sha256Digest([0xaa; 32])));
        assert_eq!(archive.digest_of(&package("7.90")), Some(Sha256Digest([0xbb; 32])));
        assert_eq!(archive.digest_of(&package("7.91")), None);
        assert_eq!(archive.digest_of(&Package { architecture: "arm64".to_owned(), ..package("7.88") }), None);
        assert_eq!(archive.versions_of("curl"), ["7.88", "7.90"]);
        assert_eq!(archive.versions_of("last"), ["2"]);
        assert!(archive.versions_of("no-digest").is_empty());
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut endless = io::repeat(b'P').take(3 * LINE_BYTES_MAX);
        let error = ArchivePackages::default().read_list(&mut endless).unwrap_err();
        assert!(error.to_string().contains("line"), "{error}");
    }

    #[test]
    fn only_apts_own_lists_are_lists() {
        for (path, expected) in [
            ("var/lib/apt/lists/deb.example_dists_bookworm_main_binary-amd64_Packages", true),
            ("var/lib/apt/lists/deb.example_dists_bookworm_InRelease", false),
            ("var/lib/apt/lists/partial/x_Packages", false),
            ("srv/x_Packages", false),
        ] {
            assert_eq!(is_package_list(&ImagePath::parse(path).unwrap()), expected, "{path}");
        }
    }
}
