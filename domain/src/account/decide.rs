use super::{Account, Command, Event, Tier};
use crate::{Context, id::EmailId};

/// Why an account refuses an order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The id belongs to somebody already.
    #[error("the account is already registered")]
    AlreadyRegistered,
    /// There is no such account, or its person is erased.
    #[error("there is no such account")]
    Unknown,
}

pub(super) fn decide(
    account: &Account,
    command: Command,
    cx: &Context,
) -> Result<Vec<Event>, Refused> {
    match command {
        Command::Register {
            account: id,
            email,
            name,
            password_hash,
        } => match account {
            Account::Active(_) | Account::Erasing { .. } | Account::Erased => {
                Err(Refused::AlreadyRegistered)
            }
            Account::Absent => Ok(vec![Event::Registered {
                account: id,
                email,
                name,
                password_hash,
                tier: Tier::Free,
                at: cx.now,
            }]),
        },
        Command::RequestErasure => match account {
            Account::Active(profile) => Ok(vec![Event::ErasureRequested {
                account: profile.id,
                email: EmailId::of(&profile.email),
                at: cx.now,
            }]),
            Account::Erasing { .. } => Ok(vec![]), // Asked already.
            Account::Absent | Account::Erased => Err(Refused::Unknown),
        },
        Command::FinishErasure { account: id } => match account {
            Account::Erasing { .. } => Ok(vec![Event::Erased {
                account: id,
                at: cx.now,
            }]),
            Account::Erased => Ok(vec![]),
            Account::Absent | Account::Active(_) => Err(Refused::Unknown),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Actor, Aggregate, Timestamp,
        id::{AccountId, CommandId},
    };
    use uuid::Uuid;

    const MIA: AccountId = AccountId::new(Uuid::from_u128(1));

    fn cx() -> Context {
        Context {
            now: Timestamp::from_millis(9),
            actor: Actor::System,
            command_id: CommandId::new(Uuid::from_u128(2)),
        }
    }

    fn register() -> Command {
        Command::Register {
            account: MIA,
            email: " Mia@example.com".into(),
            name: "Mia".into(),
            password_hash: "$argon2id$".into(),
        }
    }

    fn after(state: Account, command: Command) -> (Account, Vec<Event>) {
        let events = decide(&state, command, &cx()).expect("allowed");
        (events.iter().fold(state, Account::evolve), events)
    }

    #[test]
    fn who_is_erased_stays_erased_and_each_step_is_safe_to_repeat() {
        let finish = || Command::FinishErasure { account: MIA };
        let (active, registered) = after(Account::Absent, register());
        assert_eq!(active.person(&registered), Some(MIA));
        assert_eq!(decide(&active, finish(), &cx()), Err(Refused::Unknown));
        let (erasing, requested) = after(active.clone(), Command::RequestErasure);
        let [Event::ErasureRequested { email, .. }] = requested[..] else {
            panic!("{requested:?}")
        };
        assert_eq!(email, EmailId::of("mia@example.com"));
        assert_eq!(decide(&erasing, Command::RequestErasure, &cx()), Ok(vec![]));
        let (erased, done) = after(erasing.clone(), finish());
        assert_eq!(erased, Account::Erased);
        assert_eq!(decide(&erased, finish(), &cx()), Ok(vec![]));
        for state in [&erasing, &erased] {
            let again = decide(state, register(), &cx());
            assert_eq!(again, Err(Refused::AlreadyRegistered));
        }
        let asked = decide(&erased, Command::RequestErasure, &cx());
        assert_eq!(asked, Err(Refused::Unknown));
        // What says that a person is erased must be readable when nothing else is.
        assert_eq!(active.person(&requested), None);
        assert_eq!(erasing.person(&done), None);
        let unreadable = Account::Absent.erased();
        assert_eq!(unreadable, Account::Erased);
        assert_eq!(requested.iter().fold(unreadable, Account::evolve), erasing);
    }
}
