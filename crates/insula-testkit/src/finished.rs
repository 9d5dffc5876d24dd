//! Commands with a bound on their time.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::Value;

/// A command that ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Its words, for messages.
    pub line: String,
    /// Its exit code; 128+n when signal n ended it.
    pub code: i32,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Finished {
    /// Itself, if it succeeded.
    ///
    /// # Panics
    ///
    /// It failed; what it said is shown.
    #[track_caller]
    #[must_use]
    pub fn ok(self) -> Self {
        self.with_code(0)
    }

    /// Itself, if it ended with `code`.
    ///
    /// # Panics
    ///
    /// It ended otherwise; what it said is shown.
    #[track_caller]
    #[must_use]
    pub fn with_code(self, code: i32) -> Self {
        assert!(
            self.code == code,
            "`{}` ended with {} instead of {code}\n--- stdout\n{}--- stderr\n{}",
            self.line,
            self.code,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    ///
    /// It is none.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("`{}` did not print JSON ({error}):\n{}", self.line, self.stdout))
    }

    /// Standard output without its last line end.
    #[must_use]
    pub fn text(&self) -> &str {
        self.stdout.strip_suffix('\n').unwrap_or(&self.stdout)
    }
}

/// Runs `command` with `input`, for at most `bound`.
///
/// # Panics
///
/// It could not be started, or took longer; then it was killed.
#[track_caller]
pub fn run_bounded(mut command: Command, input: &[u8], bound: Duration) -> Finished {
    let line = format!("{command:?}");
    command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap_or_else(|error| {
        panic!("start {line}: {error}");
    });
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let writer = child.stdin.take().map(|mut pipe| {
        let input = input.to_vec();
        // The command need not read all of it.
        std::thread::spawn(move || drop(pipe.write_all(&input)))
    });
    let ended = wait_bounded(&mut child, bound);
    if !ended {
        // It may have ended this moment.
        let _ = child.kill();
    }
    let status = child.wait().unwrap();
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    if let Some(writer) = writer {
        writer.join().unwrap();
    }
    assert!(ended, "`{line}` took longer than {bound:?}\n--- stdout\n{stdout}--- stderr\n{stderr}");
    Finished { line, code: code_of(status), stdout, stderr }
}

/// The end of a command that was started with pipes for what it says, which are large enough for it.
///
/// # Panics
///
/// It took longer; then it was killed.
#[track_caller]
pub fn finish_bounded(mut child: Child, line: &str, bound: Duration) -> Finished {
    let ended = wait_bounded(&mut child, bound);
    if !ended {
        // It may have ended this moment.
        let _ = child.kill();
    }
    let output = child.wait_with_output().unwrap();
    assert!(ended, "`{line}` took longer than {bound:?}");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Finished {
        line: line.to_owned(),
        code: code_of(output.status),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

fn code_of(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Whether the child ended in time.
pub(crate) fn wait_bounded(child: &mut Child, bound: Duration) -> bool {
    if child.try_wait().unwrap().is_some() {
        return true;
    }
    let pid = Pid::from_child(child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let timeout =
        Timespec { tv_sec: i64::try_from(bound.as_secs()).unwrap(), tv_nsec: i64::from(bound.subsec_nanos()) };
    poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)).unwrap() > 0
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            pipe.read_to_end(&mut bytes).unwrap();
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn what_a_command_says_and_how_it_ends_is_known() {
        let finished = run_bounded(shell("cat; echo err >&2; exit 3"), b"in", Duration::from_secs(10)).with_code(3);
        assert_eq!((finished.stdout.as_str(), finished.stderr.as_str()), ("in", "err\n"));
        assert_eq!(run_bounded(shell("kill -9 $$"), b"", Duration::from_secs(10)).code, 137);
    }

    #[test]
    #[should_panic(expected = "took longer")]
    fn a_command_without_end_is_ended() {
        run_bounded(shell("exec sleep 100"), b"", Duration::from_millis(50));
    }
}
