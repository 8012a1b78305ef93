use super::{Email, Event};

pub(super) fn evolve(_: Email, event: &Event) -> Email {
    match event {
        Event::Claimed { account, .. } => Email::ClaimedBy(*account),
        Event::Released { .. } => Email::Free,
    }
}
