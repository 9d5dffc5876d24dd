//! Property tests of what reads foreign bytes, again and again with new seeds, for as long as somebody asks.
//!
//! A failure ends it. It is printed as the smallest input that shows it; proptest writes the seed of a crate's own tests
//! below its `proptest-regressions/`, and every later run of the test begins with it: commit that file with the mending.

use std::fs;
use std::time::{Duration, Instant};

use crate::finding::Finding;
use crate::{step, workspace};

/// How long it takes when nobody says.
const SECONDS: u64 = 60;

/// Cases of a property in one round; the time is looked at between rounds.
const ROUND_CASES: u32 = 2_048;

/// A file of property tests of a parser, and their names.
struct Parser {
    file: &'static str,
    tests: &'static [&'static str],
}

/// Everything that reads what a stranger wrote: images, recipes, questions for names, files of containers; and what
/// passes between our own processes, one of which a container may have taken over.
const PARSERS: &[Parser] = &[
    Parser {
        file: "crates/insula-image/src/archive/tests.rs",
        tests: &["no_damage_makes_the_reader_fall", "no_bytes_make_the_reader_fall"],
    },
    Parser { file: "crates/insula-image/src/oci/tests.rs", tests: &["no_document_makes_an_import_fall"] },
    Parser {
        file: "crates/insula-image/src/oci/layers.rs",
        tests: &["merging_from_the_top_gives_the_tree_of_merging_from_the_bottom"],
    },
    Parser { file: "crates/insula-image/src/erofs/tests.rs", tests: &["no_damage_makes_the_image_reader_fall"] },
    Parser { file: "crates/insula-image/src/manifest/tests.rs", tests: &["what_is_read_is_what_would_be_written"] },
    Parser { file: "crates/insula-image/src/store/stage.rs", tests: &["damaged_records_are_refused_and_never_panic"] },
    Parser {
        file: "crates/insula-image/src/recipe/parse.rs",
        tests: &[
            "no_text_makes_the_parser_panic",
            "what_goes_to_a_helper_program_has_no_option_and_no_control_character",
        ],
    },
    Parser { file: "crates/insula-image/src/recipe/lock.rs", tests: &["no_text_makes_the_reader_of_locks_panic"] },
    Parser {
        file: "crates/insula-model/src/settings.rs",
        tests: &["whatever_is_accepted_stands_and_reads_back", "hostile_values_never_reach_a_stored_configuration"],
    },
    Parser {
        file: "crates/insula-plan/tests/plan_codec.rs",
        tests: &["no_bytes_make_the_reader_panic", "a_damaged_plan_is_refused_or_within_its_bounds"],
    },
    Parser {
        file: "crates/insula-plan/tests/protocol.rs",
        tests: &["no_bytes_make_a_reader_panic", "no_damage_to_a_message_makes_a_reader_panic"],
    },
    Parser { file: "crates/insula-plan/src/protocol/log.rs", tests: &["no_bytes_make_the_reader_panic"] },
    Parser { file: "crates/insula-plan/src/protocol/names.rs", tests: &["a_file_with_anything_in_it_does_no_harm"] },
    Parser { file: "crates/insula-init/src/spawn/account.rs", tests: &["no_file_makes_the_reader_panic"] },
    Parser {
        file: "crates/insula-guest/src/answer.rs",
        tests: &[
            "any_bytes_are_decided_about",
            "a_question_with_changed_bytes_is_decided_about",
            "any_bytes_of_a_name_server_do_no_harm",
        ],
    },
    Parser {
        file: "crates/insula-guest/src/stream.rs",
        tests: &["any_bytes_in_any_pieces_are_taken_apart_the_same_way"],
    },
];

/// The filter of nextest that takes these tests and no others.
fn filter(parsers: &[Parser]) -> String {
    let mut names: Vec<&str> = parsers.iter().flat_map(|parser| parser.tests).copied().collect();
    names.sort_unstable();
    names.dedup();
    format!("test(/(^|::)({})$/)", names.join("|"))
}

/// Rounds of all of them until the seconds that `words` say are over; at least one.
pub(crate) fn run(words: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    let seconds = match words {
        [] => SECONDS,
        [given] => given.parse().map_err(|_| format!("`{given}` is no number of seconds; write for example 600"))?,
        _ => return Err("more than one number of seconds; write for example: cargo xtask fuzz 600".into()),
    };
    let filter = filter(PARSERS);
    let arguments = ["nextest", "run", "--workspace", "--no-fail-fast", "--status-level=slow", "-E", &filter];
    step::cargo("build", &["nextest", "run", "--workspace", "--no-run", "-E", &filter])?;
    let (begin, cases) = (Instant::now(), ROUND_CASES.to_string());
    let mut round = 0_u64;
    while round == 0 || begin.elapsed() < Duration::from_secs(seconds) {
        round += 1;
        step::cargo_with(&format!("round {round}"), &[("PROPTEST_CASES", &cases)], &arguments)?;
    }
    println!("── {round} rounds of {ROUND_CASES} cases in {} s, and nothing fell", begin.elapsed().as_secs());
    Ok(())
}

/// Tests of the list that are not where it says.
pub(crate) fn check() -> Vec<Finding> {
    check_in(PARSERS, |path| fs::read_to_string(workspace::root().join(path)).unwrap_or_default())
}

fn check_in(parsers: &[Parser], read: impl Fn(&str) -> String) -> Vec<Finding> {
    let mut findings = Vec::new();
    for parser in parsers {
        let source = read(parser.file);
        let missing = parser.tests.iter().filter(|test| !source.contains(&format!("fn {test}(")));
        findings.extend(missing.map(|test| Finding {
            place: parser.file.to_owned(),
            message: format!("xtask/src/fuzz.rs names the test {test}, which is not here"),
        }));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_of_the_list_is_there() {
        let findings: Vec<String> = check().iter().map(ToString::to_string).collect();
        assert!(findings.is_empty(), "{findings:#?}");
    }

    #[test]
    fn a_test_that_is_gone_is_a_finding() {
        let parsers = [Parser { file: "a.rs", tests: &["one", "two"] }];
        let findings = check_in(&parsers, |_| "fn one(bytes in any) {\nfn twofold(".to_owned());
        assert_eq!(findings.len(), 1);
        assert!(findings[0].to_string().contains("the test two"));
        assert_eq!(filter(&parsers), "test(/(^|::)(one|two)$/)");
    }
}
