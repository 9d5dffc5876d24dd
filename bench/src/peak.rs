//! The most memory that the node takes for a piece of work, in whichever of its processes that happens.
//!
//! A process belongs to the node by the folder of its program: no other node may run from that folder meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::stage::Stage;

/// Between two looks at the node's processes. The kernel keeps each one's greatest size, so only what grows in a
/// process' last moment is missed.
const LOOK: Duration = Duration::from_millis(2);

/// A measure in progress.
pub(crate) struct Peak {
    before: BTreeMap<u32, f64>,
    end: Arc<AtomicBool>,
    watcher: JoinHandle<BTreeMap<u32, f64>>,
}

impl Peak {
    /// Begins: forgets the greatest sizes so far.
    pub(crate) fn watch(stage: &Stage) -> std::io::Result<Self> {
        let programs = stage.programs().to_owned();
        let client = "image";
        for pid in sizes(&programs, client).keys() {
            // `5` resets the greatest size to the present one.
            std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
        }
        let before = sizes(&programs, client);
        let end = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&end);
        let watcher = std::thread::spawn(move || {
            let mut greatest = BTreeMap::new();
            while !told.load(Ordering::Acquire) {
                greatest.extend(sizes(&programs, client));
                std::thread::sleep(LOOK);
            }
            greatest.extend(sizes(&programs, client));
            greatest
        });
        Ok(Self { before, end, watcher })
    }

    /// Ends: MiB by which the node's processes outgrew what they were, new ones in full.
    pub(crate) fn mib(self) -> std::io::Result<f64> {
        self.end.store(true, Ordering::Release);
        let greatest = self.watcher.join().map_err(|_| std::io::Error::other("the watcher of memory ended early"))?;
        let grown = |(pid, size): (&u32, &f64)| (size - self.before.get(pid).unwrap_or(&0.0)).max(0.0);
        Ok(greatest.iter().map(grown).sum::<f64>() / 1_024.0)
    }
}

/// Greatest resident size of each process of the programs, in KiB, but the client's whose first argument is `client`.
fn sizes(programs: &std::path::Path, client: &str) -> BTreeMap<u32, f64> {
    let mut sizes = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok) {
        let path = entry.path();
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Processes that end meanwhile have nothing more to say.
        if !std::fs::read_link(path.join("exe")).is_ok_and(|exe| exe.starts_with(programs)) {
            continue;
        }
        let arguments = std::fs::read(path.join("cmdline")).unwrap_or_default();
        if arguments.split(|byte| *byte == 0).nth(1) == Some(client.as_bytes()) {
            continue;
        }
        let status = std::fs::read_to_string(path.join("status")).unwrap_or_default();
        let size = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
        if let Some(size) = size {
            sizes.insert(pid, size);
        }
    }
    sizes
}
