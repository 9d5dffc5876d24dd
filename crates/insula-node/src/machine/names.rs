//! The name service's things: its sockets and table, which the keeper holds so that they outlive everybody.
//!
//! The daemon's start puts what is missing beside what the keeper has, and replaces the service itself, so that it is
//! always of the daemon's own build. Afterwards the table is written here, and nobody is told.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use insula_api::{Finding, FindingLevel, Problem, ProblemCode};
use insula_model::IdRange;
use insula_network::{bind_name_sockets, is_name_socket, probe_name_service};
use insula_plan::protocol::facts::{self, GuestFact};
use insula_plan::protocol::keeper::{FdName, KeeperRequest};
use insula_plan::protocol::launcher::LauncherRequest;
use insula_plan::protocol::names::{GIVEN_NAMES, NamedContainer, NamesTable, NamesWriter, TABLE_NAME};

use super::{Machine, lock};

/// What the daemon has of the service.
#[derive(Debug, Default)]
pub(super) struct NameService(Mutex<Option<Held>>);

/// Its file is held by the keeper too.
#[derive(Debug)]
struct Held {
    ids: IdRange,
    writer: NamesWriter,
    /// Name servers of the host when somebody looked last.
    upstreams: Vec<IpAddr>,
    /// What was written last; `None` before this daemon wrote anything.
    table: Option<NamesTable>,
}

impl NameService {
    /// Whether containers are answered.
    pub(super) fn is_on(&self) -> bool {
        lock(&self.0).is_some()
    }
}

fn name_of(name: &str) -> Result<FdName, Problem> {
    name.parse().map_err(|error| Problem::from_chain(ProblemCode::Internal, &error))
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Problem {
    let mut problem = Problem::from_chain(ProblemCode::Internal, error);
    problem.detail = format!("name service: {}", problem.detail);
    problem
}

impl Machine {
    /// The block of ids under whose first one the service runs, if it was ever started.
    pub(super) fn ids_of_guests(&self) -> Option<IdRange> {
        let fact: GuestFact = facts::read(&self.run.guest_fact()).ok().flatten()?;
        Some(IdRange { base: fact.id, size: IdRange::SIZE })
    }

    async fn take_kept(&self, name: &str) -> Option<OwnedFd> {
        let request = LauncherRequest::Keep(KeeperRequest::Take { name: name_of(name).ok()? });
        self.link.call(request, &[]).await.ok()?.fds.into_iter().next()
    }

    /// Has the service run under `ids`. Without an error, containers that start from now on are told to ask it.
    ///
    /// The sockets are the keeper's, and this process holds none of them: it listens on no network.
    ///
    /// # Errors
    ///
    /// Another name server has the port at the node's address, or the program is not installed.
    pub(super) async fn begin_names(&self, ids: IdRange) -> Result<(), Problem> {
        let own = lock(&self.names.0).as_ref().map(|held| held.writer.file().try_clone());
        let file = match own {
            Some(file) => Some(file.map_err(|error| failed(&error))?),
            None => self.take_kept(TABLE_NAME).await,
        };
        let writer = file.map_or_else(NamesWriter::create, NamesWriter::adopt).map_err(|error| failed(&error))?;
        let table = writer.reader().map_err(|error| failed(&error))?;
        self.keep(TABLE_NAME, writer.file()).await?;
        self.keep(GIVEN_NAMES[0], &table).await?;
        for (address, names) in self.network.node.own_addresses().into_iter().zip(GIVEN_NAMES[1..].chunks(2)) {
            self.keep_sockets(address, names).await?;
        }
        self.link.call(LauncherRequest::ServeGuests(GuestFact { id: ids.base }), &[]).await?;
        let mut held = lock(&self.names.0);
        let file = writer.file().try_clone().map_err(|error| failed(&error))?;
        // Read again: the one before may have written meanwhile.
        let writer = NamesWriter::adopt(file).map_err(|error| failed(&error))?;
        *held = Some(Held { ids, writer, upstreams: self.network.upstreams(), table: None });
        Ok(())
    }

    /// Ends a service that an earlier daemon began, and gives its sockets free.
    ///
    /// # Errors
    ///
    /// The launcher is gone.
    pub(super) async fn end_names(&self) -> Result<(), Problem> {
        self.link.call(LauncherRequest::EndGuests, &[]).await?;
        for name in std::iter::once(&TABLE_NAME).chain(&GIVEN_NAMES) {
            // What is not kept cannot be removed.
            let remove = KeeperRequest::Remove { name: name_of(name)? };
            self.link.call(LauncherRequest::Keep(remove), &[]).await.ok();
        }
        Ok(())
    }

    /// Has the keeper hold the sockets of one family, if it does not already.
    async fn keep_sockets(&self, address: IpAddr, names: &[&str]) -> Result<(), Problem> {
        let mut good = 0;
        for name in names {
            let kept = self.take_kept(name).await;
            good += usize::from(kept.is_some_and(|socket| is_name_socket(&socket, address)));
        }
        if good == names.len() {
            return Ok(());
        }
        for name in names {
            // Half of them, or those of another address, would be in the way. What is not kept cannot be removed.
            let remove = KeeperRequest::Remove { name: name_of(name)? };
            self.link.call(LauncherRequest::Keep(remove), &[]).await.ok();
        }
        let bound = bind_name_sockets(address).map_err(|error| failed(&error))?;
        for (name, socket) in names.iter().zip([bound.udp, bound.tcp]) {
            self.keep(name, &socket).await?;
        }
        Ok(())
    }

    async fn keep(&self, name: &str, fd: &OwnedFd) -> Result<(), Problem> {
        let put = KeeperRequest::Put { name: name_of(name)? };
        self.link.call(LauncherRequest::Keep(put), &[fd.as_fd()]).await.map(drop)
    }

    /// After a new launcher: it runs the service by itself, unless the keeper was lost as well.
    pub(super) async fn keep_names_again(&self) -> Result<(), Problem> {
        let ids = lock(&self.names.0).as_ref().map(|held| held.ids);
        match ids {
            Some(ids) if self.take_kept(TABLE_NAME).await.is_none() => self.begin_names(ids).await,
            _ => Ok(()),
        }
    }

    /// Reads which name servers the host has now. Blocks.
    pub(super) fn look_for_resolvers(&self) {
        let found = self.network.upstreams();
        if let Some(held) = &mut *lock(&self.names.0) {
            held.upstreams = found;
        }
    }

    /// Has the service answer by these containers from now on: two writes to memory.
    ///
    /// # Errors
    ///
    /// There are too many, or memory is out: then it goes on as before.
    pub(super) fn write_names(&self, containers: Vec<Arc<NamedContainer>>) -> Result<(), Problem> {
        let mut held = lock(&self.names.0);
        let Some(Held { writer, upstreams, table, .. }) = &mut *held else { return Ok(()) };
        let node = &self.network.node;
        let (upstreams, subnets) = (upstreams.clone(), node.own_subnets());
        let wanted = NamesTable { node: node.own_addresses(), subnets, upstreams, containers };
        if table.as_ref() != Some(&wanted) {
            writer.write(&wanted).map_err(|error| failed(&error))?;
            *table = Some(wanted);
        }
        Ok(())
    }

    /// Whether the service answers, as `doctor` says it. Blocks.
    pub(super) fn look_at_names(&self) -> Finding {
        let address = self.network.node.subnets.node_ipv4();
        let (level, detail, remedy) = match (self.names.is_on(), self.network.wants_names()) {
            (false, false) => {
                (FindingLevel::Good, "turned off; containers ask the host's name servers".to_owned(), None)
            }
            (false, true) => {
                let detail =
                    "it could not be started, the daemon's log says why; containers do not find each other by name";
                let remedy = format!("free port 53 of {address}, install insula-guest, restart the daemon");
                (FindingLevel::Warning, detail.to_owned(), Some(remedy))
            }
            (true, _) => match probe_name_service(address.into()) {
                Ok(()) => (FindingLevel::Good, format!("answers at {address}"), None),
                Err(error) => {
                    let remedy = "look at launcher.err in the run directory; restart the daemon".to_owned();
                    (FindingLevel::Failure, format!("does not answer at {address}: {error}"), Some(remedy))
                }
            },
        };
        Finding { subject: "name service".to_owned(), level, detail, remedy }
    }
}
