use crate::{
    Recorded, Timestamp,
    id::{AccountId, EmailId},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What happened to an account. The names are the storage format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", content = "data")]
pub enum Event {
    /// A person registered.
    #[serde(rename = "account.registered.v1")]
    Registered {
        /// The account.
        account: AccountId,
        /// Address as written.
        email: String,
        /// Display name.
        name: String,
        /// argon2id PHC string.
        password_hash: String,
        /// Subscription at the start.
        tier: Tier,
        /// When.
        at: Timestamp,
    },
    /// Everything about the person is to be forgotten. From now on nobody can sign in.
    #[serde(rename = "account.erasure_requested.v1")]
    ErasureRequested {
        /// The account.
        account: AccountId,
        /// The claim on its address, which is to be given up.
        email: EmailId,
        /// When.
        at: Timestamp,
    },
    /// Nobody can read any more what is stored about the person.
    #[serde(rename = "account.erased.v1")]
    Erased {
        /// The account.
        account: AccountId,
        /// When.
        at: Timestamp,
    },
}

impl Recorded for Event {}

/// Subscription of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Costs nothing.
    Free,
    /// For one person's work.
    Pro,
    /// For an organisation.
    Enterprise,
}

impl Tier {
    /// As the wire writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Pro => "pro",
            Self::Enterprise => "enterprise",
        }
    }
}
