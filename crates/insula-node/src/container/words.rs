//! What goes into a lifecycle and what comes out: requests, happenings, effects, answers.

use std::time::Duration;

use insula_model::{RestartPolicy, Signal};

/// Who waits for an answer. Given out by the driver, answered exactly once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ticket(pub(crate) u64);

/// What can be asked of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Run.
    Start,
    /// End: stop signal, then after `grace` the kill.
    Stop { grace: Duration },
    /// End and run again.
    Restart { grace: Duration },
    /// Deliver a signal to process 1; `SIGKILL` ends everything in it.
    Kill(Signal),
    /// Freeze.
    Pause,
    /// Thaw.
    Resume,
    /// Be gone.
    Delete(Force),
    /// Run the version that was set, and answer when it proved good or was taken back.
    Upgrade { grace: Duration },
}

/// Whether a running container may be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Force {
    /// Refuse when it runs.
    No,
    /// Kill it first.
    Yes,
}

/// Which image version a start takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// What the configuration names.
    Wanted,
    /// What proved good last.
    LastGood,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    /// Somebody asks.
    Asked(Ticket, Ask),
    /// [`Effect::Start`] is done; with an error nothing of the start is left.
    StartEnded(Result<(), ()>),
    /// Process 1 ended. `code` is `None` when nobody knows it; `ran` is how long it ran.
    Exited { code: Option<i32>, ran: Duration },
    /// [`Effect::Freeze`] is done.
    FreezeEnded(Ticket, Result<(), ()>),
    /// [`Effect::Thaw`] with a ticket is done.
    ThawEnded(Ticket, Result<(), ()>),
    /// [`Effect::Sweep`] is done.
    SweepEnded,
    /// The time of [`Effect::ArmStop`] is over.
    StopDeadline,
    /// The time of [`Effect::ArmRestart`] is over.
    RestartDue,
    /// The version on trial proved good or not.
    TrialEnded(Verdict),
    /// The configuration names another version than the last good one, or no longer.
    ImageChange(ChangePending),
    /// The configuration has another restart policy.
    PolicySet(RestartPolicy),
}

/// Result of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Healthy.
    Good,
    /// Not healthy in time.
    Bad,
}

/// Whether the configuration names another version than the last good one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChangePending {
    /// The next start is a trial.
    Yes,
    /// The next start runs what ran before.
    No,
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Start; answer with [`Input::StartEnded`].
    Start(Version),
    /// Deliver the container's stop signal to process 1.
    SignalStop,
    /// Deliver a signal to process 1.
    Signal(Signal),
    /// Kill everything in the container.
    KillAll,
    /// Freeze; answer with [`Input::FreezeEnded`].
    Freeze(Ticket),
    /// Thaw; answer with [`Input::ThawEnded`] when there is a ticket.
    Thaw(Option<Ticket>),
    /// Remove every host object of the container; answer with [`Input::SweepEnded`].
    Sweep,
    /// Send [`Input::StopDeadline`] after this time; replaces an earlier one.
    ArmStop(Duration),
    /// Do not send it.
    DisarmStop,
    /// Send [`Input::RestartDue`] after this time.
    ArmRestart(Duration),
    /// Do not send it.
    DisarmRestart,
    /// Watch the health of what was just started; answer with [`Input::TrialEnded`].
    BeginTrial,
    /// Stop watching.
    EndTrial,
    /// The version on trial is the last good one from now on.
    KeepChange,
    /// The configured change is taken back.
    DropChange,
    /// The container is to be running, or not, after the machine was restarted.
    Want(Wanted),
    /// The container is no more: forget its intent and free what it had.
    Forget,
    /// Answer.
    Reply(Ticket, Reply),
}

/// What the owner last asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wanted {
    /// To run.
    Running,
    /// Not to run.
    Stopped,
}

/// Answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    /// It is as asked.
    Done,
    /// The new version failed; the last good one runs, or was tried.
    RolledBack,
    /// The start failed; the driver knows why.
    StartFailed,
    /// The kernel refused to freeze or thaw; the driver knows why.
    ActionFailed,
    /// Something else is under way.
    Busy(Activity),
    /// It must run for that.
    NotRunning,
    /// It runs, and `force` was not given.
    StillRunning,
    /// It must be running and not paused, or paused, for that.
    WrongState,
    /// Somebody's stop, kill or delete came in between.
    Overtaken,
    /// It is being deleted or gone.
    Gone,
}

/// What is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activity {
    /// A start.
    Start,
    /// A stop.
    Stop,
    /// The removal of what it had on the host.
    Cleaning,
    /// A change of image on trial.
    Upgrade,
}

/// Whether the container is deleted when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtEnd {
    /// It stays.
    Keep,
    /// It goes.
    Delete,
}

/// What was asked for and is not done yet. Kept with the facts: the next daemon finishes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unfinished {
    /// To end: stop signal, then after `grace` the kill.
    Stop { grace: Duration },
    /// To end likewise and to run again.
    Restart { grace: Duration },
    /// To run again: what ran before has ended and nothing of it is left.
    Start,
    /// To be gone.
    Delete,
}

/// How a container was found when the daemon started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Never started.
    Created,
    /// Not running; it ended or failed earlier.
    Ended,
    /// Not running because its last start failed.
    Failed,
    /// Running.
    Running,
    /// Frozen.
    Paused,
}
