//! Forms: what the daemon writes whole for the launcher to carry out, with a version of its own and a bound.

use minicbor::Decode;

use crate::protocol::channel;

/// What one kind of them has to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Form {
    /// Its name, for people.
    pub(crate) what: &'static str,
    /// The version that this build carries out.
    pub(crate) version: u16,
    /// Most bytes of one.
    pub(crate) bytes_max: usize,
}

/// A form that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadFormError {
    /// More bytes than one may have.
    #[error("the {what} has {bytes} bytes; at most {bytes_max} are allowed")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// How many.
        bytes: usize,
        /// How many it may have.
        bytes_max: usize,
    },
    /// Something else.
    #[error("the {what} is malformed")]
    Malformed {
        /// What it was to be.
        what: &'static str,
        /// Why it is not.
        #[source]
        source: minicbor::decode::Error,
    },
    /// Made by another version of Insula.
    #[error(
        "the {what} has version {found}; this launcher carries out version {version}: it and the daemon are of different builds; restart the daemon"
    )]
    Version {
        /// What it is.
        what: &'static str,
        /// Its version.
        found: u16,
        /// The launcher's.
        version: u16,
    },
}

impl Form {
    /// Reads one. The version is looked at first: the rest of another version may mean nothing here.
    pub(crate) fn decode<T>(self, bytes: &[u8]) -> Result<T, ReadFormError>
    where
        T: for<'b> Decode<'b, ()>,
    {
        let Self { what, version, bytes_max } = self;
        if bytes.len() > bytes_max {
            return Err(ReadFormError::TooLarge { what, bytes: bytes.len(), bytes_max });
        }
        let malformed = |source| ReadFormError::Malformed { what, source };
        let found = channel::version_of(bytes).map_err(malformed)?;
        if found != version {
            return Err(ReadFormError::Version { what, found, version });
        }
        channel::decode(bytes).map_err(malformed)
    }
}
