//! Where the options of `run`, `create` and `exec` end: before the first operand, as in the field.
//!
//! `exec web ls --help` is about `ls`, and `sh -c … -- a` keeps its `--`. Left alone, the parser would look for
//! options of ours behind the image too and swallow the first `--`. So one is put before the first operand.

use std::ffi::OsString;

use clap::{Arg, Command};

/// Commands whose operands are a command line of somebody else's.
const WRAPPING: [&str; 3] = ["run", "create", "exec"];

/// `words` with a `--` before the first operand of a wrapping command. The first word is the program's name.
pub(super) fn with_operands_marked(root: &Command, mut words: Vec<OsString>) -> Vec<OsString> {
    let Some(verb) = first_operand(&[root], &words, 1) else { return words };
    let Some(name) = words[verb].to_str().filter(|name| WRAPPING.contains(name)) else { return words };
    let Some(command) = root.find_subcommand(name) else { return words };
    if let Some(operand) = first_operand(&[command, root], &words, verb + 1) {
        words.insert(operand, OsString::from("--"));
    }
    words
}

/// Index of the first word from `start` that is neither an option of `commands` nor an option's value; `None` if
/// there is none or a `--` stands before it.
pub(super) fn first_operand(commands: &[&Command], words: &[OsString], start: usize) -> Option<usize> {
    let mut index = start;
    while let Some(word) = words.get(index) {
        // What is not UTF-8 is no option of ours.
        let Some(text) = word.to_str() else { return Some(index) };
        if text == "--" {
            return None;
        }
        match text.strip_prefix('-').filter(|rest| !rest.is_empty()) {
            None => return Some(index),
            Some(option) => index += 1 + usize::from(takes_next_word(commands, option)),
        }
    }
    None
}

/// Whether the value of an option (written without its first dash) is the next word.
fn takes_next_word(commands: &[&Command], option: &str) -> bool {
    let known: Vec<&Arg> = commands.iter().flat_map(|command| command.get_arguments()).collect();
    if let Some(long) = option.strip_prefix('-') {
        let is = |arg: &&Arg| {
            arg.get_long() == Some(long) || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&long))
        };
        return known.into_iter().find(is).is_some_and(takes_value);
    }
    let mut letters = option.chars();
    while let Some(letter) = letters.next() {
        if known.iter().any(|arg| arg.get_short() == Some(letter) && takes_value(arg)) {
            // What follows in the same word is the value.
            return letters.as_str().is_empty();
        }
    }
    false
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}
