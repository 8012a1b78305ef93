//! `register`: the address is claimed, the account made and the first session opened in one
//! atomic append, or nothing is.

use super::{Problem, Shared, user};
use crate::write_path::{derived, may_be_stored};
use domain::{
    Aggregate,
    account::{self, Account},
    email::{self, Email},
    id::{AccountId, EmailId, RefreshId, SessionId},
    session::{self, Session},
    wire::{command::Outcome, error::Code},
};
use infra::{
    clock,
    event_store::{Loaded, Provenance},
    retry::Backoff,
};
use std::time::Duration;

/// How often the append is tried before the caller hears of trouble.
const ATTEMPTS: u32 = 5;

pub(super) async fn handle(
    shared: &Shared,
    cx: Provenance,
    address: String,
    name: String,
    password: String,
) -> Result<(u64, Outcome), Problem> {
    let claim = EmailId::of(&address).uuid();
    let account = derived(AccountId::derived, cx.command, "account");
    let session = derived(SessionId::derived, cx.command, "session");
    let refresh = derived(RefreshId::derived, cx.command, "refresh");
    let store = shared.write.store();
    let mut password_hash = None;
    let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(100));
    for _ in 0..ATTEMPTS {
        let held: Loaded<Email> = store.load_from_leader(claim).await?;
        match held.state {
            Email::ClaimedBy(holder) if holder == account => {
                // An earlier attempt of this very command was stored.
                let profile = shared.profile(account).await?;
                let opened: Loaded<Session> = store.load(session.uuid()).await?;
                let outcome = Outcome::SignedIn {
                    user: user(&profile),
                    session,
                    refresh,
                };
                return Ok((opened.last_seq, outcome));
            }
            Email::ClaimedBy(_) => return Err(taken()),
            Email::Free => {}
        }
        let hash = match &password_hash {
            Some(hash) => String::clone(hash),
            None => {
                let hash = shared.passwords.hash(password.clone()).await?;
                password_hash.insert(hash).clone()
            }
        };
        let now = clock::now();
        let context = cx.context(now);
        let claimed = held
            .state
            .decide(email::Command::Claim { account }, &context)
            .map_err(|email::Refused::Taken| taken())?;
        let register = account::Command::Register {
            account,
            email: address.clone(),
            name: name.clone(),
            password_hash: hash,
        };
        let registered = Account::Absent
            .decide(register, &context)
            .map_err(|refused| Problem::Internal(refused.to_string()))?;
        let open = session::Command::Open {
            session,
            account,
            refresh,
            device_id: None,
            device_name: None,
        };
        let opened = Session::Absent
            .decide(open, &context)
            .map_err(|refused| Problem::Internal(refused.to_string()))?;
        let commits = vec![
            store.pending::<Email>(claim, held.last_seq, &cx, now, &claimed)?,
            store.pending::<Account>(account.uuid(), 0, &cx, now, &registered)?,
            store.pending::<Session>(session.uuid(), 0, &cx, now, &opened)?,
        ];
        match shared.write.append(commits, cx.deadline).await {
            Ok(seq) => {
                let Account::Active(profile) =
                    registered.iter().fold(Account::Absent, Account::evolve)
                else {
                    return Err(Problem::Internal(
                        "a registered account is absent".to_owned(),
                    ));
                };
                let outcome = Outcome::SignedIn {
                    user: user(&profile),
                    session,
                    refresh,
                };
                return Ok((seq, outcome));
            }
            Err(error) if may_be_stored(&error) => backoff.wait().await,
            Err(error) => return Err(error.into()),
        }
    }
    Err(Problem::Unavailable(
        "the address was contended for too long".to_owned(),
    ))
}

fn taken() -> Problem {
    Problem::new(
        Code::AuthUserExists,
        "A user with this email already exists",
    )
}
