//! From rules to the classic BPF program.
//!
//! ```text
//! ld arch ; not ours -> ret foreign
//! ld nr
//! binary search over ranges of numbers with equal rules ──┬─> ret action
//!                                                         └─> ld half of argument; compare; … ; ret action
//! ```
//!
//! Code is built from the leaves up, so that every distance is known when a jump over it is made, and every jump goes
//! forward, as the kernel demands. A conditional jump reaches 255 instructions; over more, it goes to an
//! unconditional one, which reaches all.

use super::rules::{Action, Clause, Condition, Rule, RuleSet, Test};
use super::{Architecture, Filter, INSTRUCTIONS_MAX, Instruction};

/// `A = *(u32 *)(seccomp_data + k)`
pub(super) const LOAD: u16 = 0x20;
/// skip `k`
pub(super) const JUMP: u16 = 0x05;
/// `A == k ? jt : jf`
pub(super) const JEQ: u16 = 0x15;
/// `A > k ? jt : jf`
pub(super) const JGT: u16 = 0x25;
/// `A >= k ? jt : jf`
pub(super) const JGE: u16 = 0x35;
/// `A &= k`
pub(super) const AND: u16 = 0x54;
/// return k
pub(super) const RETURN: u16 = 0x06;

/// Offset of `nr` in `struct seccomp_data`.
const NUMBER: u32 = 0;
/// Offset of `arch` in `struct seccomp_data`.
const ARCHITECTURE: u32 = 4;
/// Offset of `args` in `struct seccomp_data`; 8 bytes each, low half first on little-endian machines.
const ARGUMENTS: u32 = 16;

/// Bit of an x32 system call's number on x86-64.
const X32_BIT: u32 = 0x4000_0000;
/// `ENOSYS`, what a kernel without x32 answers.
const ENOSYS: u16 = 38;
/// Most conditions of one clause, which keeps its jumps below 255.
const CONDITIONS_MAX: usize = 12;

/// Rules that make no program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileFilterError {
    /// A clause has more conditions than a conditional jump can skip.
    #[error("a rule of system call {number} has {count} conditions; {CONDITIONS_MAX} is the most")]
    TooManyConditions {
        /// The call's number.
        number: u32,
        /// How many conditions.
        count: usize,
    },
    /// The program is longer than the kernel takes.
    #[error("the filter has {count} instructions; {INSTRUCTIONS_MAX} is the most")]
    TooLong {
        /// How many instructions.
        count: usize,
    },
}

/// Numbers from `start` up to the next range's start have the same rule.
struct Range<'a> {
    start: u32,
    rule: &'a Rule,
}

impl RuleSet {
    /// The program that says what these rules say.
    ///
    /// # Errors
    ///
    /// - A clause with more than 12 conditions.
    /// - A program of more than 4096 instructions.
    pub fn compile(&self) -> Result<Filter, CompileFilterError> {
        for (number, rule) in &self.rules {
            if let Some(clause) = rule.clauses.iter().find(|clause| clause.when.len() > CONDITIONS_MAX) {
                return Err(CompileFilterError::TooManyConditions { number: *number, count: clause.when.len() });
            }
        }
        let (unknown, x32) = (Rule::from(self.unknown), Rule::from(Action::Errno(ENOSYS)));
        let ranges = self.ranges(&unknown, &x32);
        let mut program = vec![
            load(ARCHITECTURE),
            Instruction { code: JEQ, jt: 1, jf: 0, k: self.architecture.audit_number() },
            give(self.foreign),
            load(NUMBER),
        ];
        program.extend(search(&ranges));
        if program.len() > INSTRUCTIONS_MAX {
            return Err(CompileFilterError::TooLong { count: program.len() });
        }
        let bytes = program.iter().flat_map(|instruction| {
            let (code, k) = (instruction.code.to_le_bytes(), instruction.k.to_le_bytes());
            [code[0], code[1], instruction.jt, instruction.jf, k[0], k[1], k[2], k[3]]
        });
        Ok(Filter { bytes: bytes.collect() })
    }

    /// All numbers as ranges, in ascending order from 0; neighbours with equal rules are one range.
    fn ranges<'a>(&'a self, unknown: &'a Rule, x32: &'a Rule) -> Vec<Range<'a>> {
        let mut ranges: Vec<Range<'a>> = Vec::new();
        let mut push = |start, rule: &'a Rule| {
            if ranges.last().is_none_or(|last| last.rule != rule) {
                ranges.push(Range { start, rule });
            }
        };
        let mut next = Some(0);
        let last = if self.architecture == Architecture::X86_64 { X32_BIT - 1 } else { u32::MAX };
        for (number, rule) in self.rules.range(..=last) {
            if next.is_some_and(|next| next < *number) {
                push(next.unwrap_or_default(), unknown);
            }
            push(*number, rule);
            next = number.checked_add(1);
        }
        if let Some(next) = next {
            push(next, unknown);
        }
        if self.architecture == Architecture::X86_64 {
            push(X32_BIT, x32);
        }
        ranges
    }
}

/// Binary search: at least one range; every path ends in a return.
fn search(ranges: &[Range<'_>]) -> Vec<Instruction> {
    let [range] = ranges else {
        let (left, right) = ranges.split_at(ranges.len() / 2);
        let pivot = right.first().map_or(0, |range| range.start);
        let (left, right) = (search(left), search(right));
        let mut code = match u8::try_from(left.len()) {
            Ok(jt) => vec![Instruction { code: JGE, jt, jf: 0, k: pivot }],
            Err(_) => {
                let over = u32::try_from(left.len()).unwrap_or(u32::MAX);
                vec![
                    Instruction { code: JGE, jt: 0, jf: 1, k: pivot },
                    Instruction { code: JUMP, jt: 0, jf: 0, k: over },
                ]
            }
        };
        code.extend(left);
        code.extend(right);
        return code;
    };
    let mut code: Vec<Instruction> = range.rule.clauses.iter().flat_map(clause_code).collect();
    code.push(give(range.rule.otherwise));
    code
}

/// Returns when all conditions hold, else falls off its end. Built from the last condition to the first: `code` is what
/// a condition that holds goes on with, and one that does not skips it.
fn clause_code(clause: &Clause) -> Vec<Instruction> {
    let mut code = vec![give(clause.action)];
    for condition in clause.when.iter().rev() {
        let mut with = condition_code(condition, code.len());
        with.append(&mut code);
        code = with;
    }
    code
}

/// Falls off its end when the condition holds, else skips `rest` instructions more.
fn condition_code(condition: &Condition, rest: usize) -> Vec<Instruction> {
    let argument = u32::try_from(condition.argument.index()).unwrap_or_default();
    let (low_at, high_at) = (ARGUMENTS + 8 * argument, ARGUMENTS + 8 * argument + 4);
    // 12 conditions of 6 instructions and a return: always below 255.
    let skip = |within: usize| u8::try_from(rest + within).unwrap_or(u8::MAX);
    let jump = |code, k, jt, jf| Instruction { code, jt, jf, k };
    let split = |value: u64| {
        let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
        (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
    };
    match condition.test {
        Test::Eq(value) => {
            let (low, high) = split(value);
            vec![load(high_at), jump(JEQ, high, 0, skip(2)), load(low_at), jump(JEQ, low, 0, skip(0))]
        }
        Test::Ne(value) => {
            let (low, high) = split(value);
            vec![load(high_at), jump(JEQ, high, 0, 2), load(low_at), jump(JEQ, low, skip(0), 0)]
        }
        Test::MaskedEq { mask, value } => {
            let ((low, high), (low_mask, high_mask)) = (split(value), split(mask));
            let and = |k| Instruction { code: AND, jt: 0, jf: 0, k };
            vec![
                load(high_at),
                and(high_mask),
                jump(JEQ, high, 0, skip(3)),
                load(low_at),
                and(low_mask),
                jump(JEQ, low, 0, skip(0)),
            ]
        }
        // The high halves decide unless they are equal.
        Test::Gt(value) | Test::Ge(value) => {
            let (low, high) = split(value);
            let last = if matches!(condition.test, Test::Gt(_)) { JGT } else { JGE };
            vec![
                load(high_at),
                jump(JGT, high, 3, 0),
                jump(JEQ, high, 0, skip(2)),
                load(low_at),
                jump(last, low, 0, skip(0)),
            ]
        }
        Test::Lt(value) | Test::Le(value) => {
            let (low, high) = split(value);
            let last = if matches!(condition.test, Test::Lt(_)) { JGE } else { JGT };
            vec![
                load(high_at),
                jump(JGT, high, skip(3), 0),
                jump(JEQ, high, 0, 2),
                load(low_at),
                jump(last, low, skip(0), 0),
            ]
        }
    }
}

fn load(at: u32) -> Instruction {
    Instruction { code: LOAD, jt: 0, jf: 0, k: at }
}

fn give(action: Action) -> Instruction {
    Instruction { code: RETURN, jt: 0, jf: 0, k: action.return_value() }
}

#[cfg(test)]
mod tests {
    use super::super::rules::Argument;
    use super::*;
    use proptest::prelude::*;

    /// `struct seccomp_data` without the instruction pointer.
    #[derive(Debug, Clone, Copy)]
    struct Call {
        architecture: u32,
        number: u32,
        arguments: [u64; 6],
    }

    /// What the program returns for the call; jumps that leave the program panic.
    fn run(filter: &Filter, call: Call) -> u32 {
        let mut data = Vec::new();
        data.extend(call.number.to_le_bytes());
        data.extend(call.architecture.to_le_bytes());
        data.extend([0; 8]);
        data.extend(call.arguments.iter().flat_map(|argument| argument.to_le_bytes()));
        let program: Vec<Instruction> = filter.instructions().collect();
        let (mut accumulator, mut at) = (0_u32, 0);
        loop {
            let Instruction { code, jt, jf, k } = program[at];
            at += 1;
            let decided = match code {
                LOAD => {
                    let from = usize::try_from(k).unwrap();
                    accumulator = u32::from_le_bytes(data[from..from + 4].try_into().unwrap());
                    continue;
                }
                AND => {
                    accumulator &= k;
                    continue;
                }
                JUMP => {
                    at += usize::try_from(k).unwrap();
                    continue;
                }
                RETURN => return k,
                JEQ => accumulator == k,
                JGT => accumulator > k,
                JGE => accumulator >= k,
                other => panic!("instruction {other:#x}"),
            };
            at += usize::from(if decided { jt } else { jf });
        }
    }

    /// What the rules say, read directly.
    fn decide(rules: &RuleSet, call: Call) -> u32 {
        if call.architecture != rules.architecture.audit_number() {
            return rules.foreign.return_value();
        }
        if rules.architecture == Architecture::X86_64 && call.number >= X32_BIT {
            return Action::Errno(ENOSYS).return_value();
        }
        let Some(rule) = rules.rules.get(&call.number) else { return rules.unknown.return_value() };
        let holds = |condition: &Condition| {
            let argument = call.arguments[condition.argument.index()];
            match condition.test {
                Test::Eq(value) => argument == value,
                Test::Ne(value) => argument != value,
                Test::Lt(value) => argument < value,
                Test::Le(value) => argument <= value,
                Test::Gt(value) => argument > value,
                Test::Ge(value) => argument >= value,
                Test::MaskedEq { mask, value } => argument & mask == value,
            }
        };
        let clause = rule.clauses.iter().find(|clause| clause.when.iter().all(holds));
        clause.map_or(rule.otherwise, |clause| clause.action).return_value()
    }

    fn actions() -> impl Strategy<Value = Action> {
        prop_oneof![
            Just(Action::Allow),
            (0..4_096_u16).prop_map(Action::Errno),
            Just(Action::KillProcess),
            Just(Action::Trap),
            Just(Action::Log),
            Just(Action::Notify),
        ]
    }

    /// Values whose halves are often equal to each other's.
    fn values() -> impl Strategy<Value = u64> {
        let half = prop_oneof![Just(0), Just(1), Just(2), Just(u32::MAX), any::<u32>()];
        (half.clone(), half).prop_map(|(high, low)| u64::from(high) << 32 | u64::from(low))
    }

    fn arguments() -> impl Strategy<Value = Argument> {
        proptest::sample::select(
            [Argument::A, Argument::B, Argument::C, Argument::D, Argument::E, Argument::F].as_slice(),
        )
    }

    fn conditions() -> impl Strategy<Value = Condition> {
        let test = (0..7_u8, values(), values()).prop_map(|(kind, value, mask)| match kind {
            0 => Test::Eq(value),
            1 => Test::Ne(value),
            2 => Test::Lt(value),
            3 => Test::Le(value),
            4 => Test::Gt(value),
            5 => Test::Ge(value),
            _ => Test::MaskedEq { mask, value: value & mask },
        });
        (arguments(), test).prop_map(|(argument, test)| Condition { argument, test })
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let clause = (proptest::collection::vec(conditions(), 0..=CONDITIONS_MAX), actions())
            .prop_map(|(when, action)| Clause { when, action });
        (proptest::collection::vec(clause, 0..3), actions())
            .prop_map(|(clauses, otherwise)| Rule { clauses, otherwise })
    }

    fn rule_sets() -> impl Strategy<Value = RuleSet> {
        let number = prop_oneof![0..20_u32, 0..500_u32, Just(u32::MAX), Just(X32_BIT), Just(X32_BIT - 1)];
        let rules = proptest::collection::btree_map(number, rule(), 0..40);
        let architecture = prop_oneof![Just(Architecture::X86_64), Just(Architecture::Aarch64)];
        (architecture, actions(), actions(), rules).prop_map(|(architecture, foreign, unknown, rules)| RuleSet {
            architecture,
            foreign,
            unknown,
            rules,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]
        #[test]
        fn the_program_decides_as_the_rules_say(
            rules in rule_sets(),
            number in prop_oneof![0..20_u32, 0..500_u32, any::<u32>(), Just(u32::MAX)],
            arguments in proptest::array::uniform6(values()), foreign in proptest::bool::weighted(0.1),
        ) {
            let Ok(filter) = rules.compile() else { return Ok(()) };
            let architecture = if foreign { 0x4000_0003 } else { rules.architecture.audit_number() };
            let numbers = rules.rules.keys().flat_map(|number| [number.wrapping_sub(1), *number, number.wrapping_add(1)]);
            for number in numbers.chain([number]) {
                let call = Call { architecture, number, arguments };
                prop_assert_eq!(run(&filter, call), decide(&rules, call), "{:?}", call);
            }
        }
    }

    #[test]
    fn a_masked_test_does_not_see_the_half_that_the_kernel_ignores() {
        let clause = Clause {
            when: vec![Condition { argument: Argument::B, test: Test::low_half_is(0x5412) }],
            action: Action::Errno(1),
        };
        let mut rules = RuleSet::new(Architecture::NATIVE, Action::Allow, Action::KillProcess);
        rules.set(["ioctl"], Rule { clauses: vec![clause], otherwise: Action::Allow }).unwrap();
        let filter = rules.compile().unwrap();
        let number = Architecture::NATIVE.number_of("ioctl").unwrap();
        let architecture = Architecture::NATIVE.audit_number();
        for argument in [0x5412, 0xffff_ffff_0000_5412] {
            let call = Call { architecture, number, arguments: [0, argument, 0, 0, 0, 0] };
            assert_eq!(run(&filter, call), Action::Errno(1).return_value());
        }
    }

    #[test]
    fn long_programs_jump_over_more_than_255_instructions_or_are_refused() {
        let clauses = |count: u64| {
            (0..count)
                .map(|value| Clause {
                    when: vec![Condition { argument: Argument::A, test: Test::Eq(value) }],
                    action: Action::Errno(u16::try_from(value).unwrap()),
                })
                .collect()
        };
        let mut rules = RuleSet::new(Architecture::X86_64, Action::Allow, Action::KillProcess);
        for number in 0..4 {
            rules.rules.insert(number * 2, Rule { clauses: clauses(150), otherwise: Action::Trap });
        }
        let filter = rules.compile().unwrap();
        assert!(filter.bytes().len() / 8 > 2_000);
        for (number, value) in [(0, 0), (0, 149), (2, 77), (6, 149), (6, 150), (7, 0), (1, 3)] {
            let call =
                Call { architecture: Architecture::X86_64.audit_number(), number, arguments: [value, 0, 0, 0, 0, 0] };
            assert_eq!(run(&filter, call), decide(&rules, call));
        }
        rules.rules.insert(8, Rule { clauses: clauses(700), otherwise: Action::Trap });
        assert!(matches!(rules.compile(), Err(CompileFilterError::TooLong { .. })));
        let when = vec![Condition { argument: Argument::A, test: Test::Eq(0) }; CONDITIONS_MAX + 1];
        rules.rules.insert(8, Rule { clauses: vec![Clause { when, action: Action::Allow }], otherwise: Action::Trap });
        assert!(matches!(rules.compile(), Err(CompileFilterError::TooManyConditions { number: 8, .. })));
    }
}
