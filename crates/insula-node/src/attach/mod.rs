//! The attach socket: clients' descriptors for starts, executions and transfers.
//!
//! `packet.rs` reads and writes JSON packets with descriptors, `server.rs` serves a connection, and the tokens here
//! say what a connection is good for. A token is made by the API, good once and for [`TOKEN_LIFE`].

mod packet;
pub(crate) mod server;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use insula_api::{AttachToken, ExecRequest, Problem, ProblemCode};
use insula_model::{ContainerId, ContainerState};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::container::handle::ContainerHandle;
use crate::container::snapshot::Snapshot;
use crate::host::{ExecOrder, Streams};

/// How long a token is good.
pub(crate) const TOKEN_LIFE: Duration = Duration::from_secs(30);

/// Tokens that may be outstanding.
const TOKENS_MAX: usize = 4_096;

/// What a token is good for.
#[derive(Debug)]
pub(crate) enum Purpose {
    /// To start a container with the client's streams.
    Start(ContainerId),
    /// To see a running container.
    Attach(ContainerId),
    /// To run a command.
    Exec(ContainerId, Box<ExecRequest>),
    /// To hand a file over to a long action.
    Transfer(oneshot::Sender<OwnedFd>),
}

/// Outstanding tokens.
#[derive(Debug, Default)]
pub(crate) struct Tokens(Mutex<HashMap<AttachToken, (Instant, Purpose)>>);

impl Tokens {
    /// A new token for `purpose`.
    ///
    /// # Errors
    ///
    /// Conflict when too many are outstanding.
    pub(crate) fn issue(&self, purpose: Purpose) -> Result<AttachToken, Problem> {
        let token = AttachToken(Uuid::new_v4().simple().to_string());
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= TOKENS_MAX {
            let detail = format!("{TOKENS_MAX} attachments wait for their clients already");
            return Err(Problem::new(ProblemCode::Conflict, detail).with_remedy("try again in a moment"));
        }
        tokens.insert(token.clone(), (Instant::now() + TOKEN_LIFE, purpose));
        Ok(token)
    }

    /// What `token` is good for; it is good no more.
    pub(crate) fn redeem(&self, token: &AttachToken) -> Option<Purpose> {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.remove(token).filter(|(until, _)| *until >= Instant::now()).map(|(_, purpose)| purpose)
    }

    /// Forgets what is too old and says what it was for.
    pub(crate) fn expire(&self) -> Vec<Purpose> {
        let now = Instant::now();
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let old: Vec<AttachToken> =
            tokens.iter().filter(|(_, (until, _))| *until < now).map(|(token, _)| token.clone()).collect();
        old.iter().filter_map(|token| tokens.remove(token)).map(|(_, purpose)| purpose).collect()
    }
}

/// A container that runs and is not paused, as commands and onlookers need it.
///
/// # Errors
///
/// Conflict when it is not.
pub(crate) fn running(handle: &ContainerHandle) -> Result<Arc<Snapshot>, Problem> {
    let snapshot = handle.snapshot();
    let name = &snapshot.record.name;
    let conflict = |state: &str| Problem::new(ProblemCode::Conflict, format!("container {name} {state}"));
    match (snapshot.state, snapshot.facts.pid) {
        (Some(ContainerState::Paused), _) => Err(conflict("is paused").with_remedy(format!("insula resume {name}"))),
        (Some(_), Some(_)) => Ok(snapshot),
        _ => Err(conflict("is not running").with_remedy(format!("insula start {name}"))),
    }
}

/// What to ask of the host for `request` in the container behind `handle`.
///
/// # Errors
///
/// Invalid without a command; conflict when the container does not run or is paused.
pub(crate) fn exec_order(
    handle: &ContainerHandle,
    request: ExecRequest,
    streams: impl FnOnce(bool) -> Streams,
) -> Result<ExecOrder, Problem> {
    if request.command.is_empty() {
        let name = &handle.snapshot().record.name;
        return Err(Problem::new(ProblemCode::Invalid, format!("exec in {name} names no command")));
    }
    let snapshot = running(handle)?;
    Ok(ExecOrder {
        id: snapshot.record.id,
        name: snapshot.record.name.clone(),
        spec: snapshot.spec.clone(),
        image: snapshot.facts.image.clone().unwrap_or_else(|| snapshot.record.image.clone()),
        streams: streams(request.terminal.is_some()),
        request,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_once() {
        let tokens = Tokens::default();
        let id = ContainerId::from_uuid(Uuid::from_u128(1));
        let token = tokens.issue(Purpose::Start(id)).unwrap();
        assert!(matches!(tokens.redeem(&token), Some(Purpose::Start(found)) if found == id));
        assert!(tokens.redeem(&token).is_none());
        assert!(tokens.redeem(&AttachToken("guess".to_owned())).is_none());
    }

    #[test]
    fn the_number_of_tokens_is_bounded() {
        let tokens = Tokens::default();
        let id = ContainerId::from_uuid(Uuid::from_u128(1));
        for _ in 0..TOKENS_MAX {
            tokens.issue(Purpose::Start(id)).unwrap();
        }
        assert_eq!(tokens.issue(Purpose::Start(id)).unwrap_err().code, ProblemCode::Conflict);
    }
}
