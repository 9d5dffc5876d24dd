//! What differs between two versions: paths, configuration, packages.

use std::cmp::Ordering;

use insula_model::{Bytes, ImageId};

use crate::manifest::{Manifest, Package};
use crate::path::ImagePath;
use crate::tree::{ImageTree, Inode, InodeKind, TreeItem};

/// What differs between two versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageDiff {
    /// The version that is compared.
    pub from: ImageId,
    /// The version it is compared with.
    pub to: ImageId,
    /// Paths that differ, sorted.
    pub paths: Vec<PathChange>,
    /// Fields of the configuration, and the mount plan, that differ, with their JSON.
    pub settings: Vec<SettingChange>,
    /// Packages that differ, sorted by name.
    pub packages: Vec<PackageChange>,
    /// Bytes of all files, before and after.
    pub content: (Bytes, Bytes),
    /// Bytes of the image files, before and after.
    pub file: (Bytes, Bytes),
}

/// A path that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathChange {
    /// Where.
    pub path: ImagePath,
    /// How.
    pub kind: PathChangeKind,
}

/// How a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathChangeKind {
    /// It is only in the second version.
    Added,
    /// It is only in the first version.
    Removed,
    /// Its content, target, device number or kind of file differs.
    Content,
    /// Only mode, owner, time, extended attributes or its hard links differ.
    Attributes,
}

/// A setting that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingChange {
    /// Name of the field, `mount_plan` for the plan.
    pub field: String,
    /// Its JSON before; none when it was not set.
    pub from: Option<String>,
    /// Its JSON after; none when it is not set.
    pub to: Option<String>,
}

/// A package that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageChange {
    /// Name, with `:` and its architecture.
    pub name: String,
    /// Its version before; none when it was not there.
    pub from: Option<String>,
    /// Its version after; none when it is not there.
    pub to: Option<String>,
}

/// Compares two versions.
#[must_use]
pub fn diff(from: &Manifest, to: &Manifest) -> ImageDiff {
    ImageDiff {
        from: from.id.clone(),
        to: to.id.clone(),
        paths: diff_trees(&from.tree, &to.tree),
        settings: diff_settings(from, to),
        packages: diff_packages(&from.provenance.packages, &to.provenance.packages),
        content: (Bytes(from.tree.content_bytes()), Bytes(to.tree.content_bytes())),
        file: (Bytes(from.file.bytes), Bytes(to.file.bytes)),
    }
}

/// A field or package and its value.
type Named = (String, String);

/// Both sides of a sorted merge: what is only left, only right, or on both.
fn merge<T>(
    left: impl Iterator<Item = T>,
    right: impl Iterator<Item = T>,
    compare: fn(&T, &T) -> Ordering,
) -> Vec<(Option<T>, Option<T>)> {
    let (mut left, mut right) = (left.peekable(), right.peekable());
    let mut merged = Vec::new();
    loop {
        let order = match (left.peek(), right.peek()) {
            (Some(a), Some(b)) => compare(a, b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return merged,
        };
        merged.push(match order {
            Ordering::Less => (left.next(), None),
            Ordering::Greater => (None, right.next()),
            Ordering::Equal => (left.next(), right.next()),
        });
    }
}

fn diff_trees(from: &ImageTree, to: &ImageTree) -> Vec<PathChange> {
    let by_path = |a: &TreeItem<'_>, b: &TreeItem<'_>| a.path.cmp(b.path);
    let pairs = merge(from.iter(), to.iter(), by_path);
    let change = |(from, to): (Option<TreeItem<'_>>, Option<TreeItem<'_>>)| {
        let (path, kind) = match (from, to) {
            (Some(from), None) => (from.path, Some(PathChangeKind::Removed)),
            (None, Some(to)) => (to.path, Some(PathChangeKind::Added)),
            (Some(from), Some(to)) => (from.path, compare_items(&from, &to)),
            (None, None) => return None,
        };
        Some(PathChange { path: path.clone(), kind: kind? })
    };
    pairs.into_iter().filter_map(change).collect()
}

fn compare_items(from: &TreeItem<'_>, to: &TreeItem<'_>) -> Option<PathChangeKind> {
    if !same_content(from.inode, to.inode) {
        return Some(PathChangeKind::Content);
    }
    let same = from.inode.attributes == to.inode.attributes && from.linked_to == to.linked_to;
    (!same).then_some(PathChangeKind::Attributes)
}

/// Whether readers of the two see the same, wherever the bytes lie.
fn same_content(from: &Inode, to: &Inode) -> bool {
    match (&from.kind, &to.kind) {
        (InodeKind::File(from), InodeKind::File(to)) => (from.size, from.sha256) == (to.size, to.sha256),
        (from, to) => from == to,
    }
}

fn diff_settings(from: &Manifest, to: &Manifest) -> Vec<SettingChange> {
    let settings = |manifest: &Manifest| -> Vec<(String, String)> {
        let config = serde_json::to_value(&manifest.config).unwrap_or_default();
        let plan = serde_json::to_value(&manifest.mount_plan).unwrap_or_default();
        let fields = config.as_object().into_iter().flatten();
        let mut all: Vec<_> = fields.map(|(field, value)| (field.clone(), value.to_string())).collect();
        all.push(("mount_plan".to_owned(), plan.to_string()));
        all.sort();
        all
    };
    let pairs = merge(settings(from).into_iter(), settings(to).into_iter(), |a, b| a.0.cmp(&b.0));
    let change = |(from, to): (Option<Named>, Option<Named>)| {
        let field = from.as_ref().or(to.as_ref())?.0.clone();
        let (from, to) = (from.map(|(_, json)| json), to.map(|(_, json)| json));
        (from != to).then_some(SettingChange { field, from, to })
    };
    pairs.into_iter().filter_map(change).collect()
}

fn diff_packages(from: &[Package], to: &[Package]) -> Vec<PackageChange> {
    let key = |package: &Package| format!("{}:{}", package.name, package.architecture);
    let sorted = |packages: &[Package]| {
        let mut all: Vec<_> = packages.iter().map(|package| (key(package), package.version.clone())).collect();
        all.sort();
        all
    };
    let pairs = merge(sorted(from).into_iter(), sorted(to).into_iter(), |a, b| a.0.cmp(&b.0));
    let change = |(from, to): (Option<Named>, Option<Named>)| {
        let name = from.as_ref().or(to.as_ref())?.0.clone();
        let (from, to) = (from.map(|(_, version)| version), to.map(|(_, version)| version));
        (from != to).then_some(PackageChange { name, from, to })
    };
    pairs.into_iter().filter_map(change).collect()
}
