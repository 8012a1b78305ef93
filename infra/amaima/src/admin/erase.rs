//! `amaima admin erase`: a person is forgotten, without their password.

use super::{Connection, Error, Exit, Output};
use clap::Args;
use domain::{
    Actor, Timestamp,
    account::Account,
    id::{AccountId, CommandId},
    wire::command::{Body, Outcome, Reply, Request},
};
use infra::{bus::Commands, clock, event_store::EventStore, retry::Backoff};
use serde::Serialize;
use std::{
    fmt,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// Whom.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The account's id
    account: Uuid,
    /// Really: it cannot be taken back
    #[arg(long)]
    yes: bool,
    /// How long to wait until it is done, in seconds
    #[arg(long, default_value_t = 30)]
    wait: u64,
}

#[derive(Serialize)]
struct Report {
    account: AccountId,
    requested_at: Option<Timestamp>,
    /// Whether nobody can read any more what is stored about the person.
    erased: bool,
}

pub(super) async fn run(
    connection: &Connection,
    options: Options,
    output: &mut Output<'_>,
) -> Result<Exit, Error> {
    let account = AccountId::new(options.account);
    if !options.yes {
        return Err(Error::Unknown(format!(
            "{account} would be forgotten for ever, in every copy and backup: say so with --yes"
        )));
    }
    let request = Request {
        id: CommandId::new(clock::fresh_id()),
        actor: Actor::System,
        request_id: "amaima-admin".to_owned(),
        traceparent: None,
        deadline: clock::now().plus_millis(10_000),
        fingerprint: None,
        body: Body::EraseAccount {
            account,
            password: None,
        },
    };
    let commands = Commands::new(connection.client.clone());
    let requested_at = match commands.insist(&request).await {
        Reply::Accepted {
            outcome: Outcome::Erasing { since },
            ..
        } => Some(since),
        Reply::Accepted { .. } => None,
        Reply::Refused { failure } => return Err(Error::Unknown(failure.message)),
        Reply::Unavailable | Reply::Overloaded { .. } => {
            return Err(Error::Unknown(
                "command-svc does not answer; nothing may have happened".to_owned(),
            ));
        }
    };
    let store = EventStore::new(connection.client.clone(), connection.keys.clone());
    let until = Instant::now() + Duration::from_secs(options.wait);
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    let erased = loop {
        let loaded = store.load_from_leader::<Account>(account.uuid()).await;
        let state = loaded.map_err(Error::failed("the account"))?.state;
        if state == Account::Erased || Instant::now() > until {
            break state == Account::Erased;
        }
        backoff.wait().await;
    };
    output.report(&Report {
        account,
        requested_at,
        erased,
    });
    Ok(Exit::well_if(erased))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.erased {
            return writeln!(f, "{} is erased", self.account);
        }
        writeln!(
            f,
            "{} is being erased, which is not done yet: `amaima admin policies` tells why",
            self.account
        )
    }
}
