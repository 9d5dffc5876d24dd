//! The lifecycle by itself: what single requests lead to, and every interleaving against a machine that asserts.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use insula_model::{ContainerState, RestartPolicy, Signal};
use proptest::prelude::*;

use super::lifecycle::Lifecycle;
use super::words::{Activity, Ask, AtEnd, ChangePending, Effect, Force, Found, Input, Reply, Ticket, Verdict, Version};

const GRACE: Duration = Duration::from_secs(10);

fn fresh(policy: RestartPolicy) -> Lifecycle {
    Lifecycle::new(Found::Created, policy, AtEnd::Keep)
}

fn ask(lifecycle: &mut Lifecycle, ticket: u64, ask: Ask) -> Vec<Effect> {
    lifecycle.step(Input::Asked(Ticket(ticket), ask))
}

fn running(policy: RestartPolicy) -> Lifecycle {
    let mut lifecycle = fresh(policy);
    ask(&mut lifecycle, 1, Ask::Start);
    let effects = lifecycle.step(Input::StartEnded(Ok(())));
    assert_eq!(effects, [Effect::Reply(Ticket(1), Reply::Done)]);
    lifecycle
}

fn exited(code: i32) -> Input {
    Input::Exited { code: Some(code), ran: Duration::from_secs(1) }
}

#[test]
fn second_start_is_refused_while_starting() {
    let mut lifecycle = fresh(RestartPolicy::No);
    assert!(ask(&mut lifecycle, 1, Ask::Start).contains(&Effect::Start(Version::Wanted)));
    assert_eq!(ask(&mut lifecycle, 2, Ask::Start), [Effect::Reply(Ticket(2), Reply::Busy(Activity::Start))]);
}

#[test]
fn stop_signals_then_kills_then_answers_when_everything_is_swept() {
    let mut lifecycle = running(RestartPolicy::No);
    let effects = ask(&mut lifecycle, 2, Ask::Stop { grace: GRACE });
    assert!(effects.contains(&Effect::SignalStop) && effects.contains(&Effect::ArmStop(GRACE)));
    assert_eq!(lifecycle.step(Input::StopDeadline), [Effect::KillAll]);
    assert!(lifecycle.step(exited(137)).contains(&Effect::Sweep));
    assert_eq!(lifecycle.state(), Some(ContainerState::Stopping));
    assert_eq!(lifecycle.step(Input::SweepEnded), [Effect::Reply(Ticket(2), Reply::Done)]);
    assert_eq!(lifecycle.state(), Some(ContainerState::Stopped));
}

#[test]
fn stop_wins_over_a_restart_under_way() {
    let mut lifecycle = running(RestartPolicy::No);
    ask(&mut lifecycle, 2, Ask::Restart { grace: GRACE });
    let effects = ask(&mut lifecycle, 3, Ask::Stop { grace: GRACE });
    assert!(effects.contains(&Effect::Reply(Ticket(2), Reply::Overtaken)));
    lifecycle.step(exited(0));
    assert_eq!(lifecycle.step(Input::SweepEnded), [Effect::Reply(Ticket(3), Reply::Done)]);
}

#[test]
fn a_stop_is_answered_though_a_start_comes_before_its_sweep_ended() {
    let mut lifecycle = running(RestartPolicy::No);
    ask(&mut lifecycle, 2, Ask::Stop { grace: GRACE });
    lifecycle.step(exited(0));
    assert!(ask(&mut lifecycle, 3, Ask::Start).iter().all(|effect| !matches!(effect, Effect::Reply(..))));
    let effects = lifecycle.step(Input::SweepEnded);
    assert!(effects.contains(&Effect::Reply(Ticket(2), Reply::Done)), "{effects:?}");
    assert!(effects.contains(&Effect::Start(Version::Wanted)), "{effects:?}");
    assert_eq!(lifecycle.step(Input::StartEnded(Ok(()))), [Effect::Reply(Ticket(3), Reply::Done)]);
}

#[test]
fn a_failed_change_of_image_brings_the_last_good_version_back() {
    let mut lifecycle = running(RestartPolicy::No);
    lifecycle.step(Input::ImageChange(ChangePending::Yes));
    ask(&mut lifecycle, 2, Ask::Upgrade { grace: GRACE });
    assert_eq!(
        ask(&mut lifecycle, 3, Ask::Restart { grace: GRACE }),
        [Effect::Reply(Ticket(3), Reply::Busy(Activity::Upgrade))]
    );
    lifecycle.step(exited(0));
    assert!(lifecycle.step(Input::SweepEnded).contains(&Effect::Start(Version::Wanted)));
    assert_eq!(lifecycle.step(Input::StartEnded(Ok(()))), [Effect::BeginTrial]);
    let effects = lifecycle.step(exited(1));
    assert!(effects.contains(&Effect::DropChange));
    assert!(lifecycle.step(Input::SweepEnded).contains(&Effect::Start(Version::LastGood)));
    assert_eq!(lifecycle.step(Input::StartEnded(Ok(()))), [Effect::Reply(Ticket(2), Reply::RolledBack)]);
    assert_eq!(lifecycle.state(), Some(ContainerState::Running));
}

#[test]
fn a_change_that_proves_good_is_kept() {
    let mut lifecycle = running(RestartPolicy::No);
    lifecycle.step(Input::ImageChange(ChangePending::Yes));
    ask(&mut lifecycle, 2, Ask::Restart { grace: GRACE });
    lifecycle.step(exited(0));
    lifecycle.step(Input::SweepEnded);
    let effects = lifecycle.step(Input::StartEnded(Ok(())));
    assert_eq!(effects, [Effect::Reply(Ticket(2), Reply::Done), Effect::BeginTrial]);
    assert_eq!(lifecycle.step(Input::TrialEnded(Verdict::Good)), [Effect::KeepChange]);
}

#[test]
fn a_version_that_cannot_start_is_replaced_at_once() {
    let mut lifecycle = running(RestartPolicy::No);
    lifecycle.step(Input::ImageChange(ChangePending::Yes));
    ask(&mut lifecycle, 2, Ask::Restart { grace: GRACE });
    lifecycle.step(exited(0));
    lifecycle.step(Input::SweepEnded);
    let effects = lifecycle.step(Input::StartEnded(Err(())));
    assert!(effects.contains(&Effect::DropChange) && effects.contains(&Effect::Start(Version::LastGood)));
    assert_eq!(lifecycle.step(Input::StartEnded(Ok(()))), [Effect::Reply(Ticket(2), Reply::RolledBack)]);
}

#[test]
fn the_pause_before_a_restart_doubles_and_begins_anew_after_a_stable_run() {
    let mut lifecycle = running(RestartPolicy::Always);
    let mut pauses = Vec::new();
    for ran in [0, 0, 0, 60] {
        lifecycle.step(Input::Exited { code: Some(1), ran: Duration::from_secs(ran) });
        for effect in lifecycle.step(Input::SweepEnded) {
            if let Effect::ArmRestart(pause) = effect {
                pauses.push(pause.as_millis());
            }
        }
        lifecycle.step(Input::RestartDue);
        lifecycle.step(Input::StartEnded(Ok(())));
    }
    assert_eq!(pauses, [100, 200, 400, 100]);
}

#[test]
fn one_that_goes_when_it_ends_goes_whenever_it_is_stopped() {
    for has_ended in [false, true] {
        let mut lifecycle = Lifecycle::new(Found::Running, RestartPolicy::No, AtEnd::Delete);
        ask(&mut lifecycle, 1, Ask::Restart { grace: GRACE });
        if has_ended {
            lifecycle.step(exited(0));
        }
        ask(&mut lifecycle, 2, Ask::Stop { grace: GRACE });
        if !has_ended {
            lifecycle.step(exited(0));
        }
        let effects = lifecycle.step(Input::SweepEnded);
        assert!(effects.contains(&Effect::Forget) && lifecycle.state().is_none(), "{effects:?}");
        assert!(effects.contains(&Effect::Reply(Ticket(2), Reply::Done)), "{effects:?}");
    }
}

#[test]
fn a_stopped_container_is_not_restarted_by_its_policy() {
    let mut lifecycle = running(RestartPolicy::Always);
    ask(&mut lifecycle, 2, Ask::Kill(Signal::KILL));
    lifecycle.step(exited(137));
    assert_eq!(lifecycle.step(Input::SweepEnded), []);
    assert_eq!(lifecycle.step(Input::RestartDue), []);
}

#[test]
fn on_failure_counts_its_starts() {
    let mut lifecycle = running(RestartPolicy::OnFailure { retries: Some(1) });
    lifecycle.step(exited(1));
    assert!(matches!(lifecycle.step(Input::SweepEnded)[..], [Effect::ArmRestart(_)]));
    lifecycle.step(Input::RestartDue);
    lifecycle.step(Input::StartEnded(Ok(())));
    lifecycle.step(exited(1));
    assert_eq!(lifecycle.step(Input::SweepEnded), []);
}

#[test]
fn forced_delete_ends_everything_and_answers_everybody() {
    let mut lifecycle = fresh(RestartPolicy::No);
    ask(&mut lifecycle, 1, Ask::Start);
    assert_eq!(ask(&mut lifecycle, 2, Ask::Delete(Force::Yes)), []);
    let effects = lifecycle.step(Input::StartEnded(Ok(())));
    assert!(effects.contains(&Effect::KillAll) && effects.contains(&Effect::Reply(Ticket(1), Reply::Done)));
    lifecycle.step(exited(137));
    let effects = lifecycle.step(Input::SweepEnded);
    assert_eq!(effects, [Effect::Forget, Effect::Reply(Ticket(2), Reply::Done)]);
    assert_eq!(lifecycle.state(), None);
    assert_eq!(ask(&mut lifecycle, 3, Ask::Start), [Effect::Reply(Ticket(3), Reply::Gone)]);
}

/// A machine that does what effects say, as far as order is concerned, and asserts what it may be asked.
#[derive(Debug, Default)]
struct Machine {
    running: bool,
    starting: bool,
    sweeping: bool,
    dirty: bool,
    trial: bool,
    gone: bool,
    open: HashMap<Ticket, ()>,
    answered: HashSet<Ticket>,
}

impl Machine {
    fn perform(&mut self, lifecycle: &mut Lifecycle, effects: Vec<Effect>) {
        let mut queue: std::collections::VecDeque<Effect> = effects.into();
        while let Some(effect) = queue.pop_front() {
            assert!(!self.gone || matches!(effect, Effect::Reply(..)), "nothing happens to what is gone: {effect:?}");
            match effect {
                Effect::Start(_) => {
                    assert!(!self.running && !self.starting && !self.sweeping && !self.dirty, "start over remains");
                    self.starting = true;
                }
                Effect::Sweep => {
                    assert!(!self.running && !self.starting && !self.sweeping, "sweep of what runs");
                    self.sweeping = true;
                }
                Effect::SignalStop | Effect::Signal(_) | Effect::KillAll => assert!(self.running, "signal to nobody"),
                Effect::Freeze(ticket) => {
                    assert!(self.running);
                    queue.extend(lifecycle.step(Input::FreezeEnded(ticket, Ok(()))));
                }
                Effect::Thaw(Some(ticket)) => queue.extend(lifecycle.step(Input::ThawEnded(ticket, Ok(())))),
                Effect::BeginTrial => {
                    assert!(!self.trial && self.running);
                    self.trial = true;
                }
                Effect::EndTrial => {
                    assert!(self.trial);
                    self.trial = false;
                }
                Effect::Forget => {
                    assert!(!self.running && !self.starting && !self.sweeping && !self.dirty);
                    self.gone = true;
                }
                Effect::Reply(ticket, _) => {
                    assert!(self.open.remove(&ticket).is_some(), "answered twice or never asked: {ticket:?}");
                    self.answered.insert(ticket);
                }
                Effect::Thaw(None)
                | Effect::ArmStop(_)
                | Effect::DisarmStop
                | Effect::ArmRestart(_)
                | Effect::DisarmRestart
                | Effect::KeepChange
                | Effect::DropChange
                | Effect::Want(_) => {}
            }
        }
    }

    /// What may happen next of what was begun, chosen by `choice`.
    fn next(&mut self, choice: u8) -> Option<Input> {
        if self.starting {
            self.starting = false;
            self.running = !choice.is_multiple_of(4);
            return Some(Input::StartEnded(if self.running { Ok(()) } else { Err(()) }));
        }
        if self.sweeping {
            self.sweeping = false;
            self.dirty = false;
            return Some(Input::SweepEnded);
        }
        if self.trial && choice.is_multiple_of(3) {
            self.trial = false;
            return Some(Input::TrialEnded(if choice.is_multiple_of(2) { Verdict::Good } else { Verdict::Bad }));
        }
        if self.running {
            self.running = false;
            self.dirty = true;
            return Some(exited(i32::from(choice % 2)));
        }
        None
    }
}

impl Machine {
    /// The daemon dies; the next one finds what there is, and what the dead one wrote down.
    fn die(&mut self, lifecycle: &mut Lifecycle, (policy, at_end): (RestartPolicy, AtEnd), choice: u8) {
        let unfinished = lifecycle.unfinished();
        self.open.clear();
        self.trial = false;
        if std::mem::take(&mut self.starting) {
            self.running = choice.is_multiple_of(2);
        }
        if std::mem::take(&mut self.sweeping) {
            self.dirty = false;
        }
        *lifecycle = Lifecycle::new(if self.running { Found::Running } else { Found::Ended }, policy, at_end);
        if let Some(unfinished) = unfinished {
            let effects = lifecycle.finish(unfinished);
            self.perform(lifecycle, effects);
        }
    }

    /// As many steps of what is under way, all of which succeed, as there are, or `steps`.
    fn go_on(&mut self, lifecycle: &mut Lifecycle, steps: usize) {
        for _ in 0..steps {
            let is_under_way = matches!(lifecycle.state(), Some(ContainerState::Starting | ContainerState::Stopping));
            let Some(input) = is_under_way.then(|| self.next(1)).flatten() else { break };
            let effects = lifecycle.step(input);
            self.perform(lifecycle, effects);
        }
    }

    /// Whatever was begun ends.
    fn settle(&mut self, lifecycle: &mut Lifecycle) {
        for round in 0..40u8 {
            let effects = lifecycle.step(Input::StopDeadline);
            self.perform(lifecycle, effects);
            let Some(input) = self.next(if self.starting { 1 } else { round.wrapping_mul(2) }) else { break };
            let effects = lifecycle.step(input);
            self.perform(lifecycle, effects);
        }
    }
}

fn any_ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        Just(Ask::Start),
        Just(Ask::Stop { grace: GRACE }),
        Just(Ask::Stop { grace: Duration::ZERO }),
        Just(Ask::Restart { grace: GRACE }),
        Just(Ask::Kill(Signal::KILL)),
        Just(Ask::Kill(Signal::TERM)),
        Just(Ask::Pause),
        Just(Ask::Resume),
        Just(Ask::Delete(Force::No)),
        Just(Ask::Delete(Force::Yes)),
        Just(Ask::Upgrade { grace: GRACE }),
    ]
}

#[derive(Debug, Clone)]
enum Move {
    Ask(Ask),
    Happen(u8),
    Deadline,
    RestartDue,
    ChangeImage(bool),
}

fn any_move() -> impl Strategy<Value = Move> {
    prop_oneof![
        4 => any_ask().prop_map(Move::Ask),
        4 => any::<u8>().prop_map(Move::Happen),
        1 => Just(Move::Deadline),
        1 => Just(Move::RestartDue),
        1 => any::<bool>().prop_map(Move::ChangeImage),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn in_every_interleaving_nothing_overlaps_and_everybody_is_answered_once(
        moves in proptest::collection::vec(any_move(), 1..60),
        policy in prop_oneof![Just(RestartPolicy::No), Just(RestartPolicy::Always), Just(RestartPolicy::OnFailure { retries: Some(2) })],
        at_end in prop_oneof![3 => Just(AtEnd::Keep), 1 => Just(AtEnd::Delete)],
    ) {
        let mut lifecycle = Lifecycle::new(Found::Created, policy, at_end);
        let mut machine = Machine::default();
        for (number, next) in moves.into_iter().enumerate() {
            let input = match next {
                Move::Ask(ask) => {
                    let ticket = Ticket(number as u64);
                    machine.open.insert(ticket, ());
                    Some(Input::Asked(ticket, ask))
                }
                Move::Happen(choice) => machine.next(choice),
                Move::Deadline => Some(Input::StopDeadline),
                Move::RestartDue => Some(Input::RestartDue),
                // The driver refuses changes while an upgrade is under way, and drivers of the gone have ended.
                Move::ChangeImage(_) if lifecycle.upgrading() || machine.gone => None,
                Move::ChangeImage(change) => {
                    Some(Input::ImageChange(if change { ChangePending::Yes } else { ChangePending::No }))
                }
            };
            if let Some(input) = input {
                let effects = lifecycle.step(input);
                machine.perform(&mut lifecycle, effects);
            }
        }
        // Then nobody waits any more.
        machine.settle(&mut lifecycle);
        prop_assert!(machine.open.is_empty(), "never answered: {:?} in {:?}", machine.open, lifecycle);
    }

    #[test]
    fn whatever_daemons_die_in_the_middle_of_is_finished(
        (ask, is_up, is_gone) in prop_oneof![
            Just((Ask::Stop { grace: GRACE }, false, false)),
            Just((Ask::Restart { grace: GRACE }, true, false)),
            Just((Ask::Upgrade { grace: GRACE }, true, false)),
            Just((Ask::Delete(Force::Yes), false, true)),
        ],
        deaths in proptest::collection::vec((0..4usize, any::<u8>()), 1..4),
        policy in prop_oneof![Just(RestartPolicy::No), Just(RestartPolicy::Always)],
    ) {
        let mut lifecycle = running(policy);
        let mut machine = Machine { running: true, ..Machine::default() };
        machine.open.insert(Ticket(9), ());
        let effects = lifecycle.step(Input::Asked(Ticket(9), ask));
        machine.perform(&mut lifecycle, effects);
        for (steps, choice) in deaths {
            machine.go_on(&mut lifecycle, steps);
            machine.die(&mut lifecycle, (policy, AtEnd::Keep), choice);
        }
        machine.go_on(&mut lifecycle, usize::MAX);
        prop_assert_eq!((machine.running, machine.gone), (is_up, is_gone), "{:?}", lifecycle);
    }
}
