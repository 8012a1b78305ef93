use crate::{
    append, direct_get,
    sealing::{Failed, NotOpened, NotSealed, NotUnwrapped, Unknown},
};
use async_nats::jetstream::{
    context::GetStreamError,
    stream::{DeleteMessageError, RawMessageError},
};
use domain::id::AccountId;

/// A key could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream cannot be found.
    #[error("the keys of persons cannot be found")]
    Stream(#[from] GetStreamError),
    /// The stream cannot be read.
    #[error("the keys of persons cannot be read")]
    Read(#[from] direct_get::Error),
    /// Its leader cannot be asked.
    #[error("the keys of persons cannot be read at their leader")]
    Leader(#[from] RawMessageError),
    /// A key cannot be written.
    #[error("the key of {person} cannot be written")]
    Write {
        /// Whose.
        person: AccountId,
        /// Why.
        source: append::Error,
    },
    /// What is left of a key cannot be deleted.
    #[error("what is left of the key of {person} cannot be deleted")]
    Delete {
        /// Whose.
        person: AccountId,
        /// Why.
        source: DeleteMessageError,
    },
    /// A person's entry is not one.
    #[error("the key of {person} cannot be read")]
    Unreadable {
        /// Whose.
        person: AccountId,
    },
    /// A key cannot be wrapped.
    #[error("the key of {person} cannot be wrapped")]
    NotWrapped {
        /// Whose.
        person: AccountId,
        /// Why.
        source: Failed,
    },
    /// A key cannot be unwrapped.
    #[error("the key of {person} cannot be unwrapped")]
    NotUnwrapped {
        /// Whose.
        person: AccountId,
        /// Why.
        source: NotUnwrapped,
    },
    /// There are commits that take the key and there is no key: the stream was lost.
    #[error("the key of {person} is not among the keys of persons; restore them")]
    Missing {
        /// Whose.
        person: AccountId,
    },
    /// The person is erased.
    #[error("{person} is erased")]
    Erased {
        /// Who.
        person: AccountId,
    },
    /// Something is sealed, and there are no master keys.
    #[error("the key of {person} is needed, and no master keys are given")]
    Off {
        /// Whose.
        person: AccountId,
    },
    /// A message was sealed in another way.
    #[error("the message on {subject} cannot be opened")]
    Unknown {
        /// Where.
        subject: String,
        /// Why.
        source: Unknown,
    },
    /// A message is not what was sealed.
    #[error("the message on {subject} cannot be opened")]
    NotOpened {
        /// Where.
        subject: String,
        /// Why.
        source: NotOpened,
    },
    /// Keys cannot be made.
    #[error(transparent)]
    NotSealed(#[from] NotSealed),
}

impl Error {
    /// Whether somebody has to look at it: keys, or master keys, are not as they must be.
    pub const fn is_grave(&self) -> bool {
        matches!(
            self,
            Self::Unreadable { .. }
                | Self::NotUnwrapped { .. }
                | Self::Missing { .. }
                | Self::Off { .. }
        )
    }

    /// Whether the same call may succeed later, unchanged.
    pub const fn is_transient(&self) -> bool {
        !matches!(
            self,
            Self::Erased { .. } | Self::Unknown { .. } | Self::NotOpened { .. }
        )
    }
}
