use crate::id::{AccountId, RefreshId, SessionId};

/// Orders to a session.
#[derive(Clone, Debug)]
pub enum Command {
    /// Sign in.
    Open {
        /// The new session.
        session: SessionId,
        /// Who.
        account: AccountId,
        /// The first refresh id.
        refresh: RefreshId,
        /// The device's own id.
        device_id: Option<String>,
        /// The device's name.
        device_name: Option<String>,
    },
    /// Exchange a refresh id for the next one.
    Refresh {
        /// The id that the client holds.
        presented: RefreshId,
        /// The id that it shall hold next.
        next: RefreshId,
    },
    /// Sign out.
    Revoke,
}
