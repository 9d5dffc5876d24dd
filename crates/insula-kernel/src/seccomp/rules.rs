//! What a filter says, as data.

use std::collections::BTreeMap;

use super::Architecture;

/// What happens to a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// It is executed.
    Allow,
    /// It is not executed and answers this error number, 4095 at most.
    Errno(u16),
    /// The whole process dies by `SIGSYS`.
    KillProcess,
    /// The thread gets a `SIGSYS` that it can handle.
    Trap,
    /// It is executed and logged.
    Log,
    /// The listener of the filter decides.
    Notify,
}

impl Action {
    /// `SECCOMP_RET_*` with its data.
    pub(super) fn return_value(self) -> u32 {
        match self {
            Self::Allow => 0x7fff_0000,
            Self::Errno(errno) => 0x0005_0000 | u32::from(errno.min(4_095)),
            Self::KillProcess => 0x8000_0000,
            Self::Trap => 0x0003_0000,
            Self::Log => 0x7ffc_0000,
            Self::Notify => 0x7fc0_0000,
        }
    }
}

/// Which argument of a system call, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Argument(u8);

impl Argument {
    /// First argument.
    pub const A: Self = Self(0);
    /// Second argument.
    pub const B: Self = Self(1);
    /// Third argument.
    pub const C: Self = Self(2);
    /// Fourth argument.
    pub const D: Self = Self(3);
    /// Fifth argument.
    pub const E: Self = Self(4);
    /// Sixth argument.
    pub const F: Self = Self(5);

    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A comparison of one argument, unsigned and of all 64 bits.
///
/// The kernel ignores the upper half of an argument that is an `int`, and a program may put anything there. A rule on
/// such an argument must therefore mask it away ([`Test::low_half_is`]): comparing 64 bits is how others let TIOCSTI
/// through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// Equal.
    Eq(u64),
    /// Not equal.
    Ne(u64),
    /// Less.
    Lt(u64),
    /// Less or equal.
    Le(u64),
    /// Greater.
    Gt(u64),
    /// Greater or equal.
    Ge(u64),
    /// The bits of `mask` are those of `value`.
    MaskedEq {
        /// Which bits count.
        mask: u64,
        /// What they must be; bits outside `mask` make it never true.
        value: u64,
    },
}

impl Test {
    /// The low 32 bits, which are all that the kernel looks at for an `int`, are `value`.
    #[must_use]
    pub const fn low_half_is(value: u32) -> Self {
        Self::MaskedEq { mask: 0xffff_ffff, value: value as u64 }
    }

    /// None of `bits` is set.
    #[must_use]
    pub const fn none_of(bits: u64) -> Self {
        Self::MaskedEq { mask: bits, value: 0 }
    }
}

/// One condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Which argument.
    pub argument: Argument,
    /// What it must be.
    pub test: Test,
}

/// What happens when all conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clause {
    /// At most 12 conditions; none holds always.
    pub when: Vec<Condition>,
    /// What happens then.
    pub action: Action,
}

/// What happens to one system call: the first clause that holds, or else `otherwise`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// In the order of asking.
    pub clauses: Vec<Clause>,
    /// When none holds.
    pub otherwise: Action,
}

impl From<Action> for Rule {
    fn from(action: Action) -> Self {
        Self { clauses: Vec::new(), otherwise: action }
    }
}

/// What a filter says about every system call of an architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSet {
    /// Whose numbers the rules have.
    pub architecture: Architecture,
    /// System calls of any other architecture (32-bit programs on a 64-bit kernel).
    pub foreign: Action,
    /// Numbers without a rule.
    pub unknown: Action,
    /// By number.
    pub rules: BTreeMap<u32, Rule>,
}

/// A name that no known architecture has, in a list of rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("system call `{name}` is unknown")]
pub struct UnknownSystemCall {
    /// The name.
    pub name: String,
}

impl RuleSet {
    /// No rules: every call gets `unknown`, foreign ones `foreign`.
    #[must_use]
    pub fn new(architecture: Architecture, unknown: Action, foreign: Action) -> Self {
        Self { architecture, foreign, unknown, rules: BTreeMap::new() }
    }

    /// Sets what happens to the calls of these names, in place of what was said before. A name that only another
    /// architecture has is passed over.
    ///
    /// # Errors
    ///
    /// No architecture has a call of that name.
    pub fn set<'a>(
        &mut self,
        names: impl IntoIterator<Item = &'a str>,
        rule: impl Into<Rule>,
    ) -> Result<(), UnknownSystemCall> {
        let rule = rule.into();
        for name in names {
            if let Some(number) = self.architecture.number_of(name) {
                self.rules.insert(number, rule.clone());
            } else if [Architecture::X86_64, Architecture::Aarch64].iter().all(|other| other.number_of(name).is_none())
            {
                return Err(UnknownSystemCall { name: name.to_owned() });
            }
        }
        Ok(())
    }
}
