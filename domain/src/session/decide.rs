use super::{Command, Event, Open, Reason, Session};
use crate::{Actor, Context, id::RefreshId, limits};

/// Why a session refuses an order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such session, or it is somebody else's.
    #[error("unknown session")]
    Unknown,
    /// The id is in use.
    #[error("the session is already open")]
    AlreadyOpen,
    /// The session has ended, or the refresh id was superseded.
    #[error("Token has been revoked")]
    Revoked,
}

pub(super) fn decide(
    session: &Session,
    command: Command,
    cx: &Context,
) -> Result<Vec<Event>, Refused> {
    match (command, session) {
        (
            Command::Open {
                session,
                account,
                refresh,
                device_id,
                device_name,
            },
            Session::Absent,
        ) => Ok(vec![Event::Opened {
            session,
            account,
            refresh,
            device_id,
            device_name,
            at: cx.now,
        }]),
        (Command::Open { .. }, Session::Open(_) | Session::Revoked { .. } | Session::Erased) => {
            Err(Refused::AlreadyOpen)
        }
        (Command::Refresh { presented, next }, Session::Open(open)) => {
            refresh(open, presented, next, cx)
        }
        (Command::Refresh { .. }, Session::Revoked { .. }) => Err(Refused::Revoked),
        (Command::Revoke, Session::Open(open)) => {
            if cx.actor != Actor::User(open.account) {
                return Err(Refused::Unknown);
            }
            Ok(vec![revoked(open, Reason::Logout, cx)])
        }
        (Command::Revoke, Session::Revoked { account }) => {
            if cx.actor != Actor::User(*account) {
                return Err(Refused::Unknown);
            }
            Ok(vec![]) // Signing out twice is fine.
        }
        (Command::Refresh { .. } | Command::Revoke, Session::Absent | Session::Erased) => {
            Err(Refused::Unknown)
        }
    }
}

fn refresh(
    open: &Open,
    presented: RefreshId,
    next: RefreshId,
    cx: &Context,
) -> Result<Vec<Event>, Refused> {
    if presented == open.current {
        return Ok(vec![Event::Refreshed {
            session: open.session,
            superseded: presented,
            refresh: next,
            generation: open.generation + 1,
            at: cx.now,
        }]);
    }
    // Its signature was good, so an id that is not among the remembered ones is an older one.
    let superseded_at = open
        .superseded
        .iter()
        .find(|(id, _)| *id == presented)
        .map(|(_, at)| *at);
    match superseded_at {
        Some(at) if cx.now.millis_since(at) <= limits::REFRESH_REUSE_GRACE_MILLIS => {
            Err(Refused::Revoked)
        }
        Some(_) | None => Ok(vec![revoked(open, Reason::Reuse, cx)]),
    }
}

fn revoked(open: &Open, reason: Reason, cx: &Context) -> Event {
    Event::Revoked {
        session: open.session,
        account: open.account,
        reason,
        at: cx.now,
    }
}
