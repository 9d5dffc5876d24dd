//! Reaches for other processes: by tracing them, by their memory.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use insula_kernel::intrusion::{Trace, read_memory_of, trace};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpid};

/// Tries everything at a process; one line for each way: its name and `done` or why not.
pub(crate) fn attempts(pid: Pid) -> Vec<String> {
    let number = pid.as_raw_nonzero();
    let memory = format!("/proc/{number}/mem");
    let said =
        |what: &str, result: Result<(), String>| format!("{what}: {}", result.err().unwrap_or("done".to_owned()));
    let errno = |errno: Errno| format!("{errno:?}");
    let open = |write: bool| File::options().read(true).write(write).open(&memory).map(drop);
    // At an address where nothing is, a process that may look is told so, and one that may not is refused.
    let looked = match read_memory_of(pid, 1, &mut [0]) {
        Ok(_) | Err(Errno::FAULT) => Ok(()),
        Err(error) => Err(errno(error)),
    };
    vec![
        said("seize", traced(pid, Trace::Seize).map_err(errno)),
        said("attach", traced(pid, Trace::Attach).map_err(errno)),
        said("process_vm_readv", looked),
        said("read mem", open(false).map_err(|error| error.kind().to_string())),
        said("write mem", open(true).map_err(|error| error.kind().to_string())),
    ]
}

/// Traces a process for a moment. One that stands still can be let go, so a seized one is stopped.
fn traced(pid: Pid, how: Trace) -> Result<(), Errno> {
    trace(pid, how)?;
    if how == Trace::Seize {
        rustix::process::kill_process(pid, rustix::process::Signal::STOP)?;
    }
    waitpid(Some(pid), WaitOptions::UNTRACED)?;
    trace(pid, Trace::Detach)?;
    rustix::process::kill_process(pid, rustix::process::Signal::CONT)
}

/// Attaches to every process that appears, until `/tmp/enough` is there, and says which were not yet a program of the
/// image when they were held. Says `hunted N` at the end: so many were held.
pub(crate) fn hunt() -> Vec<String> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let mut known = BTreeSet::from([own]);
    let (mut held, mut seen) = (0, Vec::new());
    while !Path::new("/tmp/enough").exists() {
        for pid in numbers() {
            let Some(process) = Pid::from_raw(pid).filter(|_| !known.contains(&pid)) else { continue };
            if trace(process, Trace::Attach).is_ok() {
                // It stands still: what it is now, it was when it was taken.
                waitpid(Some(process), WaitOptions::UNTRACED).ok();
                let program = std::fs::read_link(format!("/proc/{pid}/exe"));
                held += 1;
                match program {
                    Ok(program) if program.starts_with("/bin") => {}
                    // It ends, and is no program any more; one that still joins says EACCES.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    other => seen.push(format!("held {pid} as {other:?}")),
                }
                trace(process, Trace::Detach).ok();
                // Its stop may have been for another reason; then the one that was asked for is yet to come.
                rustix::process::kill_process(process, rustix::process::Signal::CONT).ok();
                known.insert(pid);
            }
            // One that could not be held is tried again as long as it is there.
        }
    }
    seen.push(format!("hunted {held}"));
    seen
}

fn numbers() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}
