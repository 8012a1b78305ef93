//! Superseded refresh tokens and ended sessions become worthless at every gateway.

use super::Reaction;
use crate::{limits, session::Event};

pub(super) fn react(event: &Event) -> Vec<Reaction> {
    let key = match event {
        Event::Opened { .. } => return vec![],
        Event::Refreshed { superseded, .. } => superseded.uuid(),
        Event::Revoked { session, .. } => session.uuid(),
    };
    vec![Reaction::Revoke {
        key,
        ttl_secs: limits::REFRESH_TOKEN_SECS,
    }]
}
