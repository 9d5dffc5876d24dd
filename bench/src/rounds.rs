//! Timing: all commands in turn, round after round, so that a noisy minute hits all of them alike.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A command that is timed, made anew for each round.
pub(crate) struct Contender<'a> {
    /// Its name in the results.
    pub(crate) name: &'static str,
    /// The command of one round; the number is the round's.
    pub(crate) command: Box<dyn FnMut(u32) -> Command + 'a>,
}

/// A timed command did not end with exit code 0.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {outcome}; its error output:\n{stderr}")]
pub(crate) struct ContenderError {
    name: &'static str,
    outcome: String,
    stderr: String,
}

/// Rounds that are not counted: caches and tables fill.
const WARM_UP_ROUNDS: u32 = 3;

/// Pause between commands: taking a network namespace down goes on for long after the end, holding the lock that the
/// next start needs.
const PAUSE: Duration = Duration::from_millis(100);

/// Names how many rounds to run at most, for a quick look.
const ROUNDS: &str = "INSULA_BENCH_ROUNDS";

/// `rounds`, or fewer if the environment says so.
pub(crate) fn at_most(rounds: u32) -> u32 {
    let wanted = std::env::var(ROUNDS).ok().and_then(|text| text.parse().ok());
    wanted.unwrap_or(rounds).clamp(1, rounds)
}

/// Median milliseconds of each contender, printed with their spread, over `rounds` rounds.
pub(crate) fn medians(contenders: &mut [Contender<'_>], rounds: u32) -> Result<Vec<f64>, ContenderError> {
    let rounds = at_most(rounds);
    let mut times: Vec<Vec<f64>> = contenders.iter().map(|_| Vec::new()).collect();
    for round in 0..WARM_UP_ROUNDS + rounds {
        for (contender, times) in contenders.iter_mut().zip(&mut times) {
            std::thread::sleep(PAUSE);
            let elapsed = time(contender, round)?;
            if round >= WARM_UP_ROUNDS {
                times.push(elapsed);
            }
        }
    }
    println!("{rounds} rounds, ms: least / median / greatest");
    for (contender, times) in contenders.iter().zip(&times) {
        let (least, greatest) =
            (times.iter().copied().fold(f64::INFINITY, f64::min), times.iter().copied().fold(0.0, f64::max));
        println!("  {:<22} {least:>8.2} / {:>8.2} / {greatest:>8.2}", contender.name, median(times.clone()));
    }
    println!();
    Ok(times.into_iter().map(median).collect())
}

fn time(contender: &mut Contender<'_>, round: u32) -> Result<f64, ContenderError> {
    let mut command = (contender.command)(round);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let name = contender.name;
    let failed = |outcome: String, stderr: String| ContenderError { name, outcome, stderr };
    let begin = Instant::now();
    let child = command.spawn().map_err(|error| failed(error.to_string(), String::new()))?;
    let output = child.wait_with_output().map_err(|error| failed(error.to_string(), String::new()))?;
    let elapsed = begin.elapsed().as_secs_f64() * 1_000.0;
    if output.status.success() {
        Ok(elapsed)
    } else {
        Err(failed(output.status.to_string(), String::from_utf8_lossy(&output.stderr).into_owned()))
    }
}

/// Middle value; the lower one of two.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_value() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.0).abs() < f64::EPSILON);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn a_failing_contender_is_named_with_its_words() {
        let command = Box::new(|_| {
            let mut command = Command::new("sh");
            command.args(["-c", "echo broken >&2; exit 3"]);
            command
        });
        let error = medians(&mut [Contender { name: "shell", command }], 1).unwrap_err().to_string();
        assert!(error.contains("shell") && error.contains("broken"), "{error}");
    }
}
