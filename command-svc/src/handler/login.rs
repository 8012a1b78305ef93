//! `login`: a new device session for whoever knows the password.

use super::{Problem, Shared, signed_in_again, user};
use crate::write_path::{Expect, derived};
use domain::{
    account::{Account, Profile},
    email::Email,
    id::{EmailId, RefreshId, SessionId},
    session,
    wire::{command::Outcome, error::Code},
};
use infra::event_store::{Loaded, Provenance};

pub(super) async fn handle(
    shared: &Shared,
    cx: Provenance,
    address: String,
    password: String,
    device_id: Option<String>,
    device_name: Option<String>,
) -> Result<(u64, Outcome), Problem> {
    let profile = find(shared, &address).await?;
    let hash = profile
        .as_ref()
        .map(|profile| profile.password_hash.clone());
    let matches = shared.passwords.verify(password, hash, cx.deadline).await?;
    let Some(profile) = profile.filter(|_| matches) else {
        return Err(Problem::new(
            Code::AuthInvalidCredentials,
            "Invalid email or password",
        ));
    };
    let session = derived(SessionId::derived, cx.command, "session");
    let refresh = derived(RefreshId::derived, cx.command, "refresh");
    let account = profile.id;
    let open = session::Command::Open {
        session,
        account,
        refresh,
        device_id,
        device_name,
    };
    let opened = shared
        .write
        .execute(&shared.sessions, session.uuid(), Expect::Absent, open, &cx)
        .await
        .map_err(|error| Problem::from_write(error, |rule| Problem::Internal(rule.to_string())))?;
    if !opened.appended {
        let outcome = signed_in_again(&profile, session, &opened.state)?;
        return Ok((opened.seq, outcome));
    }
    Ok((
        opened.seq,
        Outcome::SignedIn {
            user: user(&profile),
            session,
            refresh,
        },
    ))
}

async fn find(shared: &Shared, address: &str) -> Result<Option<Profile>, Problem> {
    let claim: Loaded<Email> = shared
        .write
        .store()
        .load(EmailId::of(address).uuid())
        .await?;
    let Email::ClaimedBy(account) = claim.state else {
        return Ok(None);
    };
    match shared
        .write
        .load(&shared.accounts, account.uuid())
        .await?
        .state
    {
        Account::Active(profile) => Ok(Some(profile)),
        Account::Absent | Account::Erasing { .. } | Account::Erased => Ok(None),
    }
}
