//! `erase_account`: the person is to be forgotten. A policy does it; from here on nobody can sign
//! in, and every token of theirs is worthless.

use super::{Problem, Shared, not_found, refresh::end};
use crate::write_path::{Expect, may_be_stored};
use domain::{
    Actor, Aggregate,
    account::{Account, Command, Refused},
    email::{self, Email},
    id::{AccountId, EmailId},
    wire::{command::Outcome, error::Code},
};
use infra::{
    clock,
    event_store::{Loaded, Provenance},
    fault,
    retry::Backoff,
};
use std::time::Duration;

/// How often the append is tried before somebody else should.
const ATTEMPTS: u32 = 5;

pub(super) async fn handle(
    shared: &Shared,
    cx: Provenance,
    account: AccountId,
    password: Option<String>,
) -> Result<(u64, Outcome), Problem> {
    match &cx.actor {
        Actor::System => {}
        Actor::User(user) if *user == account => {
            let profile = shared.profile(account).await?;
            let hash = Some(profile.password_hash);
            let password = password.unwrap_or_default();
            if !shared.passwords.verify(password, hash, cx.deadline).await? {
                return Err(Problem::new(
                    Code::AuthInvalidCredentials,
                    "The password is wrong",
                ));
            }
        }
        Actor::User(_) | Actor::Anonymous | Actor::Worker(_) => return Err(not_found()),
    }
    let done = shared
        .write
        .execute(
            &shared.accounts,
            account.uuid(),
            Expect::Anything,
            Command::RequestErasure,
            &cx,
        )
        .await
        .map_err(|error| {
            Problem::from_write(error, |rule| match rule {
                Refused::Unknown | Refused::AlreadyRegistered => not_found(),
            })
        })?;
    // Gateways know tokens to be worthless by the id of their account as well.
    end(shared, account.uuid()).await;
    match done.state {
        Account::Erasing { since, .. } => Ok((done.seq, Outcome::Erasing { since })),
        Account::Absent | Account::Active(_) | Account::Erased => Err(not_found()),
    }
}

/// The last step: the address is free again and the account gone, both in one append.
pub(super) async fn finish(
    shared: &Shared,
    cx: Provenance,
    account: AccountId,
    claim: EmailId,
) -> Result<(u64, Outcome), Problem> {
    let store = shared.write.store();
    let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(100));
    for _ in 0..ATTEMPTS {
        let now = clock::now();
        let context = cx.context(now);
        let person: Loaded<Account> = store.load_from_leader(account.uuid()).await?;
        let held: Loaded<Email> = store.load_from_leader(claim.uuid()).await?;
        let erased = person
            .state
            .decide(Command::FinishErasure { account }, &context)
            .map_err(|rule| Problem::Internal(rule.to_string()))?;
        if erased.is_empty() {
            return Ok((person.last_seq, Outcome::Erased));
        }
        let released = held
            .state
            .decide(email::Command::Release { account }, &context)
            .map_err(|rule| Problem::Internal(rule.to_string()))?;
        let mut commits = Vec::new();
        if !released.is_empty() {
            let released = store.pending(claim.uuid(), &held, &cx, now, &released);
            commits.push(released.await?);
        }
        let erased = store.pending(account.uuid(), &person, &cx, now, &erased);
        commits.push(erased.await?);
        match shared.write.append(commits, cx.deadline).await {
            Ok(seq) => {
                fault::point("erase.told");
                return Ok((seq, Outcome::Erased));
            }
            Err(error) if may_be_stored(&error) => backoff.wait().await,
            Err(error) => return Err(error.into()),
        }
    }
    Err(Problem::Unavailable(
        "the account was contended for too long".to_owned(),
    ))
}
