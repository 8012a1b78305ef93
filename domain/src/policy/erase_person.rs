//! A person who is to be forgotten is forgotten, and no token of theirs is good any more.

use super::Reaction;
use crate::{account::Event, id::CommandId, limits, wire::command::Body};

/// The name of this policy, part of the ids of its commands.
const NAME: &str = "erase_person";

pub(super) fn react(event: &Event) -> Vec<Reaction> {
    match event {
        Event::ErasureRequested { account, email, .. } => vec![
            Reaction::Revoke {
                key: account.uuid(),
                ttl_secs: limits::REFRESH_TOKEN_SECS,
            },
            Reaction::Erase { account: *account },
            Reaction::Command {
                id: CommandId::derived(&[&account.to_string(), NAME]),
                cause: format!("{NAME}.{account}"),
                body: Box::new(Body::FinishErasure {
                    account: *account,
                    email: *email,
                }),
            },
        ],
        Event::Registered { .. } | Event::Erased { .. } => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Timestamp,
        id::{AccountId, EmailId},
    };
    use uuid::Uuid;

    #[test]
    fn tokens_are_worthless_first_and_the_log_is_told_last() {
        let account = AccountId::new(Uuid::from_u128(1));
        let email = EmailId::of("mia@example.com");
        let at = Timestamp::from_millis(5);
        let requested = Event::ErasureRequested { account, email, at };
        let [
            Reaction::Revoke { key, .. },
            erase,
            Reaction::Command { body, .. },
        ] = &react(&requested)[..]
        else {
            panic!("three reactions")
        };
        assert_eq!(*key, account.uuid());
        assert_eq!(*erase, Reaction::Erase { account });
        assert_eq!(**body, Body::FinishErasure { account, email });
        assert_eq!(react(&Event::Erased { account, at }), []);
    }
}
