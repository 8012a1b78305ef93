use super::{ApiKeys, Command, Event};
use crate::{
    Actor, Context,
    id::{AccountId, ApiKeyId},
    limits,
};

/// Why an order about keys is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such key, or it is somebody else's.
    #[error("API key not found")]
    Unknown,
    /// The id belongs to another key, whose secret nobody knows any more.
    #[error("the API key {0} was made before")]
    MadeBefore(ApiKeyId),
    /// The person has as many as one may have.
    #[error("at most {} API keys", limits::API_KEYS)]
    TooMany,
}

pub(super) fn decide(
    keys: &ApiKeys,
    command: Command,
    cx: &Context,
) -> Result<Vec<Event>, Refused> {
    match command {
        Command::Create {
            account,
            key,
            name,
            secret_hash,
            scopes,
            expires_at,
        } => {
            demand(account, cx)?;
            match keys {
                ApiKeys::Erased => return Err(Refused::Unknown),
                ApiKeys::Absent => {}
                ApiKeys::Held(held) => {
                    demand(held.account, cx)?;
                    if let Some(known) = held.live.iter().find(|live| live.key == key) {
                        let is_a_repeat = known.secret_hash == secret_hash;
                        return if is_a_repeat {
                            Ok(vec![])
                        } else {
                            Err(Refused::MadeBefore(key))
                        };
                    }
                    if held.revoked.contains(&key) {
                        return Err(Refused::MadeBefore(key));
                    }
                    let live = held.live.iter().filter(|live| !live.is_expired(cx.now));
                    if live.count() >= limits::API_KEYS {
                        return Err(Refused::TooMany);
                    }
                }
            }
            Ok(vec![Event::Created {
                account,
                key,
                name,
                secret_hash,
                scopes,
                expires_at,
                at: cx.now,
            }])
        }
        Command::Revoke { key } => {
            let ApiKeys::Held(held) = keys else {
                return Err(Refused::Unknown);
            };
            demand(held.account, cx)?;
            if held.revoked.contains(&key) {
                return Ok(vec![]); // In effect already.
            }
            if !held.live.iter().any(|live| live.key == key) {
                return Err(Refused::Unknown);
            }
            Ok(vec![Event::Revoked {
                account: held.account,
                key,
                at: cx.now,
            }])
        }
    }
}

/// Keys are made and revoked by the person alone.
fn demand(account: AccountId, cx: &Context) -> Result<(), Refused> {
    if cx.actor == Actor::User(account) {
        Ok(())
    } else {
        Err(Refused::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::SecretHash, *};
    use crate::{Aggregate, Timestamp, id::CommandId};
    use std::collections::BTreeSet;
    use uuid::Uuid;

    const MIA: AccountId = AccountId::new(Uuid::from_u128(1));

    fn key(n: u128) -> ApiKeyId {
        ApiKeyId::new(Uuid::from_u128(n))
    }

    fn create(n: u128, secret: &str, expires_at: Option<i64>) -> Command {
        Command::Create {
            account: MIA,
            key: key(n),
            name: "ci".into(),
            secret_hash: SecretHash::of(secret),
            scopes: BTreeSet::new(),
            expires_at: expires_at.map(Timestamp::from_millis),
        }
    }

    fn give(
        keys: &mut ApiKeys,
        command: Command,
        by: AccountId,
        at: i64,
    ) -> Result<usize, Refused> {
        let cx = Context {
            now: Timestamp::from_millis(at),
            actor: Actor::User(by),
            command_id: CommandId::new(Uuid::from_u128(9)),
        };
        let events = keys.decide(command, &cx)?;
        *keys = events.iter().fold(keys.clone(), ApiKeys::evolve);
        Ok(events.len())
    }

    #[test]
    fn a_key_is_made_once_and_revoked_for_ever() {
        let mut keys = ApiKeys::default();
        let mut mia = |command| give(&mut keys, command, MIA, 0);
        assert_eq!(mia(Command::Revoke { key: key(1) }), Err(Refused::Unknown));
        assert_eq!(mia(create(1, "a", None)), Ok(1));
        assert_eq!(mia(create(1, "a", None)), Ok(0));
        let before = Err(Refused::MadeBefore(key(1)));
        assert_eq!(mia(create(1, "b", None)), before);
        assert_eq!(mia(Command::Revoke { key: key(2) }), Err(Refused::Unknown));
        assert_eq!(mia(Command::Revoke { key: key(1) }), Ok(1));
        assert_eq!(mia(Command::Revoke { key: key(1) }), Ok(0));
        assert_eq!(mia(create(1, "a", None)), before);
    }

    #[test]
    fn there_are_not_too_many_and_expired_ones_do_not_count() {
        let mut keys = ApiKeys::default();
        for n in 0..limits::API_KEYS as u128 {
            let end = (n == 0).then_some(1_000);
            assert_eq!(give(&mut keys, create(n, "a", end), MIA, 0), Ok(1));
        }
        let one_more = create(1_000, "a", None);
        let too_many = Err(Refused::TooMany);
        assert_eq!(give(&mut keys, one_more.clone(), MIA, 999), too_many);
        assert_eq!(give(&mut keys, one_more, MIA, 1_000), Ok(1));
        let ApiKeys::Held(held) = &keys else {
            panic!("{keys:?}")
        };
        assert_eq!(held.live.len(), limits::API_KEYS);
        let many = limits::REVOKED_API_KEYS as u128 + 1;
        for n in 2_000..2_000 + many {
            give(&mut keys, Command::Revoke { key: key(1_000) }, MIA, 2_000).ok();
            give(&mut keys, create(n, "a", None), MIA, 2_000).unwrap();
            give(&mut keys, Command::Revoke { key: key(n) }, MIA, 2_000).unwrap();
        }
        let ApiKeys::Held(held) = &keys else {
            panic!("{keys:?}")
        };
        assert_eq!(held.revoked.len(), limits::REVOKED_API_KEYS);
    }

    #[test]
    fn nobody_else_makes_or_revokes_them() {
        let ben = AccountId::new(Uuid::from_u128(2));
        let mut keys = ApiKeys::default();
        let unknown = Err(Refused::Unknown);
        assert_eq!(give(&mut keys, create(1, "a", None), ben, 0), unknown);
        give(&mut keys, create(1, "a", None), MIA, 0).unwrap();
        let revoke = Command::Revoke { key: key(1) };
        assert_eq!(give(&mut keys, revoke.clone(), ben, 0), unknown);
        let mut keys = keys.erased();
        assert_eq!(give(&mut keys, create(1, "a", None), MIA, 0), unknown);
        assert_eq!(give(&mut keys, revoke, MIA, 0), unknown);
    }
}
