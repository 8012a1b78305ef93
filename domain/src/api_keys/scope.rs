use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a key may be used for. There is none for the account itself: whoever finds a key must not
/// be able to make others, change the password, end sessions or erase the person.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum Scope {
    /// See all queries of the person and their answers.
    #[serde(rename = "queries:read")]
    QueriesRead,
    /// Ask, get the answer to that, and give a query up.
    #[serde(rename = "queries:write")]
    QueriesWrite,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::QueriesRead, Self::QueriesWrite];

    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueriesRead => "queries:read",
            Self::QueriesWrite => "queries:write",
        }
    }

    /// Reads what is written.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text)
    }
}
