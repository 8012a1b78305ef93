//! Identities: UUIDs with a meaning, parsed at the edge.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Namespace of every id that is derived from something else; fixed for ever.
const NAMESPACE: Uuid = Uuid::from_u128(0x6f0c_2a52_94b1_4a5e_9d0e_5b7d_a3a1_c0de);

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
        )]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Wraps a UUID.
            pub const fn new(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The same id for the same parts, on every machine and for ever (UUID version 5).
            /// Parts are length-prefixed, so that no two lists of parts meet by accident.
            pub fn derived(parts: &[&str]) -> Self {
                let mut name = String::from(stringify!($name));
                for part in parts {
                    name.push_str(&format!("|{}:{part}", part.len()));
                }
                Self(Uuid::new_v5(&NAMESPACE, name.as_bytes()))
            }

            /// The UUID itself.
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::try_parse(text).map(Self)
            }
        }
    )*};
}

ids! {
    /// A person's account (`user_id` on the wire).
    AccountId;
    /// The claim on an e-mail address; derived from the folded address.
    EmailId;
    /// One device session (`sid`).
    SessionId;
    /// One refresh token (`jti`).
    RefreshId;
    /// One query.
    QueryId;
    /// One API key.
    ApiKeyId;
    /// One command; every retry of it carries the same.
    CommandId;
}

impl EmailId {
    /// The claim on `email`, whose letters' case does not matter.
    pub fn of(email: &str) -> Self {
        Self::derived(&[&fold_email(email)])
    }
}

/// The form in which addresses are compared: no surrounding blanks, lower case.
pub fn fold_email(email: &str) -> String {
    email.trim().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_ids_never_change() {
        let id = QueryId::derived(&["3f2c", "key"]);
        assert_eq!(id, QueryId::derived(&["3f2c", "key"]));
        assert_ne!(id, QueryId::derived(&["3f2", "ckey"]));
        assert_ne!(id.uuid(), CommandId::derived(&["3f2c", "key"]).uuid());
        assert_eq!(
            EmailId::of(" Mia@Example.com ").to_string(),
            EmailId::of("mia@example.com").to_string()
        );
    }
}
