//! Commands on the bus: what the gateway and the workers send to command-svc, and its answers.
//!
//! A sender repeats a command with the same id until it gets an answer; the answer to a repeat is
//! the answer to the first.

use crate::{
    Actor, Fingerprint, Timestamp,
    api_keys::{Scope, SecretHash},
    id::{AccountId, ApiKeyId, CommandId, EmailId, QueryId, RefreshId, SessionId},
    query::{Answer, Status, Submission},
    subject::Kind,
    wire::{
        error::{Code, Failure},
        rest::User,
    },
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A command with what belongs to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// The same for every retry.
    pub id: CommandId,
    /// Who gives it.
    pub actor: Actor,
    /// The request that it belongs to.
    pub request_id: String,
    /// W3C Trace Context, if the caller has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// After this instant nobody waits for the answer any more.
    pub deadline: Timestamp,
    /// What it says, where the client gave an idempotency key: a repeat must say the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Fingerprint>,
    /// The command.
    pub body: Body,
}

/// The commands.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Body {
    /// Make an account and sign in.
    Register {
        /// Address as written, checked.
        email: String,
        /// Display name.
        name: String,
        /// The password, checked; never logged and never stored.
        password: String,
    },
    /// Sign in.
    Login {
        /// Address as written.
        email: String,
        /// The password; never logged and never stored.
        password: String,
        /// The device's own id.
        device_id: Option<String>,
        /// The device's name.
        device_name: Option<String>,
    },
    /// Exchange a refresh token whose signature is good.
    Refresh {
        /// `sid` of the token.
        session: SessionId,
        /// `jti` of the token.
        refresh: RefreshId,
    },
    /// Sign out.
    Logout {
        /// `sid` of the token.
        session: SessionId,
    },
    /// Forget a person.
    EraseAccount {
        /// Whose account it is.
        account: AccountId,
        /// The password, if the person wants it; never logged and never stored.
        password: Option<String>,
    },
    /// Everything about a person is forgotten but what the log has to keep.
    FinishErasure {
        /// Whose account it was.
        account: AccountId,
        /// The claim on its address.
        email: EmailId,
    },
    /// Make an API key for whoever gives the command.
    CreateApiKey {
        /// Its id.
        key: ApiKeyId,
        /// What the person calls it, checked.
        name: String,
        /// The hash of the whole key, which is shown once and stored nowhere.
        secret_hash: SecretHash,
        /// What it may be used for.
        scopes: BTreeSet<Scope>,
        /// From when on it is worthless.
        expires_at: Option<Timestamp>,
    },
    /// Make an API key of whoever gives the command worthless.
    RevokeApiKey {
        /// Which.
        key: ApiKeyId,
    },
    /// Ask.
    SubmitQuery {
        /// The query's id: the client's own, derived from a key or a reference, or fresh.
        query: QueryId,
        /// Whether the id came from the client, by itself, a key or a reference. Only then is an
        /// identical question another query.
        named: bool,
        /// Which way it came.
        via: Via,
        /// What is asked, checked and trimmed.
        submission: Submission,
    },
    /// A worker takes a query.
    StartQuery {
        /// The query.
        query: QueryId,
        /// The model that will answer.
        model: String,
    },
    /// A worker has the answer.
    CompleteQuery {
        /// The query.
        query: QueryId,
        /// The answer.
        answer: Answer,
    },
    /// A worker gives up.
    FailQuery {
        /// The query.
        query: QueryId,
        /// What the client is told.
        code: Code,
        /// In words that may be shown to the client.
        message: String,
    },
    /// The owner wants no answer any more.
    CancelQuery {
        /// The query.
        query: QueryId,
    },
}

/// Which way a query came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// `POST /v1/query`.
    Rest,
    /// `submit_query` on a socket.
    Socket,
    /// `POST /v1/chat/completions`, where equal questions are always different queries.
    Completions,
}

impl Body {
    /// The names of all commands.
    pub const NAMES: [&'static str; 13] = [
        "register",
        "login",
        "refresh",
        "logout",
        "erase_account",
        "finish_erasure",
        "create_api_key",
        "revoke_api_key",
        "submit_query",
        "start_query",
        "complete_query",
        "fail_query",
        "cancel_query",
    ];

    /// Its name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Register { .. } => "register",
            Self::Login { .. } => "login",
            Self::Refresh { .. } => "refresh",
            Self::Logout { .. } => "logout",
            Self::EraseAccount { .. } => "erase_account",
            Self::FinishErasure { .. } => "finish_erasure",
            Self::CreateApiKey { .. } => "create_api_key",
            Self::RevokeApiKey { .. } => "revoke_api_key",
            Self::SubmitQuery { .. } => "submit_query",
            Self::StartQuery { .. } => "start_query",
            Self::CompleteQuery { .. } => "complete_query",
            Self::FailQuery { .. } => "fail_query",
            Self::CancelQuery { .. } => "cancel_query",
        }
    }

    /// The kind of aggregate that it is sent to: the last token of its subject.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Register { .. }
            | Self::Login { .. }
            | Self::EraseAccount { .. }
            | Self::FinishErasure { .. } => Kind::Account,
            Self::Refresh { .. } | Self::Logout { .. } => Kind::Session,
            Self::CreateApiKey { .. } | Self::RevokeApiKey { .. } => Kind::ApiKeys,
            Self::SubmitQuery { .. }
            | Self::StartQuery { .. }
            | Self::CompleteQuery { .. }
            | Self::FailQuery { .. }
            | Self::CancelQuery { .. } => Kind::Query,
        }
    }
}

impl Body {
    /// What it says, without secrets. The context of a question is left out: clients note there
    /// where they come from, which may change from one attempt to the next.
    pub fn fingerprint(&self, key: &str) -> Fingerprint {
        let mut parts = vec![self.name()];
        let ids: [String; 2];
        let options;
        match self {
            Self::Register { email, name, .. } => parts.extend([email, name].map(String::as_str)),
            Self::Login {
                email,
                device_id,
                device_name,
                ..
            } => {
                parts.push(email);
                for text in [device_id, device_name] {
                    // An absent one differs from an empty one.
                    parts.extend(text.as_deref().map_or(["-", ""], |text| ["+", text]));
                }
            }
            Self::Refresh { session, refresh } => {
                ids = [session.to_string(), refresh.to_string()];
                parts.extend(ids.iter().map(String::as_str));
            }
            Self::Logout { session } => {
                ids = [session.to_string(), String::new()];
                parts.push(&ids[0]);
            }
            Self::EraseAccount { account, .. } | Self::FinishErasure { account, .. } => {
                ids = [account.to_string(), String::new()];
                parts.push(&ids[0]);
            }
            Self::SubmitQuery { submission, .. } => {
                parts.extend([&submission.text, &submission.operation].map(String::as_str));
                parts.extend(submission.file_ids.iter().map(String::as_str));
                if let Some(wanted) = &submission.options {
                    options = serde_json::to_string(wanted).unwrap_or_default();
                    parts.extend(["options", &options]);
                }
            }
            // Its secret is another one with each attempt.
            Self::CreateApiKey {
                name,
                scopes,
                expires_at,
                ..
            } => {
                parts.push(name);
                parts.extend(scopes.iter().map(|scope| scope.as_str()));
                if let Some(end) = expires_at {
                    ids = [end.to_string(), String::new()];
                    parts.extend(["until", &ids[0]]);
                }
            }
            Self::RevokeApiKey { key } => {
                ids = [key.to_string(), String::new()];
                parts.push(&ids[0]);
            }
            Self::StartQuery { query, .. }
            | Self::CompleteQuery { query, .. }
            | Self::FailQuery { query, .. }
            | Self::CancelQuery { query } => {
                ids = [query.to_string(), String::new()];
                parts.push(&ids[0]);
            }
        }
        Fingerprint::of(key, parts)
    }
}

/// Without its contents: they may hold a password or a person's words.
impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The answer to a command.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Reply {
    /// It is in the log.
    Accepted {
        /// Sequence in the log that a read must reflect to show its effect.
        seq: u64,
        /// What came of it.
        outcome: Outcome,
    },
    /// It breaks a rule; a repeat would break it again.
    Refused {
        /// What the client is told.
        failure: Failure,
    },
    /// It could not be decided; a repeat with the same id may succeed.
    Unavailable,
    /// There is too much to do already; it was not looked at. A repeat with the same id may
    /// succeed, but not at once.
    Overloaded {
        /// How long to wait first.
        retry_after_ms: u32,
    },
}

/// What came of an accepted command.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Somebody is signed in: after register, login and refresh.
    SignedIn {
        /// Who.
        user: User,
        /// `sid`.
        session: SessionId,
        /// `jti` of the refresh token.
        refresh: RefreshId,
    },
    /// Somebody is signed out.
    SignedOut,
    /// A person is being forgotten.
    Erasing {
        /// Since when.
        since: Timestamp,
    },
    /// A person is forgotten.
    Erased,
    /// An API key is there, or is worthless.
    ApiKey {
        /// Which.
        key: ApiKeyId,
    },
    /// A query is known.
    Query {
        /// Its id, which is another one than sent if an identical query was found.
        query: QueryId,
        /// Who asked.
        owner: AccountId,
        /// How far it is.
        status: Status,
        /// Whether the query had been submitted before.
        repeated: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(email: &str, password: &str, device_id: Option<&str>) -> Body {
        Body::Login {
            email: email.into(),
            password: password.into(),
            device_id: device_id.map(str::to_owned),
            device_name: None,
        }
    }

    #[test]
    fn a_fingerprint_tells_bodies_apart_but_for_secrets() {
        let print = |body: &Body| body.fingerprint("k1");
        let one = login("a@b.c", "password123", None);
        assert_eq!(print(&one), print(&login("a@b.c", "password124", None)));
        assert_ne!(print(&one), print(&login("a@b.d", "password123", None)));
        assert_ne!(print(&one), print(&login("a@b.c", "password123", Some(""))));
        let session = SessionId::new(uuid::Uuid::from_u128(1));
        assert_ne!(print(&Body::Logout { session }), print(&one));
    }

    #[test]
    fn secrets_are_not_printed() {
        let body = login("mia@example.com", "password123", None);
        assert_eq!(format!("{body:?}"), "login");
        let json = serde_json::to_value(&body).unwrap();
        assert_eq!(json["command"], body.name());
        assert!(matches!(
            serde_json::from_value(json),
            Ok(Body::Login { .. })
        ));
    }
}
