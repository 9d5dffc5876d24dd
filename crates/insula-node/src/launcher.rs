//! The machine, through the launcher, the keeper and the containers' inits.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use insula_api::{Finding, Problem, ProblemCode, ProcessRow, ResourceUsage};
use insula_model::{ContainerId, IdRange, NetworkMode, ResourceSpec, Signal};

use crate::config::Config;
use crate::container::record::Addresses;
use crate::host::{ExecOrder, FoundContainer, Host, StartOrder, Started, StartedExec};

/// Connects to the launcher of this node, or starts it.
///
/// # Errors
///
/// It cannot be reached or started.
pub(crate) async fn connect(_config: &Config) -> Result<Arc<dyn Host>, Problem> {
    Ok(Arc::new(Machine))
}

#[derive(Debug)]
struct Machine;

fn absent<T: Send + 'static>() -> BoxFuture<'static, Result<T, Problem>> {
    ready(Err(Problem::new(ProblemCode::NotSupported, "this daemon has no launcher"))).boxed()
}

impl Host for Machine {
    fn start(&self, _: StartOrder) -> BoxFuture<'static, Result<Started, Problem>> {
        absent()
    }

    fn signal(&self, _: ContainerId, _: u32, _: Signal) -> BoxFuture<'static, Result<(), Problem>> {
        absent()
    }

    fn kill_all(&self, _: ContainerId, _: u32) -> BoxFuture<'static, Result<(), Problem>> {
        absent()
    }

    fn freeze(&self, _: ContainerId) -> BoxFuture<'static, Result<(), Problem>> {
        absent()
    }

    fn thaw(&self, _: ContainerId) -> BoxFuture<'static, Result<(), Problem>> {
        absent()
    }

    fn sweep(&self, _: ContainerId) -> BoxFuture<'static, Result<(), Problem>> {
        ready(Ok(())).boxed()
    }

    fn remove_data(&self, _: ContainerId) -> BoxFuture<'static, Result<(), Problem>> {
        ready(Ok(())).boxed()
    }

    fn exec(&self, _: ExecOrder) -> BoxFuture<'static, Result<StartedExec, Problem>> {
        absent()
    }

    fn run_to_end(&self, _: ExecOrder) -> BoxFuture<'static, Result<i32, Problem>> {
        absent()
    }

    fn limit(&self, _: ContainerId, _: ResourceSpec) -> BoxFuture<'static, Result<(), Problem>> {
        absent()
    }

    fn usage(&self, _: ContainerId) -> BoxFuture<'static, Result<ResourceUsage, Problem>> {
        absent()
    }

    fn processes(&self, _: ContainerId, _: IdRange) -> BoxFuture<'static, Result<Vec<ProcessRow>, Problem>> {
        absent()
    }

    fn claim_addresses(&self, _: NetworkMode, wanted: Addresses) -> Result<Addresses, Problem> {
        Ok(wanted)
    }

    fn release_addresses(&self, _: Addresses) {}

    fn findings(&self) -> BoxFuture<'static, Vec<Finding>> {
        ready(Vec::new()).boxed()
    }

    fn found(&self) -> BoxFuture<'static, Result<Vec<FoundContainer>, Problem>> {
        ready(Ok(Vec::new())).boxed()
    }

    fn end_if_idle(&self) -> BoxFuture<'static, bool> {
        ready(true).boxed()
    }
}
