//! Signing in and out (contract §3).

pub(crate) mod jwks;
pub(crate) mod login;
pub(crate) mod logout;
pub(crate) mod me;
pub(crate) mod refresh;
pub(crate) mod register;
pub(crate) mod sessions;

use crate::{app::App, edge::Call, tokens};
use axum::Json;
use domain::{
    limits,
    wire::{
        command::Outcome,
        error::{Detail, DetailKind, Failure},
        rest::User,
    },
};
use serde::Serialize;

/// Longest password that is looked at when signing in, in bytes.
pub(crate) const LOGIN_PASSWORD_BYTES: usize = 1024;

/// The answer to register, login and refresh.
#[derive(Debug, Serialize)]
pub(crate) struct TokenBody {
    access_token: String,
    refresh_token: String,
    token_type: &'static str,
    expires_in: i64,
    user: User,
}

fn token_body(app: &App, call: &Call, outcome: Outcome) -> Result<Json<TokenBody>, Failure> {
    let Outcome::SignedIn {
        user,
        session,
        refresh,
    } = outcome
    else {
        return Err(Failure::internal());
    };
    let owner = tokens::Refresh {
        user: user.id,
        session,
        refresh,
    };
    let pair = app
        .tokens
        .mint(owner, &call.request_id, infra::clock::now())?;
    Ok(Json(TokenBody {
        access_token: pair.access,
        refresh_token: pair.refresh,
        token_type: "Bearer",
        expires_in: limits::ACCESS_TOKEN_SECS,
        user,
    }))
}

/// What is wrong with an address; nothing if it is absent, which is noted elsewhere.
fn email_problem(email: &str) -> Option<Detail> {
    let parts: Vec<&str> = email.split('@').collect();
    let is_good = parts.len() == 2
        && parts.iter().all(|part| !part.is_empty())
        && !email.contains(|c: char| c.is_whitespace() || c.is_control());
    if email.len() > limits::EMAIL_BYTES {
        let rule = format!("Must have at most {} bytes", limits::EMAIL_BYTES);
        return Some(Detail::new("email", DetailKind::TooLarge, rule));
    }
    (!is_good && !email.is_empty()).then(|| {
        let rule = "Must be an e-mail address";
        Detail::new("email", DetailKind::InvalidFormat, rule)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_two_parts() {
        for good in ["a@b.c", "mia@example.com", "ä+x@localhost"] {
            assert_eq!(email_problem(good), None, "{good}");
        }
        for bad in ["a", "@b", "a@", "a@b@c", "a b@c", "a\u{7}@b"] {
            assert!(email_problem(bad).is_some(), "{bad}");
        }
        let long = format!("{}@b.c", "a".repeat(255));
        assert_eq!(email_problem(&long).unwrap().r#type, DetailKind::TooLarge);
    }
}
