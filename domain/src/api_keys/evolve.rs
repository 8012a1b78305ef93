use super::{ApiKeys, Event, Held, Live};
use crate::{id::AccountId, limits};
use std::collections::VecDeque;

pub(super) fn evolve(state: ApiKeys, event: &Event) -> ApiKeys {
    match event {
        Event::Created {
            account,
            key,
            secret_hash,
            expires_at,
            at,
            ..
        } => {
            let mut held = held(state, *account);
            held.live.retain(|live| !live.is_expired(*at));
            held.live.push(Live {
                key: *key,
                secret_hash: secret_hash.clone(),
                expires_at: *expires_at,
            });
            ApiKeys::Held(held)
        }
        Event::Revoked { account, key, .. } => {
            let mut held = held(state, *account);
            held.live.retain(|live| live.key != *key);
            if held.revoked.len() == limits::REVOKED_API_KEYS {
                held.revoked.pop_front();
            }
            held.revoked.push_back(*key);
            ApiKeys::Held(held)
        }
    }
}

fn held(state: ApiKeys, account: AccountId) -> Held {
    match state {
        ApiKeys::Held(held) => held,
        ApiKeys::Absent | ApiKeys::Erased => Held {
            account,
            live: vec![],
            revoked: VecDeque::new(),
        },
    }
}
