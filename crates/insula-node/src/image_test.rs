//! `image test`: boots a version and runs the image's own checks.
//!
//! An image with an init system is booted once and its checks run inside, again and again until they pass or the
//! time is over. Of other images each check is the main command of a container of its own; one without checks
//! passes when its own command starts and does not fail at once. Of an image that names neither, such as an archive
//! of somebody's root, the shell has to run.

use std::sync::Arc;
use std::time::Duration;

use insula_api::{CreateContainer, ExecRequest, ImageView, Problem, ProblemCode};
use insula_image::store::{CheckResult, TestOutcome, TestReport};
use insula_model::ContainerSpec;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::api;
use crate::attach::exec_order;
use crate::container::handle::ContainerHandle;
use crate::container::words::{Ask, Force};
use crate::context::Context;
use crate::host::Streams;
use crate::operations::Progress;

/// Time for a whole test.
const TEST_TIME_MAX: Duration = Duration::from_secs(120);
/// Time that a command without checks must run, or end well in.
const SMOKE_TIME: Duration = Duration::from_secs(1);
/// Pause between two tries of a check while an init system boots.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// What an image runs that says nothing of itself.
const SHELL: [&str; 3] = ["/bin/sh", "-c", ":"];

/// Tests a version.
///
/// # Errors
///
/// The test could not be done, or was cancelled; that the image failed is no error.
pub(crate) async fn run(context: &Arc<Context>, view: &ImageView, progress: &Progress) -> Result<TestReport, Problem> {
    tokio::select! {
        report = Box::pin(judge(context, view, progress)) => report,
        () = progress.cancelled() => {
            // The containers of the test delete themselves when they end; this one is not waited for any more.
            Err(Problem::new(ProblemCode::Cancelled, "cancelled"))
        }
    }
}

async fn judge(context: &Arc<Context>, view: &ImageView, progress: &Progress) -> Result<TestReport, Problem> {
    let (checks, note) = if view.config.init.is_some() {
        check_booted(context, view, progress).await?
    } else if !view.config.checks.is_empty() {
        (check_alone(context, view, &view.config.checks, progress).await?, String::new())
    } else if view.config.entrypoint.is_empty() && view.config.cmd.is_empty() {
        (check_alone(context, view, &[SHELL.map(str::to_owned).to_vec()], progress).await?, String::new())
    } else {
        (Vec::new(), smoke(context, view).await?)
    };
    let passed = note.is_empty() && checks.iter().all(|check| check.exit_code == Some(0));
    let outcome = if passed { TestOutcome::Passed } else { TestOutcome::Failed };
    Ok(TestReport { outcome, finished: Timestamp::now(), checks, note })
}

/// A container that is gone when the test is, also when the test is given up.
struct TestContainer(ContainerHandle);

impl Drop for TestContainer {
    fn drop(&mut self) {
        let handle = self.0.clone();
        tokio::spawn(async move {
            // It may have ended and be gone already.
            handle.ask(Ask::Delete(Force::Yes)).await.ok();
        });
    }
}

async fn start(context: &Arc<Context>, view: &ImageView, command: &[String]) -> Result<TestContainer, Problem> {
    let mut spec = ContainerSpec::new(view.image.clone().into());
    if !command.is_empty() {
        spec.entrypoint = Some(command.to_vec());
    }
    spec.labels.insert("insula.test".to_owned(), view.image.to_string());
    let request = CreateContainer { name: None, spec, strict: true, remove: true, attach: false, start: true };
    let (handle, _) = api::create_container(context, request, api::Owner::Operation).await?;
    let container = TestContainer(handle);
    container.0.ask(Ask::Start).await?;
    Ok(container)
}

async fn check_alone(
    context: &Arc<Context>,
    view: &ImageView,
    checks: &[Vec<String>],
    progress: &Progress,
) -> Result<Vec<CheckResult>, Problem> {
    let total = checks.len() as u64;
    let mut results = Vec::new();
    for (done, check) in (0u64..).zip(checks) {
        progress.report("running checks", done, Some(total));
        let began = Instant::now();
        let exit_code = match start(context, view, check).await {
            Ok(container) => ended(&container.0, TEST_TIME_MAX).await,
            Err(problem) if problem.code == ProblemCode::CommandNotFound => Some(127),
            Err(problem) if problem.code == ProblemCode::CommandNotExecutable => Some(126),
            Err(problem) => return Err(problem),
        };
        results.push(result(check, exit_code, began));
        if exit_code != Some(0) {
            break;
        }
    }
    Ok(results)
}

/// Exit code of a container that ends by itself within `most`.
async fn ended(handle: &ContainerHandle, most: Duration) -> Option<i32> {
    let end = handle.wait_for(|now| now.starts > 0 && now.facts.pid.is_none());
    tokio::time::timeout(most, end).await.ok()?.facts.exit_code
}

fn result(check: &[String], exit_code: Option<i32>, began: Instant) -> CheckResult {
    let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    CheckResult { command: check.to_vec(), exit_code, duration_ms }
}

/// Why the image's own command fails at once; empty when it does not.
async fn smoke(context: &Arc<Context>, view: &ImageView) -> Result<String, Problem> {
    let container = match start(context, view, &[]).await {
        Ok(container) => container,
        Err(problem) => return Ok(problem.detail),
    };
    match ended(&container.0, SMOKE_TIME).await {
        None | Some(0) => Ok(String::new()),
        Some(code) => Ok(format!("the image's command ended with code {code}")),
    }
}

async fn check_booted(
    context: &Arc<Context>,
    view: &ImageView,
    progress: &Progress,
) -> Result<(Vec<CheckResult>, String), Problem> {
    progress.report("booting", 0, None);
    let container = match start(context, view, &[]).await {
        Ok(container) => container,
        Err(problem) => return Ok((Vec::new(), problem.detail)),
    };
    let deadline = Instant::now() + TEST_TIME_MAX;
    let total = view.config.checks.len() as u64;
    let mut results = Vec::new();
    for (done, check) in (0u64..).zip(&view.config.checks) {
        progress.report("running checks", done, Some(total));
        let began = Instant::now();
        let exit_code = until_passed(context, &container.0, check, deadline).await?;
        results.push(result(check, exit_code, began));
        if exit_code != Some(0) {
            break;
        }
    }
    let note = match ended(&container.0, SMOKE_TIME).await {
        None if container.0.snapshot().is_up() => String::new(),
        code => format!("the init ended with code {code:?}"),
    };
    Ok((results, note))
}

/// Last exit code of a check that is tried until it passes, the time is over or the container has ended.
async fn until_passed(
    context: &Context,
    handle: &ContainerHandle,
    check: &[String],
    deadline: Instant,
) -> Result<Option<i32>, Problem> {
    let mut last = None;
    while Instant::now() < deadline && handle.snapshot().is_up() {
        let request = ExecRequest { command: check.to_vec(), ..ExecRequest::default() };
        let order = exec_order(handle, request, |_| Streams::Detached)?;
        if let Ok(Ok(code)) = tokio::time::timeout_at(deadline, context.host.run_to_end(order)).await {
            last = Some(code);
        }
        if last == Some(0) {
            break;
        }
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
    Ok(last)
}
