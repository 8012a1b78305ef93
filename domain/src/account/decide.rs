use super::{Account, Command, Event, Tier};
use crate::Context;

/// Why an account refuses an order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The id belongs to somebody already.
    #[error("the account is already registered")]
    AlreadyRegistered,
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
            Account::Active(_) => Err(Refused::AlreadyRegistered),
            Account::Absent => Ok(vec![Event::Registered {
                account: id,
                email,
                name,
                password_hash,
                tier: Tier::Free,
                at: cx.now,
            }]),
        },
    }
}
