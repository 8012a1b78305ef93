//! `refresh`: the pair of tokens is exchanged; of two parallel uses one wins.

use super::{Problem, Shared, user};
use crate::write_path::{Expect, derived};
use domain::{
    id::{RefreshId, SessionId},
    limits,
    session::{Command, Refused, Session},
    wire::{command::Outcome, error::Code},
};
use infra::{event_store::Provenance, revocations, telemetry};
use tracing::warn;
use uuid::Uuid;

pub(super) async fn handle(
    shared: &Shared,
    cx: Provenance,
    session: SessionId,
    presented: RefreshId,
) -> Result<(u64, Outcome), Problem> {
    let next = derived(RefreshId::derived, cx.command, "refresh");
    let done = shared
        .write
        .execute(
            &shared.sessions,
            session.uuid(),
            Expect::Anything,
            Command::Refresh { presented, next },
            &cx,
        )
        .await
        .map_err(|error| Problem::from_write(error, refused))?;
    match done.state {
        Session::Open(open) if open.current == next => {
            let profile = shared.profile(open.account).await?;
            Ok((
                done.seq,
                Outcome::SignedIn {
                    user: user(&profile),
                    session,
                    refresh: next,
                },
            ))
        }
        // This was the reuse of a superseded token, and it ended the session.
        Session::Revoked { .. } => {
            end(shared, session.uuid()).await;
            Err(refused(Refused::Revoked))
        }
        Session::Open(_) | Session::Absent | Session::Erased => Err(refused(Refused::Revoked)),
    }
}

/// Lets gateways know at once that what has this id is worthless; the policy does the same durably
/// if this does not work.
pub(super) async fn end(shared: &Shared, id: Uuid) {
    let ttl = limits::REFRESH_TOKEN_SECS;
    if let Err(error) = revocations::revoke(&shared.client, id, ttl).await {
        warn!(
            reason = telemetry::chain(&error),
            "a revocation is left to the policy"
        );
    }
}

fn refused(rule: Refused) -> Problem {
    match rule {
        Refused::Revoked => Problem::new(Code::AuthTokenInvalid, "Token has been revoked"),
        Refused::Unknown | Refused::AlreadyOpen => {
            Problem::new(Code::AuthTokenInvalid, "Invalid token")
        }
    }
}
