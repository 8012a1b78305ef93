use super::{Command, Email, Event};
use crate::Context;

/// Why a claim is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another account holds the address.
    #[error("the e-mail address is taken")]
    Taken,
}

pub(super) fn decide(email: &Email, command: Command, cx: &Context) -> Result<Vec<Event>, Refused> {
    match (command, email) {
        (Command::Claim { account }, Email::Free) => Ok(vec![Event::Claimed {
            account,
            at: cx.now,
        }]),
        (Command::Claim { account }, Email::ClaimedBy(holder)) if account == *holder => Ok(vec![]),
        (Command::Claim { .. }, Email::ClaimedBy(_)) => Err(Refused::Taken),
        (Command::Release { account }, Email::ClaimedBy(holder)) if account == *holder => {
            Ok(vec![Event::Released {
                account,
                at: cx.now,
            }])
        }
        // Given up already, and perhaps taken by somebody else since.
        (Command::Release { .. }, Email::Free | Email::ClaimedBy(_)) => Ok(vec![]),
    }
}
