//! `create_api_key`, `revoke_api_key`: by the person, for whom all keys are one aggregate.

use super::{Problem, Shared, refresh::end};
use crate::write_path::Expect;
use domain::{
    Actor,
    api_keys::{ApiKeys, Command, Refused},
    id::AccountId,
    wire::{
        command::{Body, Outcome},
        error::Code,
    },
};
use infra::event_store::Provenance;

pub(super) async fn handle(
    shared: &Shared,
    cx: Provenance,
    body: Body,
) -> Result<(u64, Outcome), Problem> {
    let Actor::User(account) = cx.actor else {
        return Err(Problem::new(
            Code::AuthPermissionDenied,
            "Permission denied",
        ));
    };
    match body {
        Body::CreateApiKey {
            key,
            name,
            secret_hash,
            scopes,
            expires_at,
        } => {
            // Whoever is being erased makes none any more. One that came in between goes with the
            // person's key and rows.
            shared.profile(account).await?;
            let create = Command::Create {
                account,
                key,
                name,
                secret_hash: secret_hash.clone(),
                scopes,
                expires_at,
            };
            let (seq, state) = execute(shared, &cx, account, create).await?;
            // A repeat of the command is answered without a decision: what it made may have another
            // secret, or be revoked.
            let is_this_one = match state {
                ApiKeys::Held(held) => held
                    .live
                    .iter()
                    .any(|live| live.key == key && live.secret_hash == secret_hash),
                ApiKeys::Absent | ApiKeys::Erased => false,
            };
            if is_this_one {
                Ok((seq, Outcome::ApiKey { key }))
            } else {
                Err(refused(Refused::MadeBefore(key)))
            }
        }
        Body::RevokeApiKey { key } => {
            let (seq, _) = execute(shared, &cx, account, Command::Revoke { key }).await?;
            end(shared, key.uuid()).await;
            Ok((seq, Outcome::ApiKey { key }))
        }
        body => Err(Problem::Internal(format!("{body:?} has another handler"))),
    }
}

async fn execute(
    shared: &Shared,
    cx: &Provenance,
    account: AccountId,
    command: Command,
) -> Result<(u64, ApiKeys), Problem> {
    let keys = &shared.api_keys;
    let done = shared
        .write
        .execute(keys, account.uuid(), Expect::Anything, command, cx)
        .await
        .map_err(|error| Problem::from_write(error, refused))?;
    Ok((done.seq, done.state))
}

fn refused(rule: Refused) -> Problem {
    match rule {
        Refused::Unknown => Problem::new(Code::NotFound, rule.to_string()),
        Refused::TooMany => Problem::new(
            Code::Conflict,
            format!("{rule} at a time: revoke one that is not used any more"),
        ),
        Refused::MadeBefore(key) => Problem::new(
            Code::Conflict,
            format!(
                "API key {key} was made under this Idempotency-Key and is shown only once: revoke \
                 it, and make another"
            ),
        ),
    }
}
