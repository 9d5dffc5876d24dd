//! Which system calls the programs of a container may make.
//!
//! The list is the field's (what container engines allow by default), read for containers that have a user namespace
//! of their own: a capability there is one over the container's own objects, so calls that ask for the *first* user
//! namespace's (modules, clocks, ports, BPF, the kernel's log) are refused whatever the capabilities.
//!
//! ```text
//! allowed            executed
//! known, not allowed EPERM    the administrator forbids it
//! unknown number     ENOSYS   newer than this list: programs fall back to what they did before
//! some known ones    ENOSYS   programs have a way without (clone3, io_uring, keyrings)
//! 32-bit, x32        killed, ENOSYS
//! ```

mod names;

use insula_kernel::capability::CapabilitySet;
use insula_kernel::seccomp::{
    Action, Architecture, Argument, Clause, CompileFilterError, Condition, Filter, Rule, RuleSet, Test,
    UnknownSystemCall,
};

const EPERM: u16 = 1;
const EINVAL: u16 = 22;
const ENOSYS: u16 = 38;
const EAFNOSUPPORT: u16 = 97;

/// Flags of clone(2) that make a namespace.
const CLONE_NEW: u64 = 0x7e02_0000;
/// `CLONE_NEWTIME`, which only unshare(2) takes in its flags.
const CLONE_NEWTIME: u64 = 0x80;

/// The list of rules is wrong; tests build every profile, so that no user meets this.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// A name is misspelt.
    #[error("the default system call profile names a call that does not exist")]
    Name {
        /// Which.
        #[from]
        source: UnknownSystemCall,
    },
    /// The rules make no program.
    #[error("the default system call profile makes no program")]
    Compile {
        /// Why.
        #[from]
        source: CompileFilterError,
    },
}

/// The filter of a container whose processes can at most have `capabilities` of its user namespace.
///
/// It costs about a millisecond: callers keep it by `capabilities`. A privileged container has no filter; that is its
/// caller's decision.
///
/// # Errors
///
/// None in a release.
pub fn filter(capabilities: CapabilitySet) -> Result<Filter, ProfileError> {
    Ok(rules(Architecture::NATIVE, capabilities)?.compile()?)
}

/// The same as rules.
///
/// # Errors
///
/// None in a release.
pub fn rules(architecture: Architecture, capabilities: CapabilitySet) -> Result<RuleSet, UnknownSystemCall> {
    let mut rules = RuleSet::new(architecture, Action::Errno(ENOSYS), Action::KillProcess);
    let every = architecture.system_calls().iter().map(|(_, name)| *name);
    rules.set(every, Action::Errno(EPERM))?;
    rules.set(words(names::AS_IF_ABSENT), Action::Errno(ENOSYS))?;
    rules.set(words(names::ALLOWED), Action::Allow)?;
    rules.set(["clone"], unless_any_of(CLONE_NEW))?;
    // Without a namespace in its flags it only splits what threads share.
    rules.set(["unshare"], unless_any_of(CLONE_NEW | CLONE_NEWTIME))?;
    rules.set(["personality"], personalities())?;
    rules.set(["socket"], sockets(capabilities))?;
    rules.set(["ioctl"], ioctls())?;
    for (capability, calls) in [
        (CapabilitySet::SYS_ADMIN, names::WITH_SYS_ADMIN),
        (CapabilitySet::SYS_CHROOT, names::WITH_SYS_CHROOT),
        (CapabilitySet::DAC_READ_SEARCH, names::WITH_DAC_READ_SEARCH),
        (CapabilitySet::SYS_NICE, names::WITH_SYS_NICE),
        (CapabilitySet::SYS_PTRACE, names::WITH_SYS_PTRACE),
    ] {
        if capabilities.contains(capability) {
            rules.set(words(calls), Action::Allow)?;
        }
    }
    Ok(rules)
}

fn words<'a>(lines: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    lines.iter().flat_map(|line| line.split_whitespace())
}

fn clause(action: Action, when: impl IntoIterator<Item = (Argument, Test)>) -> Clause {
    Clause { when: when.into_iter().map(|(argument, test)| Condition { argument, test }).collect(), action }
}

fn unless_any_of(flags: u64) -> Rule {
    let clauses = vec![clause(Action::Allow, [(Argument::A, Test::none_of(flags))])];
    Rule { clauses, otherwise: Action::Errno(EPERM) }
}

/// Ordinary Linux, its 32-bit and version 2.6 faces, and asking which it is; not those that turn protections off.
fn personalities() -> Rule {
    let clauses = [0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff]
        .into_iter()
        .map(|persona| clause(Action::Allow, [(Argument::A, Test::low_half_is(persona))]))
        .collect();
    Rule { clauses, otherwise: Action::Errno(EPERM) }
}

fn sockets(capabilities: CapabilitySet) -> Rule {
    let absent = Action::Errno(EAFNOSUPPORT);
    let mut clauses = vec![
        // AF_VSOCK reaches the hypervisor and other guests: no namespace bounds it.
        clause(absent, [(Argument::A, Test::low_half_is(40))]),
        // AF_ALG offers ciphers that programs have themselves, by kernel code that was broken often.
        clause(absent, [(Argument::A, Test::low_half_is(38))]),
    ];
    if !capabilities.contains(CapabilitySet::AUDIT_WRITE) {
        // AF_NETLINK with NETLINK_AUDIT: libaudit takes EINVAL for a kernel without it and goes on.
        let audit = [(Argument::A, Test::low_half_is(16)), (Argument::C, Test::low_half_is(9))];
        clauses.push(clause(Action::Errno(EINVAL), audit));
    }
    Rule { clauses, otherwise: Action::Allow }
}

/// All but a few: what a request does is decided by the descriptor's owner, and descriptors are the container's own.
fn ioctls() -> Rule {
    let refused = Action::Errno(EPERM);
    let clauses = vec![
        // TIOCSTI types into a terminal on behalf of who reads it; TIOCLINUX pastes into the console.
        clause(refused, [(Argument::B, Test::low_half_is(0x5412))]),
        clause(refused, [(Argument::B, Test::low_half_is(0x541c))]),
        // 0x4Cxx are the loop driver's: who may write to a loop device could otherwise move its window over the
        // whole of the disk beneath.
        clause(refused, [(Argument::B, Test::MaskedEq { mask: 0xffff_ff00, value: 0x4c00 })]),
    ];
    Rule { clauses, otherwise: Action::Allow }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    const KINDS: [(&str, CapabilitySet); 2] =
        [("application", CapabilitySet::CONTAINER_DEFAULT), ("full-init", CapabilitySet::ALL)];

    fn describe(rules: &RuleSet) -> String {
        let mut text = String::new();
        for (number, name) in rules.architecture.system_calls() {
            let rule = &rules.rules[number];
            let answer = match (rule.clauses.len(), rule.otherwise) {
                (0, Action::Allow) => "allowed".to_owned(),
                (0, Action::Errno(EPERM)) => "EPERM".to_owned(),
                (0, Action::Errno(ENOSYS)) => "ENOSYS".to_owned(),
                (count, otherwise) => format!("{count} conditions, otherwise {otherwise:?}"),
            };
            writeln!(text, "{name} {answer}").unwrap();
        }
        text
    }

    #[test]
    fn nothing_becomes_allowed_without_a_change_to_the_reviewed_table() {
        for (kind, capabilities) in KINDS {
            for (architecture, name) in [(Architecture::X86_64, "x86_64"), (Architecture::Aarch64, "aarch64")] {
                let table = describe(&rules(architecture, capabilities).unwrap());
                let path = format!("{}/testdata/seccomp-{kind}-{name}.txt", env!("CARGO_MANIFEST_DIR"));
                if std::env::var_os("INSULA_UPDATE_TESTDATA").is_some() {
                    std::fs::write(&path, &table).unwrap();
                }
                let reviewed = std::fs::read_to_string(&path).unwrap();
                for (now, before) in table.lines().zip(reviewed.lines()) {
                    assert_eq!(now, before, "{path}; after review: INSULA_UPDATE_TESTDATA=1");
                }
                assert_eq!(table.lines().count(), reviewed.lines().count(), "{path}");
            }
        }
    }

    #[test]
    fn every_profile_makes_a_short_program() {
        for (kind, capabilities) in KINDS {
            for architecture in [Architecture::X86_64, Architecture::Aarch64] {
                let filter = rules(architecture, capabilities).unwrap().compile().unwrap();
                let count = filter.bytes().len() / 8;
                assert!((100..400).contains(&count), "{kind}: {count} instructions");
            }
        }
    }

    #[test]
    fn default_capabilities_make_no_namespace_and_no_mount() {
        let rules = rules(Architecture::NATIVE, CapabilitySet::CONTAINER_DEFAULT).unwrap();
        let rule = |name: &str| &rules.rules[&rules.architecture.number_of(name).unwrap()];
        assert_eq!(rule("clone3").otherwise, Action::Errno(ENOSYS));
        for name in ["clone", "unshare"] {
            assert_eq!((rule(name).otherwise, rule(name).clauses.len()), (Action::Errno(EPERM), 1));
        }
        for name in ["mount", "fsopen", "setns", "pivot_root", "bpf", "perf_event_open", "syslog", "init_module"] {
            assert_eq!(*rule(name), Rule::from(Action::Errno(EPERM)), "{name}");
        }
    }

    #[test]
    fn all_capabilities_of_a_user_namespace_give_nothing_of_the_machine() {
        let rules = rules(Architecture::NATIVE, CapabilitySet::ALL).unwrap();
        let rule = |name: &str| &rules.rules[&rules.architecture.number_of(name).unwrap()];
        for name in ["mount", "clone3", "unshare", "setns", "chroot", "ptrace"] {
            assert_eq!(*rule(name), Rule::from(Action::Allow), "{name}");
        }
        for name in "bpf perf_event_open kexec_load init_module swapon settimeofday syslog acct".split(' ') {
            assert_eq!(*rule(name), Rule::from(Action::Errno(EPERM)), "{name}");
        }
        assert_eq!(rule("ioctl").clauses.len(), 3);
    }
}
