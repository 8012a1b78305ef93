//! Who calls: the bearer token of a request, an access token or an API key.
//!
//! Which extractor an endpoint takes says who may use it: [`Identity`] for persons who have signed
//! in, [`Caller`] for API keys as well, and for which.

use super::Error;
use crate::{
    api_keys::{self, text},
    app::App,
    edge::Call,
    tokens,
};
use axum::extract::FromRequestParts;
use domain::{
    api_keys::Scope,
    id::{AccountId, SessionId},
    wire::error::{Code, Failure},
};
use http::{HeaderMap, header, request::Parts};
use std::marker::PhantomData;

/// A person who has signed in. As an extractor it refuses everybody else, API keys included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) user: AccountId,
    pub(crate) session: SessionId,
}

impl Identity {
    /// Checks an access token: signature, `exp`, `type`, revocation.
    ///
    /// # Errors
    /// What the client is told.
    pub(crate) fn of_token(app: &App, token: &str) -> Result<Self, Failure> {
        let access = app.tokens.access(token, infra::clock::now())?;
        // Until the list of revocations has been read once, a revoked token would pass.
        if !app.revocations.is_synced() {
            return Err(Failure::unavailable());
        }
        if app.revocations.is_revoked(access.session.uuid()) {
            return Err(tokens::revoked());
        }
        demand_person(app, access.user)?;
        Ok(Self {
            user: access.user,
            session: access.session,
        })
    }

    pub(crate) fn is_revoked(self, app: &App) -> bool {
        app.revocations.is_revoked(self.session.uuid())
            || app.revocations.is_revoked(self.user.uuid())
    }
}

/// Refuses tokens of persons who are being erased or are erased: all are revoked by the account's id.
///
/// # Errors
/// What the client is told.
pub(crate) fn demand_person(app: &App, user: AccountId) -> Result<(), Failure> {
    if app.revocations.is_revoked(user.uuid()) {
        return Err(Failure::new(
            Code::AuthUserNotFound,
            "User not found or inactive",
        ));
    }
    Ok(())
}

impl FromRequestParts<App> for Identity {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Error> {
        let token = demand_bearer(&parts.headers)?;
        if token.starts_with(text::PREFIX) {
            let message = "An API key may not do this: sign in";
            return Err(Error::new(Code::AuthPermissionDenied, message));
        }
        Ok(Self::of_token(app, token)?)
    }
}

/// Whoever may do something: a person who has signed in, or an API key that was made for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller<P> {
    pub(crate) user: AccountId,
    purpose: PhantomData<P>,
}

/// What an API key may be used for.
pub(crate) trait Purpose: Send {
    /// The scope that it takes; `None` for what any key may do.
    const SCOPE: Option<Scope>;
}

/// Seeing queries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reads;

/// Asking, and giving queries up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writes;

/// What tells nothing about the person.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keyed;

impl Purpose for Reads {
    const SCOPE: Option<Scope> = Some(Scope::QueriesRead);
}

impl Purpose for Writes {
    const SCOPE: Option<Scope> = Some(Scope::QueriesWrite);
}

impl Purpose for Keyed {
    const SCOPE: Option<Scope> = None;
}

impl<P: Purpose> FromRequestParts<App> for Caller<P> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Error> {
        let token = demand_bearer(&parts.headers)?;
        let user = if token.starts_with(text::PREFIX) {
            let call = parts.extensions.get::<Call>().cloned().unwrap_or_default();
            api_keys::check(app, &call, token, P::SCOPE).await?
        } else {
            Identity::of_token(app, token)?.user
        };
        Ok(Self {
            user,
            purpose: PhantomData,
        })
    }
}

fn demand_bearer(headers: &HeaderMap) -> Result<&str, Failure> {
    bearer(headers).ok_or_else(|| tokens::invalid("Authorization header is missing or malformed"))
}

/// The token of an `Authorization: Bearer` header.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn only_a_bearer_header_has_a_token() {
        let of = |text| {
            let headers =
                HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(text))]);
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(of("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(of("bearer  abc").as_deref(), Some("abc"));
        assert_eq!(of("Basic abc"), None);
        assert_eq!(of("Bearer "), None);
        assert_eq!(of("abc"), None);
    }
}
