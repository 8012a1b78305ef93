use super::{Event, Open, Session};
use crate::limits;
use std::collections::VecDeque;

pub(super) fn evolve(state: Session, event: &Event) -> Session {
    match event {
        Event::Opened {
            session,
            account,
            refresh,
            ..
        } => Session::Open(Open {
            session: *session,
            account: *account,
            current: *refresh,
            generation: 0,
            superseded: VecDeque::new(),
        }),
        Event::Refreshed {
            superseded,
            refresh,
            generation,
            at,
            ..
        } => match state {
            Session::Open(mut open) => {
                if open.superseded.len() == limits::SUPERSEDED_REFRESH_IDS {
                    open.superseded.pop_front();
                }
                open.superseded.push_back((*superseded, *at));
                open.current = *refresh;
                open.generation = *generation;
                Session::Open(open)
            }
            Session::Absent | Session::Revoked { .. } | Session::Erased => state,
        },
        Event::Revoked { account, .. } => Session::Revoked { account: *account },
    }
}
