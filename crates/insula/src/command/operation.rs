//! Long actions: shown while they go on, cancelled when this program is asked to end.

use std::io::IsTerminal;
use std::time::Duration;

use hyper::Method;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use insula_api::{Operation, OperationProgress, OperationState, Problem, ProblemCode};
use serde::de::DeserializeOwned;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Session;
use crate::client::{Client, ClientError, with_query};
use crate::failure::Failure;
use crate::render::tell;

/// Milliseconds that one request waits for a change at most.
const WAIT_MS: u64 = 30_000;

/// Pause between two frames of a bar whose action says nothing.
const TICK: Duration = Duration::from_millis(120);

/// Waits for the end of a long action and returns its result.
///
/// # Errors
///
/// `Operation`: it failed, and why; or the node is gone.
pub(super) async fn finish<T: DeserializeOwned>(session: &mut Session, operation: Operation) -> Result<T, Failure> {
    let progress = Progress::new(session, &operation);
    let ended = watch(session, operation, &progress).await;
    progress.end();
    let operation = ended?;
    match (operation.state, operation.problem) {
        (OperationState::Succeeded, _) => {
            let result = operation.result.unwrap_or_default();
            let path = insula_api::paths::operation(&operation.id.to_string());
            serde_json::from_value(result)
                .map_err(|source| ClientError::Unexpected { method: Method::GET, path, source }.into())
        }
        (_, Some(problem)) => Err(Failure::Operation(Box::new(problem))),
        (state, None) => {
            let code = if state == OperationState::Cancelled { ProblemCode::Cancelled } else { ProblemCode::Internal };
            Err(Failure::Operation(Box::new(Problem::new(code, format!("{}: it was cancelled", operation.subject)))))
        }
    }
}

async fn watch(session: &mut Session, mut operation: Operation, progress: &Progress) -> Result<Operation, Failure> {
    let mut end = EndSignals::listen().map_err(Failure::Runtime)?;
    let id = operation.id.to_string();
    let wait = insula_api::paths::operation_wait(&id);
    let (mut cancelled, mut asked) = (false, false);
    let mut seen = 0;
    while operation.state == OperationState::Running {
        progress.show(&operation.progress);
        progress.output(&operation, &mut seen);
        let query = [("timeout_ms", Some(WAIT_MS.to_string())), ("lines", Some(seen.to_string()))];
        let path = with_query(&wait, &query);
        tokio::select! {
            changed = session.client.get::<Operation>(&path) => operation = changed?,
            () = end.asked(), if !cancelled => cancelled = true,
        }
        if cancelled && !asked {
            asked = true;
            progress.line("cancelling");
            // The request above was given up, and with it its connection.
            session.client = session.client.another();
            operation = cancel(&mut session.client, &id).await?;
        }
    }
    progress.output(&operation, &mut seen);
    Ok(operation)
}

/// What asks this program to end: Ctrl-C, `kill`, or a terminal that is closed.
#[derive(Debug)]
struct EndSignals {
    interrupt: Signal,
    terminate: Signal,
    /// `None`: whoever started us had us ignore it, as `nohup` does so that work goes on without a terminal.
    hangup: Option<Signal>,
}

impl EndSignals {
    fn listen() -> std::io::Result<Self> {
        // Asked before anything of ours is set up, which would be what is found.
        let hangup_ignored = ignores(&std::fs::read_to_string("/proc/self/status")?, SignalKind::hangup());
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: if hangup_ignored { None } else { Some(signal(SignalKind::hangup())?) },
        })
    }

    /// Returns when the next one comes.
    async fn asked(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hangup => {}
        }
    }
}

/// Whether a process with this `/proc/PID/status` ignores a signal.
fn ignores(status: &str, kind: SignalKind) -> bool {
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (kind.as_raw_value() - 1)) != 0)
}

async fn cancel(client: &mut Client, id: &str) -> Result<Operation, Failure> {
    Ok(client.call(Method::DELETE, &insula_api::paths::operation(id), None::<&()>).await?)
}

/// A bar on a terminal, lines otherwise, nothing when quiet.
#[derive(Debug)]
enum Progress {
    Bar(ProgressBar),
    Lines(std::cell::RefCell<String>),
    Nothing,
}

impl Progress {
    fn new(session: &Session, operation: &Operation) -> Self {
        if session.printer.quiet {
            return Self::Nothing;
        }
        if !std::io::stderr().is_terminal() {
            return Self::Lines(std::cell::RefCell::default());
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
            .with_style(style(&operation.progress))
            .with_prefix(operation.subject.clone());
        bar.enable_steady_tick(TICK);
        Self::Bar(bar)
    }

    fn show(&self, progress: &OperationProgress) {
        match self {
            Self::Bar(bar) => {
                if bar.message() != progress.phase {
                    // Each phase has a rate of its own.
                    bar.set_message(progress.phase.clone());
                    bar.reset();
                }
                bar.set_style(style(progress));
                match progress.total {
                    Some(total) => bar.set_length(total),
                    None => bar.unset_length(),
                }
                bar.set_position(progress.done);
            }
            Self::Lines(last) if *last.borrow() != progress.phase && !progress.phase.is_empty() => {
                tell(&progress.phase);
                progress.phase.clone_into(&mut last.borrow_mut());
            }
            Self::Lines(_) | Self::Nothing => {}
        }
    }

    /// Shows what the action's commands wrote since `seen` lines.
    fn output(&self, operation: &Operation, seen: &mut u64) {
        let (lost, lines) = operation.output.since(*seen);
        if lost > 0 {
            self.line(&format!("({lost} lines were not kept)"));
        }
        lines.iter().for_each(|line| self.line(line));
        *seen = operation.output.written();
    }

    fn line(&self, text: &str) {
        match self {
            Self::Bar(bar) => bar.println(text),
            Self::Lines(_) => tell(text),
            Self::Nothing => {}
        }
    }

    fn end(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

fn style(progress: &OperationProgress) -> ProgressStyle {
    // The templates are constants, which a test parses.
    ProgressStyle::with_template(template(progress)).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// With a known total: bar, bytes and rest. Without: only what is known.
fn template(progress: &OperationProgress) -> &'static str {
    match (progress.total, progress.done) {
        _ if progress.phase.is_empty() => "{spinner} {prefix} {elapsed}",
        (Some(_), _) => "{prefix} {msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        (None, 0) => "{spinner} {prefix} {msg} {elapsed}",
        (None, _) => "{spinner} {prefix} {msg} {bytes} {bytes_per_sec}",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(phase: &str, done: u64, total: Option<u64>) -> OperationProgress {
        OperationProgress { phase: phase.to_owned(), done, total }
    }

    #[test]
    fn every_template_of_the_bar_parses() {
        for (phase, done, total) in [("", 0, None), ("packing", 0, None), ("packing", 1, None), ("packing", 1, Some(2))]
        {
            assert!(ProgressStyle::with_template(template(&progress(phase, done, total))).is_ok());
        }
    }

    #[test]
    fn an_ignored_signal_is_seen_in_the_status() {
        let status = |mask: &str| format!("Name:\tinsula\nSigBlk:\tffffffffffffffff\nSigIgn:\t{mask}\nSigCgt:\t3\n");
        assert!(ignores(&status("0000000000001001"), SignalKind::hangup()));
        assert!(!ignores(&status("0000000000001000"), SignalKind::hangup()));
        assert!(ignores(&status("0000000000004000"), SignalKind::terminate()));
        assert!(!ignores("Name:\tinsula\n", SignalKind::hangup()));
    }

    #[test]
    fn each_phase_begins_anew() {
        let bar = ProgressBar::hidden();
        let shown = Progress::Bar(bar.clone());
        shown.show(&progress("importing", 7, Some(9)));
        assert_eq!((bar.message().as_str(), bar.position(), bar.length()), ("importing", 7, Some(9)));
        shown.show(&progress("verifying", 0, None));
        assert_eq!((bar.message().as_str(), bar.position(), bar.length()), ("verifying", 0, None));
    }
}
