//! A small machine in memory for tests: containers run until they are told to end.
//!
//! Behaviour follows the command line: `true` ends at once with 0, `fail` with 1, `missing` is not found, anything
//! else runs until its stop signal; `stubborn` only ends by the kill.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use insula_api::{Finding, Problem, ProblemCode, ProcessRow, ResourceUsage};
use insula_image::convert::{Convert, InProcess};
use insula_model::{ContainerId, IdRange, LogMode, NetworkMode, ResourceSpec, Signal};
use insula_plan::protocol::launcher::ImageKey;
use insula_plan::protocol::names::NamedContainer;
use jiff::Timestamp;
use tokio::sync::oneshot;

use crate::container::record::Addresses;
use crate::host::{
    AttachOrder, ExecOrder, Exit, FoundContainer, Host, Onlooker, RootSource, StartOrder, Started, StartedExec,
};
use crate::machine::Traces;

#[derive(Debug)]
struct Process {
    pid: u32,
    stubborn: bool,
    frozen: bool,
    end: Option<oneshot::Sender<Exit>>,
}

/// The machine.
#[derive(Debug, Default)]
pub(crate) struct FakeHost {
    processes: Mutex<HashMap<ContainerId, Process>>,
    unswept: Mutex<HashMap<ContainerId, Exit>>,
    last_pid: AtomicU32,
    last_address: AtomicU32,
    /// Containers whose data were removed.
    pub(crate) removed: Mutex<Vec<ContainerId>>,
}

fn exit(code: i32) -> Exit {
    Exit { code: Some(code), reason: None, at: Timestamp::now() }
}

impl FakeHost {
    fn end(&self, id: ContainerId, code: i32) {
        let Some(mut process) = self.processes.lock().unwrap().remove(&id) else { return };
        self.unswept.lock().unwrap().insert(id, exit(code));
        if let Some(end) = process.end.take() {
            end.send(exit(code)).ok();
        }
    }

    /// How many containers run.
    pub(crate) fn running(&self) -> usize {
        self.processes.lock().unwrap().len()
    }

    fn adopt(&self, id: ContainerId) -> Started {
        let mut processes = self.processes.lock().unwrap();
        let (sender, receiver) = oneshot::channel();
        let exit = receiver.map(|exit| exit.unwrap_or_else(|_| exit_unknown())).boxed();
        match processes.get_mut(&id) {
            Some(process) => {
                process.end = Some(sender);
                Started { pid: process.pid, cgroup: String::new(), follow: Vec::new(), master: None, exit }
            }
            None => {
                let ended = self.unswept.lock().unwrap().get(&id).cloned().unwrap_or_else(exit_unknown);
                Started { pid: 1, cgroup: String::new(), follow: Vec::new(), master: None, exit: ready(ended).boxed() }
            }
        }
    }
}

fn exit_unknown() -> Exit {
    Exit { code: None, reason: Some("unknown".to_owned()), at: Timestamp::now() }
}

fn done<T: Send + 'static>(result: Result<T, Problem>) -> BoxFuture<'static, Result<T, Problem>> {
    ready(result).boxed()
}

impl Host for FakeHost {
    fn start(&self, order: StartOrder) -> BoxFuture<'static, Result<Started, Problem>> {
        assert!(!self.unswept.lock().unwrap().contains_key(&order.id), "started over remains");
        let words: Vec<String> = order.spec.entrypoint.iter().flatten().chain(&order.spec.command).cloned().collect();
        let command = words.join(" ");
        let RootSource::Image(image) = &order.root else {
            return done(Err(Problem::new(ProblemCode::NotSupported, "no builds")));
        };
        if command == "missing" || image.version.as_str() == "broken" {
            let detail = format!("start container {}: program `missing` is not in the container", order.name);
            return done(Err(Problem::new(ProblemCode::CommandNotFound, detail)));
        }
        let pid = 1_000 + self.last_pid.fetch_add(1, Ordering::Relaxed);
        let process = Process { pid, stubborn: command == "stubborn", frozen: false, end: None };
        self.processes.lock().unwrap().insert(order.id, process);
        let started = self.adopt(order.id);
        match command.as_str() {
            "true" => self.end(order.id, 0),
            "fail" => self.end(order.id, 1),
            _ if image.version.as_str() == "crashing" => self.end(order.id, 1),
            _ => {}
        }
        done(Ok(started))
    }

    fn signal(&self, id: ContainerId, _: u32, signal: Signal) -> BoxFuture<'static, Result<(), Problem>> {
        let stubborn = self.processes.lock().unwrap().get(&id).is_some_and(|process| process.stubborn);
        if signal == Signal::TERM && !stubborn {
            self.end(id, 143);
        }
        done(Ok(()))
    }

    fn kill_all(&self, id: ContainerId, _: u32) -> BoxFuture<'static, Result<(), Problem>> {
        self.end(id, 137);
        done(Ok(()))
    }

    fn freeze(&self, id: ContainerId) -> BoxFuture<'static, Result<(), Problem>> {
        self.processes.lock().unwrap().get_mut(&id).unwrap().frozen = true;
        done(Ok(()))
    }

    fn thaw(&self, id: ContainerId) -> BoxFuture<'static, Result<(), Problem>> {
        if let Some(process) = self.processes.lock().unwrap().get_mut(&id) {
            process.frozen = false;
        }
        done(Ok(()))
    }

    fn sweep(&self, id: ContainerId, _: Traces) -> BoxFuture<'static, Result<(), Problem>> {
        self.unswept.lock().unwrap().remove(&id);
        done(Ok(()))
    }

    fn remove_data(&self, id: ContainerId) -> BoxFuture<'static, Result<(), Problem>> {
        self.removed.lock().unwrap().push(id);
        done(Ok(()))
    }

    fn unmount(&self, _: ImageKey) -> BoxFuture<'static, Result<(), Problem>> {
        done(Ok(()))
    }

    fn mounts(&self) -> tokio::sync::watch::Receiver<std::collections::HashSet<ImageKey>> {
        tokio::sync::watch::Sender::default().subscribe()
    }

    fn image_root(&self, _: &ImageKey) -> Option<std::os::fd::OwnedFd> {
        None
    }

    fn attach(&self, _: AttachOrder) -> BoxFuture<'static, Result<Onlooker, Problem>> {
        done(Ok(Onlooker { follow: Vec::new(), input: None, warnings: Vec::new() }))
    }

    fn exec(&self, _: ExecOrder) -> BoxFuture<'static, Result<StartedExec, Problem>> {
        let (status, _) = std::os::unix::net::UnixStream::pair().unwrap();
        done(Ok(StartedExec { pid: None, status: status.into(), master: None }))
    }

    fn run_to_end(&self, order: ExecOrder) -> BoxFuture<'static, Result<i32, Problem>> {
        done(Ok(i32::from(order.image.version.as_str() == "sick")))
    }

    fn limit(&self, _: ContainerId, _: ResourceSpec, _: ResourceSpec) -> BoxFuture<'static, Result<(), Problem>> {
        done(Ok(()))
    }

    fn usage(&self, _: ContainerId) -> BoxFuture<'static, Result<ResourceUsage, Problem>> {
        done(Ok(ResourceUsage { pids: 1, ..ResourceUsage::default() }))
    }

    fn processes(&self, _: ContainerId, _: IdRange) -> BoxFuture<'static, Result<Vec<ProcessRow>, Problem>> {
        done(Ok(Vec::new()))
    }

    fn claim_addresses(&self, network: NetworkMode, wanted: Addresses) -> Result<Addresses, Problem> {
        let next = || Ipv4Addr::from_bits(self.last_address.fetch_add(1, Ordering::Relaxed) + 0x0a57_0002);
        let v4 = (network == NetworkMode::Default).then(|| wanted.v4.unwrap_or_else(next));
        Ok(Addresses { v4, ..wanted })
    }

    fn release_addresses(&self, _: Addresses) {}

    fn open_root(&self, _: ContainerId) -> BoxFuture<'static, Result<std::os::fd::OwnedFd, Problem>> {
        done(Err(Problem::new(ProblemCode::NotSupported, "containers in memory have no files")))
    }

    fn log_directory(&self, id: ContainerId) -> std::path::PathBuf {
        std::env::temp_dir().join("insula-no-log").join(id.to_string())
    }

    fn converter(&self, _: IdRange) -> Box<dyn Convert> {
        Box::new(InProcess)
    }

    fn findings(&self) -> BoxFuture<'static, Vec<Finding>> {
        ready(Vec::new()).boxed()
    }

    fn found(&self) -> BoxFuture<'static, Result<Vec<FoundContainer>, Problem>> {
        let running: Vec<(ContainerId, bool)> =
            self.processes.lock().unwrap().iter().map(|(id, process)| (*id, process.frozen)).collect();
        let ended: Vec<(ContainerId, bool)> = self.unswept.lock().unwrap().keys().map(|id| (*id, false)).collect();
        let found = running.into_iter().chain(ended);
        done(Ok(found.map(|(id, frozen)| FoundContainer { id, frozen, started: self.adopt(id) }).collect()))
    }

    fn remains(&self) -> Vec<ContainerId> {
        Vec::new()
    }

    fn ids_of_guests(&self) -> Option<IdRange> {
        None
    }

    fn adopt_outputs(&self, _: Vec<(ContainerId, LogMode)>) -> BoxFuture<'static, ()> {
        ready(()).boxed()
    }

    fn end_names(&self) -> BoxFuture<'static, Result<(), Problem>> {
        done(Ok(()))
    }

    fn begin_names(&self, _: IdRange) -> BoxFuture<'static, Result<(), Problem>> {
        done(Ok(()))
    }

    fn look_for_resolvers(&self) -> BoxFuture<'static, ()> {
        ready(()).boxed()
    }

    fn write_names(&self, _: Vec<Arc<NamedContainer>>) -> Result<(), Problem> {
        Ok(())
    }

    fn set_up_network(&self, _: Vec<(ContainerId, Traces)>) -> BoxFuture<'static, Result<(), Problem>> {
        done(Ok(()))
    }

    fn end_if_idle(&self) -> BoxFuture<'static, bool> {
        ready(self.running() == 0).boxed()
    }
}

/// The machine as the node wants it.
pub(crate) fn shared() -> (Arc<FakeHost>, Arc<dyn Host>) {
    let host = Arc::new(FakeHost::default());
    (host.clone(), host)
}
