use crate::{Recorded, Timestamp, id::AccountId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What happened to the claim. The names are the storage format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", content = "data")]
pub enum Event {
    /// An account took the address.
    #[serde(rename = "email.claimed.v1")]
    Claimed {
        /// The holder from now on.
        account: AccountId,
        /// When.
        at: Timestamp,
    },
    /// The account was erased and holds the address no more.
    #[serde(rename = "email.released.v1")]
    Released {
        /// The holder until now.
        account: AccountId,
        /// When.
        at: Timestamp,
    },
}

impl Recorded for Event {}
