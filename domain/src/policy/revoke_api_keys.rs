//! Revoked API keys become worthless at every gateway.

use super::Reaction;
use crate::{api_keys::Event, limits};

pub(super) fn react(event: &Event) -> Vec<Reaction> {
    match event {
        Event::Created { .. } => vec![],
        // By then no gateway has it in memory any more, and the read model tells.
        Event::Revoked { key, .. } => vec![Reaction::Revoke {
            key: key.uuid(),
            ttl_secs: limits::REFRESH_TOKEN_SECS,
        }],
    }
}
