//! Merging layers, the top one first: which entries of a lower layer are still to be seen.
//!
//! The naive way applies layers from the bottom and lets upper ones replace and delete; then every hidden file was
//! written for nothing and lies in the image as unused blocks. From the top, an entry is written when nothing above
//! hides it:
//!
//! | above there is | entry of a lower layer |
//! |---|---|
//! | whiteout of the path or of a directory above it | hidden |
//! | opaque mark on a directory above it | hidden |
//! | anything but a directory at a directory above it | hidden |
//! | the path itself, both directories | hidden, but what is in the lower one may be seen |
//! | the path itself, as a directory only because something above lies in it; here a directory | written: its attributes |
//! | the path itself, otherwise | hidden; a lower file under an upper directory hides what lies deeper there |
//! | nothing | written |
//!
//! Whiteouts and opaque marks count for the layers below theirs, never for their own.

use std::collections::{HashMap, HashSet};

use crate::path::ImagePath;

/// What becomes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It belongs to the image.
    Seen,
    /// Something above hides it.
    Hidden,
}

/// Whether an entry is a directory, which is all that merging asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Directory,
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SeenShape {
    Directory,
    /// A directory that only an entry beneath it made.
    Implied,
    Other,
}

#[derive(Debug, Clone, Copy)]
struct SeenEntry {
    layer: u32,
    shape: SeenShape,
}

/// What the layers so far, counted from the top, have put into the image and hide.
#[derive(Debug, Default)]
pub(super) struct LayerStack {
    layer: u32,
    seen: HashMap<ImagePath, SeenEntry>,
    hidden: HashSet<ImagePath>,
    opaque: HashSet<ImagePath>,
    /// Of the layer that is being read: they count from the next one on.
    hidden_next: Vec<ImagePath>,
    opaque_next: Vec<ImagePath>,
}

impl LayerStack {
    /// Decides on the next entry of the current layer and remembers it.
    pub(super) fn decide(&mut self, path: &ImagePath, shape: Shape) -> Fate {
        if self.is_covered(path) {
            return Fate::Hidden;
        }
        if let Some(seen) = self.seen.get_mut(path).filter(|seen| seen.layer < self.layer) {
            match (seen.shape, shape) {
                (SeenShape::Implied, Shape::Directory) => {}
                (SeenShape::Directory | SeenShape::Implied, Shape::Other) => {
                    // A directory further down is another one: neither its entries nor its attributes are seen.
                    seen.shape = SeenShape::Directory;
                    self.opaque_next.push(path.clone());
                    return Fate::Hidden;
                }
                _ => return Fate::Hidden,
            }
        }
        let shape = if shape == Shape::Directory { SeenShape::Directory } else { SeenShape::Other };
        self.seen.insert(path.clone(), SeenEntry { layer: self.layer, shape });
        let mut above = path.parent();
        while let Some(parent) = above {
            if self.seen.contains_key(&parent) {
                break;
            }
            above = parent.parent();
            self.seen.insert(parent, SeenEntry { layer: self.layer, shape: SeenShape::Implied });
        }
        Fate::Seen
    }

    /// Whether something in the layers above covers the path: a whiteout, an opaque mark, a file in its way.
    fn is_covered(&self, path: &ImagePath) -> bool {
        if self.layer == 0 {
            return false;
        }
        if self.hidden.contains(path) {
            return true;
        }
        let mut above = path.parent();
        while let Some(parent) = above {
            let in_the_way = |seen: &SeenEntry| seen.layer < self.layer && seen.shape == SeenShape::Other;
            if self.hidden.contains(&parent)
                || self.opaque.contains(&parent)
                || self.seen.get(&parent).is_some_and(in_the_way)
            {
                return true;
            }
            above = parent.parent();
        }
        false
    }

    /// A whiteout in the current layer: the path, and all beneath it, is hidden in the layers below.
    pub(super) fn hide(&mut self, path: ImagePath) {
        self.hidden_next.push(path);
    }

    /// An opaque mark in the current layer: what is beneath the directory in the layers below is hidden.
    pub(super) fn hide_beneath(&mut self, directory: ImagePath) {
        self.opaque_next.push(directory);
    }

    /// Whether the current layer has put something else than a directory there.
    pub(super) fn is_from_this_layer(&self, path: &ImagePath) -> bool {
        let of_this = |seen: &SeenEntry| seen.layer == self.layer && seen.shape == SeenShape::Other;
        self.seen.get(path).is_some_and(of_this)
    }

    /// Goes on to the layer below.
    pub(super) fn next_layer(&mut self) {
        self.hidden.extend(self.hidden_next.drain(..));
        self.opaque.extend(self.opaque_next.drain(..));
        self.layer += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// One layer: entries by path, whiteouts, opaque directories.
    #[derive(Debug, Clone, Default)]
    struct Layer {
        entries: BTreeMap<String, Shape>,
        whiteouts: Vec<String>,
        opaque: Vec<String>,
    }

    /// What is at a path: its shape, and the layer (from the bottom) whose attributes it has; none when implied.
    type Tree = BTreeMap<String, (Shape, Option<usize>)>;

    fn beneath(path: &str, directory: &str) -> bool {
        path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
    }

    fn ancestors(path: &str) -> Vec<String> {
        path.match_indices('/').map(|(slash, _)| path[..slash].to_owned()).collect()
    }

    /// The naive way: each layer, from the bottom, deletes and then adds.
    fn from_the_bottom(layers: &[Layer]) -> Tree {
        let mut tree = Tree::new();
        for (number, layer) in layers.iter().enumerate() {
            for gone in &layer.whiteouts {
                tree.retain(|path, _| path != gone && !beneath(path, gone));
            }
            for directory in &layer.opaque {
                tree.retain(|path, _| !beneath(path, directory));
            }
            for (path, shape) in &layer.entries {
                for parent in ancestors(path) {
                    if tree.get(&parent).is_none_or(|(shape, _)| *shape == Shape::Other) {
                        tree.insert(parent, (Shape::Directory, None));
                    }
                }
                if *shape == Shape::Other {
                    tree.retain(|other, _| !beneath(other, path));
                }
                tree.insert(path.clone(), (*shape, Some(number)));
            }
        }
        tree
    }

    fn from_the_top(layers: &[Layer]) -> Tree {
        let parse = |path: &str| ImagePath::parse(path).unwrap();
        let mut stack = LayerStack::default();
        let mut tree = Tree::new();
        for (number, layer) in layers.iter().enumerate().rev() {
            for (path, shape) in &layer.entries {
                if stack.decide(&parse(path), *shape) == Fate::Seen {
                    tree.insert(path.clone(), (*shape, Some(number)));
                    for parent in ancestors(path) {
                        tree.entry(parent).or_insert((Shape::Directory, None));
                    }
                }
            }
            layer.whiteouts.iter().for_each(|path| stack.hide(parse(path)));
            layer.opaque.iter().for_each(|path| stack.hide_beneath(parse(path)));
            stack.next_layer();
        }
        tree
    }

    fn path() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!["a", "b"]), 1..4).prop_map(|parts| parts.join("/"))
    }

    fn entries() -> impl Strategy<Value = BTreeMap<String, Shape>> {
        let shape = prop::sample::select(vec![Shape::Directory, Shape::Other]);
        prop::collection::btree_map(path(), shape, 0..6).prop_map(|mut entries| {
            // Within one layer nothing lies beneath a file.
            let files: Vec<_> = entries.iter().filter(|entry| *entry.1 == Shape::Other).map(|e| e.0.clone()).collect();
            entries.retain(|path, _| !files.iter().any(|file| beneath(path, file)));
            entries
        })
    }

    /// A layer as builders make it: what it changes, with the directories above.
    fn complete_layer() -> impl Strategy<Value = Layer> {
        (entries(), prop::collection::vec(path(), 0..3), prop::collection::vec(path(), 0..2)).prop_map(
            |(mut entries, mut whiteouts, opaque)| {
                for parent in entries.keys().chain(&whiteouts).flat_map(|path| ancestors(path)).collect::<Vec<_>>() {
                    entries.entry(parent).or_insert(Shape::Directory);
                }
                let is_file = |path: &String| entries.get(path) == Some(&Shape::Other);
                whiteouts.retain(|gone| !ancestors(gone).iter().any(is_file));
                let files: Vec<_> = entries.keys().filter(|path| is_file(path)).cloned().collect();
                entries.retain(|path, _| !files.iter().any(|file| beneath(path, file)));
                let opaque = opaque.into_iter().filter(|dir| entries.get(dir) == Some(&Shape::Directory)).collect();
                Layer { entries, whiteouts, opaque }
            },
        )
    }

    /// A layer that leaves directories out and deletes nothing.
    fn sparse_layer() -> impl Strategy<Value = Layer> {
        entries().prop_map(|entries| Layer { entries, ..Layer::default() })
    }

    proptest! {
        #[test]
        fn merging_from_the_top_gives_the_tree_of_merging_from_the_bottom(
            layers in prop::collection::vec(complete_layer(), 1..5),
        ) {
            prop_assert_eq!(from_the_top(&layers), from_the_bottom(&layers));
        }

        #[test]
        fn directories_that_a_layer_leaves_out_keep_what_lower_layers_say(
            layers in prop::collection::vec(sparse_layer(), 1..5),
        ) {
            // Those that no layer brings come into being by what lies in them, hidden or not: not compared.
            let brought = |mut tree: Tree| { tree.retain(|_, (_, layer)| layer.is_some()); tree };
            prop_assert_eq!(brought(from_the_top(&layers)), brought(from_the_bottom(&layers)));
        }
    }
}
