//! `register`: the address is claimed, the account made and the first session opened in one
//! atomic append, or nothing is.

use super::{Problem, Shared, signed_in_again, user};
use crate::write_path::{derived, may_be_stored};
use domain::{
    Aggregate,
    account::{self, Account},
    email::{self, Email},
    id::{AccountId, EmailId, RefreshId, SessionId},
    session::{self, Session},
    wire::{
        command::Outcome,
        error::{Code, Failure},
    },
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
        if clock::now() > cx.deadline {
            break;
        }
        let held: Loaded<Email> = store.load_from_leader(claim).await?;
        match held.state {
            Email::ClaimedBy(holder) if holder == account => {
                return again(shared, &cx, account, session, password).await;
            }
            Email::ClaimedBy(_) => return Err(taken()),
            Email::Free => {}
        }
        let hash = match &password_hash {
            Some(hash) => String::clone(hash),
            None => {
                let hash = shared.passwords.hash(password.clone(), cx.deadline).await?;
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
            store.pending(claim, &held, &cx, now, &claimed).await?,
            store
                .pending::<Account>(account.uuid(), &Loaded::default(), &cx, now, &registered)
                .await?,
            store
                .pending::<Session>(session.uuid(), &Loaded::default(), &cx, now, &opened)
                .await?,
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

/// This very command was stored before: it is answered again to whoever says the same, password
/// included.
async fn again(
    shared: &Shared,
    cx: &Provenance,
    account: AccountId,
    session: SessionId,
    password: String,
) -> Result<(u64, Outcome), Problem> {
    let made = shared.write.load(&shared.accounts, account.uuid()).await?;
    let says_the_same = made
        .known(cx.command)
        .is_none_or(|known| known.says(cx.fingerprint));
    let Account::Active(profile) = made.state else {
        return Err(Problem::Internal(format!("account {account} is absent")));
    };
    let hash = Some(profile.password_hash.clone());
    let matches = shared.passwords.verify(password, hash, cx.deadline).await?;
    if !matches || !says_the_same {
        return Err(Problem::Failure(Failure::other_body()));
    }
    let opened: Loaded<Session> = shared.write.store().load(session.uuid()).await?;
    let outcome = signed_in_again(&profile, session, &opened.state)?;
    Ok((opened.last_seq, outcome))
}

fn taken() -> Problem {
    Problem::new(
        Code::AuthUserExists,
        "A user with this email already exists",
    )
}
