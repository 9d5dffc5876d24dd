//! One run of the machine.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Boot, Kernel, Task, VmError};

/// Line of the console that says how many test programs failed.
const RESULT: &str = "insula-vm-result: ";

/// The emulated processor. The emulator (7.2) gets 16-byte compare-and-exchange wrong now and then, and a kernel that
/// uses it in its memory allocator then dies of anything; without it the kernel takes a lock instead.
const CPU: &str = "max,-cx16";

/// Memory of the machine in MiB: root, programs and containers live in it.
const MEMORY_MIB: &str = "6144";

/// Boots `initramfs` and shows the console; ends when the machine powers off, or after as long as the task may take.
pub(super) fn run(
    kernel: Kernel,
    boot: &Boot,
    initramfs: &Path,
    task: Task<'_>,
) -> Result<(), Box<dyn std::error::Error>> {
    let console = boot.folder.join("console.log");
    let (filter, seconds) = match task {
        Task::Tests(filter) => (filter, "7200"),
        Task::Systemd => ("", "600"),
    };
    let append = format!("console=ttyS0 quiet panic=-1 loglevel=4 insula.filter={filter}");
    println!("── machine with kernel {}: booting", boot.release);
    let mut machine = Command::new("timeout")
        .args([seconds, "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", CPU, "-smp", "2"])
        .args(["-m", MEMORY_MIB, "-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio", "-append", &append])
        .arg("-kernel")
        .arg(boot.image())
        .arg("-initrd")
        .arg(initramfs)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut log = File::create(&console)?;
    let mut result = None;
    if let Some(output) = machine.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
            writeln!(log, "{line}")?;
            println!("   | {line}");
            if let Some((_, failed)) = line.split_once(RESULT) {
                result = failed.trim().parse::<u32>().ok();
            }
        }
    }
    machine.wait()?;
    match result {
        Some(0) => Ok(()),
        Some(_) => Err(VmError::TestsFailed { kernel: kernel.name, console }.into()),
        None => Err(VmError::NoResult { console }.into()),
    }
}
