//! Which packages an image holds: the distribution's own book-keeping, read as data.

use crate::manifest::Package;

/// Where dpkg keeps its book.
pub(super) const DPKG_STATUS: &str = "var/lib/dpkg/status";
/// Most bytes of it: some 100,000 packages.
pub(super) const DPKG_STATUS_BYTES_MAX: u64 = 64 << 20;

/// Installed packages of a dpkg status file, sorted. Paragraphs that are not understood name no package.
pub(super) fn parse_dpkg_status(status: &[u8]) -> Vec<Package> {
    let text = String::from_utf8_lossy(status);
    let mut packages: Vec<Package> = text.split("\n\n").filter_map(parse_paragraph).collect();
    packages.sort_by(|a, b| (&a.name, &a.architecture).cmp(&(&b.name, &b.architecture)));
    packages
}

fn parse_paragraph(paragraph: &str) -> Option<Package> {
    let field = |wanted: &str| {
        let mut lines = paragraph.lines();
        lines.find_map(|line| line.strip_prefix(wanted)?.strip_prefix(':').map(|value| value.trim().to_owned()))
    };
    // "want flag status": only what is really there counts.
    field("Status")?.ends_with(" installed").then_some(())?;
    Some(Package {
        name: field("Package")?,
        version: field("Version")?,
        architecture: field("Architecture")?,
        sha256: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_packages_are_listed_and_removed_ones_are_not() {
        let status = b"Package: zlib1g\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:1.2\nDescription: x\n Version: no\n\n\
            Package: gone\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n\n\
            Package: apt\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.6\n\n\xff\n";
        let packages = parse_dpkg_status(status);
        let shown: Vec<_> = packages.iter().map(|p| (p.name.as_str(), p.version.as_str())).collect();
        assert_eq!(shown, [("apt", "2.6"), ("zlib1g", "1:1.2")]);
    }
}
