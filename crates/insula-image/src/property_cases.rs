//! How many cases a property test tries. Whoever fuzzes asks all of them for more by one number.

use proptest::prelude::ProptestConfig;

/// What proptest tries of a property that does not say.
const USUAL: u32 = 256;

/// `ordinary` cases; with `PROPTEST_CASES` as many more as that is more than the usual 256.
pub(crate) fn cases(ordinary: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse::<u32>().ok()).unwrap_or(USUAL);
    ProptestConfig::with_cases((ordinary.saturating_mul(asked) / USUAL).max(1))
}
