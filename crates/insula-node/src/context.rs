//! What drivers and handlers share: one owner for each part, all of it passed in here.

use std::collections::BTreeSet;
use std::sync::Arc;

use insula_api::{Problem, ProblemCode};
use insula_model::{ContainerId, ImageId, PublishedPort};

use crate::admission::Ledger;
use crate::attach::Tokens;
use crate::audit::Audit;
use crate::catalog::Catalog;
use crate::claims::IdBlocks;
use crate::config::Config;
use crate::container::facts::FactsDir;
use crate::container::record::ContainerRecord;
use crate::directory::Directory;
use crate::events::Events;
use crate::host::Host;
use crate::images::Images;
use crate::name_service::NameChanges;
use crate::operations::Operations;
use crate::store::Store;

/// Parts of one node.
#[derive(Debug)]
pub(crate) struct Context {
    /// Configuration.
    pub(crate) config: Config,
    /// Intent.
    pub(crate) store: Store,
    /// Facts.
    pub(crate) facts: FactsDir,
    /// The machine.
    pub(crate) host: Arc<dyn Host>,
    /// Image versions on the disk.
    pub(crate) images: Images,
    /// Image versions as requests need them.
    pub(crate) catalog: Catalog,
    /// Containers.
    pub(crate) directory: Directory,
    /// Where changes of their names are told.
    pub(crate) names: NameChanges,
    /// Room for running containers.
    pub(crate) ledger: Ledger,
    /// Blocks of host ids.
    pub(crate) ids: IdBlocks,
    /// Events.
    pub(crate) events: Arc<Events>,
    /// Long actions.
    pub(crate) operations: Operations,
    /// Tokens for the attach socket.
    pub(crate) tokens: Tokens,
    /// Who did what.
    pub(crate) audit: Audit,
}

impl Context {
    /// Gives back what a container was given for life: its name, ids and addresses.
    pub(crate) fn release(&self, record: &ContainerRecord) {
        self.directory.remove(&record.name, record.id);
        self.ids.give_back(record.ids);
        self.host.release_addresses(record.addresses);
    }

    /// Versions that containers need: what they run, ran before or are to run.
    pub(crate) fn live_images(&self) -> BTreeSet<ImageId> {
        let snapshots = self.directory.snapshots().into_iter();
        snapshots
            .flat_map(|now| {
                let record = &now.record;
                let others = [&record.previous_image, &record.next_image, &now.facts.image];
                let others: Vec<ImageId> = others.into_iter().flatten().cloned().collect();
                std::iter::once(record.image.clone()).chain(others)
            })
            .collect()
    }

    /// How many containers run `image` now.
    pub(crate) fn running_of(&self, image: &ImageId) -> u64 {
        let snapshots = self.directory.snapshots().into_iter();
        let running = snapshots.filter(|now| now.is_up() && now.facts.image.as_ref() == Some(image));
        u64::try_from(running.count()).unwrap_or(u64::MAX)
    }

    /// Refuses ports that another container has now, by its name: the keeper's sockets tell nobody whose they are.
    ///
    /// # Errors
    ///
    /// Conflict.
    pub(crate) fn refuse_taken_ports(&self, id: ContainerId, ports: &[PublishedPort]) -> Result<(), Problem> {
        if ports.is_empty() {
            return Ok(());
        }
        for other in self.directory.all().into_iter().map(|handle| handle.snapshot()) {
            let meets = |port: &&PublishedPort| other.spec.ports.iter().any(|taken| taken.meets(port));
            if let Some(port) = ports.iter().find(meets)
                && other.record.id != id
                && other.is_up()
            {
                let name = &other.record.name;
                let detail = format!("port {port} is in use by container {name}");
                let remedy = format!("publish another port of the host, or `insula stop {name}` first");
                return Err(Problem::new(ProblemCode::Conflict, detail).with_remedy(remedy));
            }
        }
        Ok(())
    }

    /// Names of the containers that need `image`, in order.
    pub(crate) fn containers_of(&self, image: &ImageId) -> Vec<String> {
        let needs = |record: &ContainerRecord| {
            record.image == *image
                || record.next_image.as_ref() == Some(image)
                || record.previous_image.as_ref() == Some(image)
        };
        let snapshots = self.directory.snapshots().into_iter();
        let mut names: Vec<String> =
            snapshots.filter(|now| needs(&now.record)).map(|now| now.record.name.to_string()).collect();
        names.sort();
        names
    }
}
