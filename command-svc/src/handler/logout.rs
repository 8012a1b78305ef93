//! `logout`: exactly this session ends, at once and at every gateway. Repeating it is fine.

use super::{Problem, Shared, refresh::end};
use crate::write_path::Expect;
use domain::{
    id::SessionId,
    session::{Command, Refused},
    wire::{command::Outcome, error::Code},
};
use infra::event_store::Provenance;

pub(super) async fn handle(
    shared: &Shared,
    cx: Provenance,
    session: SessionId,
) -> Result<(u64, Outcome), Problem> {
    let done = shared
        .write
        .execute(
            &shared.sessions,
            session.uuid(),
            Expect::Anything,
            Command::Revoke,
            &cx,
        )
        .await
        .map_err(|error| {
            Problem::from_write(error, |rule| match rule {
                Refused::Unknown | Refused::Revoked | Refused::AlreadyOpen => {
                    Problem::new(Code::NotFound, "Session not found")
                }
            })
        })?;
    end(shared, session.uuid()).await;
    Ok((done.seq, Outcome::SignedOut))
}
