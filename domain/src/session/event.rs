use crate::{
    Recorded, Timestamp,
    id::{AccountId, RefreshId, SessionId},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What happened to a session. The names are the storage format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", content = "data")]
pub enum Event {
    /// Somebody signed in.
    #[serde(rename = "session.opened.v1")]
    Opened {
        /// The session.
        session: SessionId,
        /// Who.
        account: AccountId,
        /// The first refresh id.
        refresh: RefreshId,
        /// The device's own id, if it told one.
        device_id: Option<String>,
        /// The device's name, if it told one.
        device_name: Option<String>,
        /// When.
        at: Timestamp,
    },
    /// The refresh token was exchanged for a new one.
    #[serde(rename = "session.refreshed.v1")]
    Refreshed {
        /// The session.
        session: SessionId,
        /// The id that is no longer good.
        superseded: RefreshId,
        /// The id that is good from now on.
        refresh: RefreshId,
        /// How many rotations there have been, this one included.
        generation: u64,
        /// When.
        at: Timestamp,
    },
    /// The session ended.
    #[serde(rename = "session.revoked.v1")]
    Revoked {
        /// The session.
        session: SessionId,
        /// Whose it was.
        account: AccountId,
        /// Why.
        reason: Reason,
        /// When.
        at: Timestamp,
    },
}

impl Recorded for Event {}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The person signed out.
    Logout,
    /// A superseded refresh token came back.
    Reuse,
}

impl Reason {
    /// As it is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Logout => "logout",
            Self::Reuse => "reuse",
        }
    }
}
