//! Long actions: shown while they go on, cancelled on interrupt.

use std::io::IsTerminal;
use std::time::Duration;

use hyper::Method;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use insula_api::{Operation, OperationProgress, OperationState, Problem, ProblemCode};
use serde::de::DeserializeOwned;
use tokio::signal::unix::{SignalKind, signal};

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
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Runtime)?;
    let id = operation.id.to_string();
    let wait = insula_api::paths::operation_wait(&id);
    let mut cancelled = false;
    let mut seen = 0;
    while operation.state == OperationState::Running {
        progress.show(&operation.progress);
        progress.output(&operation, &mut seen);
        let query = [("timeout_ms", Some(WAIT_MS.to_string())), ("lines", Some(seen.to_string()))];
        let path = with_query(&wait, &query);
        tokio::select! {
            changed = session.client.get::<Operation>(&path) => operation = changed?,
            _ = interrupt.recv(), if !cancelled => {
                cancelled = true;
                progress.line("cancelling");
                // The request above was given up, and with it its connection.
                session.client = session.client.another();
                operation = cancel(&mut session.client, &id).await?;
            }
        }
    }
    progress.output(&operation, &mut seen);
    Ok(operation)
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
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_prefix(operation.subject.clone());
        bar.enable_steady_tick(TICK);
        Self::Bar(bar)
    }

    fn show(&self, progress: &OperationProgress) {
        match self {
            Self::Bar(bar) => {
                bar.set_style(style(progress));
                if let Some(total) = progress.total {
                    bar.set_length(total);
                }
                bar.set_position(progress.done);
                bar.set_message(progress.phase.clone());
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

/// With a known total: bar, bytes and rest. Without: only what is known.
fn style(progress: &OperationProgress) -> ProgressStyle {
    let template = match (progress.total, progress.done) {
        (Some(_), _) => "{prefix} {msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        (None, 0) => "{spinner} {prefix} {msg} {elapsed}",
        (None, _) => "{spinner} {prefix} {msg} {bytes} {bytes_per_sec}",
    };
    // The templates are constants, which a test parses.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_of_the_bar_parses() {
        for (done, total) in [(0, None), (1, None), (1, Some(2))] {
            let progress = OperationProgress { phase: "packing".to_owned(), done, total };
            let bar = ProgressBar::hidden();
            bar.set_style(style(&progress));
            bar.set_position(done);
        }
        assert!(
            ProgressStyle::with_template("{prefix} {msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}")
                .is_ok()
        );
    }
}
