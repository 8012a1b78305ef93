//! Answers of the gateway, and what they mean to a client that writes down what it knows for sure.

use super::call::{Effect, Outcome, Shown, ShownQuery};
use domain::query::Status;
use reqwest::StatusCode;
use serde_json::Value;
use uuid::Uuid;

/// An answer.
pub struct Answer {
    pub status: StatusCode,
    pub token: Option<String>,
    pub body: Value,
}

/// What an answer to a command says; `effect` reads a success.
pub fn outcome(
    answer: &Result<Answer, String>,
    effect: impl FnOnce(&Answer) -> Option<Effect>,
) -> Outcome {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return Outcome::Unknown(error.clone()),
    };
    let told = || format!("{} {}", answer.status, answer.body);
    if answer.status.is_success() {
        let token = answer.token.as_deref().and_then(sequence);
        match effect(answer) {
            Some(effect) => Outcome::Accepted { effect, token },
            None => Outcome::Unknown(told()),
        }
    } else if answer.status.is_client_error() {
        Outcome::Refused(told())
    } else {
        Outcome::Unknown(told())
    }
}

/// What an answer to a read shows; what is not there is shown as such.
pub fn shown_by(
    answer: &Result<Answer, String>,
    shown: impl FnOnce(&Answer) -> Option<Shown>,
) -> Outcome {
    match answer {
        Err(error) => Outcome::Unknown(error.clone()),
        Ok(answer) => {
            let told = format!("{} {}", answer.status, answer.body);
            match answer.status {
                StatusCode::OK | StatusCode::NOT_FOUND => {
                    shown(answer).map_or(Outcome::Unknown(told), Outcome::Shown)
                }
                status if status.is_client_error() => Outcome::Refused(told),
                _ => Outcome::Unknown(told),
            }
        }
    }
}

/// An id in JSON.
pub fn id(value: &Value) -> Option<Uuid> {
    Uuid::try_parse(value.as_str()?).ok()
}

/// The sequence in `<epoch>-<sequence>`. Clients should not look; a checker may.
pub fn sequence(token: &str) -> Option<u64> {
    token.rsplit('-').next()?.parse().ok()
}

/// A query in JSON.
pub fn item(value: &Value) -> Option<ShownQuery> {
    Some(ShownQuery {
        query: id(&value["query_id"])?,
        status: Status::parse(value["status"].as_str()?)?,
        text: value["response_text"].as_str().map(str::to_owned),
    })
}
