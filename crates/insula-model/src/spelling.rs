//! Suggestions for what somebody may have meant to write.

/// Longest text that is compared; a longer one is near nothing.
const LENGTH_MAX: usize = 64;

/// The candidate that is nearest to `given`: one that begins with it, else by insertions, removals and replacements of
/// characters; `None` when there is no candidate.
#[must_use]
pub fn nearest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let given: String = given.chars().take(LENGTH_MAX).collect();
    candidates.into_iter().min_by_key(|candidate| (!candidate.starts_with(&given), distance(&given, candidate)))
}

/// The same, if it is so near that somebody may have meant it: a third of what was given is wrong at most.
#[must_use]
pub fn near<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let bound = 2.max(given.len() / 3);
    nearest(given, candidates).filter(|candidate| given.len() <= LENGTH_MAX && distance(given, candidate) <= bound)
}

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_far_is_not_near() {
        let keys = ["memory.limit", "pids.limit", "hostname"];
        assert_eq!(near("memory_limit", keys), Some("memory.limit"));
        assert_eq!(near("colour", keys), None);
        assert_eq!(near(&"x".repeat(100), keys), None);
    }

    #[test]
    fn the_nearest_is_the_one_with_the_fewest_changes() {
        let keys = ["memory.limit", "pids.limit", "hostname"];
        assert_eq!(nearest("memory_limit", keys), Some("memory.limit"));
        assert_eq!(nearest("pid.limit", keys), Some("pids.limit"));
        assert_eq!(nearest("memory", ["network", "memory.limit"]), Some("memory.limit"));
        assert_eq!(nearest("", keys), Some("hostname"));
        assert_eq!(nearest("x", []), None);
        assert!(nearest(&"x".repeat(1_000_000), keys).is_some());
    }
}
