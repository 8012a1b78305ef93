use super::{Account, Event, Profile};

pub(super) fn evolve(_: Account, event: &Event) -> Account {
    match event {
        Event::Registered {
            account,
            email,
            name,
            password_hash,
            tier,
            at,
        } => Account::Active(Profile {
            id: *account,
            email: email.clone(),
            name: name.clone(),
            password_hash: password_hash.clone(),
            tier: *tier,
            created_at: *at,
        }),
        Event::ErasureRequested { email, at, .. } => Account::Erasing {
            email: *email,
            since: *at,
        },
        Event::Erased { .. } => Account::Erased,
    }
}
