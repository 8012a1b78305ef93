//! Access and refresh tokens: RS256 JSON Web Tokens (contract §2).

use crate::keys::Keys;
use domain::{
    Timestamp,
    id::{AccountId, RefreshId, SessionId},
    limits,
    wire::error::{Code, Failure},
};
use jsonwebtoken::{Algorithm, Header, Validation};
use serde::{Deserialize, Serialize};

/// How far a token's `iat` may lie in the future.
const LEEWAY_SECS: i64 = 30;

/// Mints and checks tokens.
#[derive(Clone)]
pub(crate) struct Tokens {
    keys: Keys,
    header: Header,
    validation: Validation,
}

/// An access token and its refresh token.
pub(crate) struct Pair {
    pub(crate) access: String,
    pub(crate) refresh: String,
}

/// What a good access token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) user: AccountId,
    pub(crate) session: SessionId,
}

/// What a good refresh token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refresh {
    pub(crate) user: AccountId,
    pub(crate) session: SessionId,
    pub(crate) refresh: RefreshId,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Claims {
    sub: AccountId,
    exp: i64,
    iat: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jti: Option<RefreshId>,
    r#type: String,
    sid: SessionId,
    rid: String,
}

impl Tokens {
    pub(crate) fn new(keys: Keys) -> Self {
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some(keys.id.clone());
        // `exp` is checked here, by our own clock and without leeway, after the signature.
        let mut validation = Validation::new(Algorithm::RS256);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        Self {
            keys,
            header,
            validation,
        }
    }

    pub(crate) fn key_set(&self) -> &crate::keys::KeySet {
        &self.keys.set
    }

    /// A pair for a session that was just opened or refreshed.
    ///
    /// # Errors
    /// When signing fails, of which nothing is revealed.
    pub(crate) fn mint(
        &self,
        owner: Refresh,
        request_id: &str,
        now: Timestamp,
    ) -> Result<Pair, Failure> {
        let sign = |kind: &str, life: i64, jti| {
            let claims = Claims {
                sub: owner.user,
                exp: now.as_secs() + life,
                iat: now.as_secs(),
                jti,
                r#type: kind.into(),
                sid: owner.session,
                rid: request_id.into(),
            };
            jsonwebtoken::encode(&self.header, &claims, &self.keys.signing).map_err(|error| {
                tracing::error!(%error, "a token could not be signed");
                Failure::internal()
            })
        };
        Ok(Pair {
            access: sign("access", limits::ACCESS_TOKEN_SECS, None)?,
            refresh: sign("refresh", limits::REFRESH_TOKEN_SECS, Some(owner.refresh))?,
        })
    }

    /// Checks an access token: signature, `exp`, `type`. Revocation is the caller's.
    ///
    /// # Errors
    /// What the client is told.
    pub(crate) fn access(&self, token: &str, now: Timestamp) -> Result<Access, Failure> {
        let claims = self.claims(token, now)?;
        live(&claims, now)?;
        expect_type(&claims, "access")?;
        Ok(Access {
            user: claims.sub,
            session: claims.sid,
        })
    }

    /// Checks a refresh token: signature, `exp`, `type`. Revocation is the caller's.
    ///
    /// # Errors
    /// What the client is told.
    pub(crate) fn refresh(&self, token: &str, now: Timestamp) -> Result<Refresh, Failure> {
        let claims = self.claims(token, now)?;
        live(&claims, now)?;
        refresh_of(&claims)
    }

    /// Checks a refresh token that may have expired: somebody wants to sign out.
    ///
    /// # Errors
    /// What the client is told.
    pub(crate) fn outdated_refresh(&self, token: &str, now: Timestamp) -> Result<Refresh, Failure> {
        refresh_of(&self.claims(token, now)?)
    }

    fn claims(&self, token: &str, now: Timestamp) -> Result<Claims, Failure> {
        let data = jsonwebtoken::decode::<Claims>(token, &self.keys.verifying, &self.validation)
            .map_err(|_| invalid("Invalid token"))?;
        // RFC 7515 §4.1.11: extensions that must be understood, of which there are none here.
        if data.header.crit.is_some() {
            return Err(invalid("Invalid token"));
        }
        if data.claims.iat > now.as_secs() + LEEWAY_SECS {
            return Err(invalid("Token was issued in the future"));
        }
        Ok(data.claims)
    }
}

pub(crate) fn invalid(message: &str) -> Failure {
    Failure::new(Code::AuthTokenInvalid, message)
}

pub(crate) fn revoked() -> Failure {
    invalid("Token has been revoked")
}

fn live(claims: &Claims, now: Timestamp) -> Result<(), Failure> {
    if claims.exp <= now.as_secs() {
        return Err(Failure::new(Code::AuthTokenExpired, "Token has expired"));
    }
    Ok(())
}

fn expect_type(claims: &Claims, expected: &str) -> Result<(), Failure> {
    if claims.r#type == expected {
        return Ok(());
    }
    let got: String = claims.r#type.chars().take(32).collect();
    Err(invalid(&format!(
        "Invalid token type. Expected {expected}, got {got}"
    )))
}

fn refresh_of(claims: &Claims) -> Result<Refresh, Failure> {
    expect_type(claims, "refresh")?;
    Ok(Refresh {
        user: claims.sub,
        session: claims.sid,
        refresh: claims.jti.ok_or_else(|| invalid("Invalid token"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use serde_json::json;
    use uuid::Uuid;

    const NOW: i64 = 1_741_079_700_000;

    fn tokens() -> &'static Tokens {
        static TOKENS: std::sync::OnceLock<Tokens> = std::sync::OnceLock::new();
        TOKENS.get_or_init(|| {
            let pem = crate::keys::generate_pem().unwrap();
            Tokens::new(Keys::from_pem(&pem).unwrap())
        })
    }

    fn owner() -> Refresh {
        Refresh {
            user: AccountId::new(Uuid::from_u128(1)),
            session: SessionId::new(Uuid::from_u128(2)),
            refresh: RefreshId::new(Uuid::from_u128(3)),
        }
    }

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_millis(NOW + secs * 1000)
    }

    fn code<T: std::fmt::Debug>(result: Result<T, Failure>) -> (Code, String) {
        let failure = result.unwrap_err();
        (failure.code, failure.message)
    }

    #[test]
    fn a_pair_is_good_until_it_expires_and_each_for_its_own_purpose() {
        let pair = tokens().mint(owner(), "req_1", at(0)).unwrap();
        let access = Access {
            user: owner().user,
            session: owner().session,
        };
        assert_eq!(tokens().access(&pair.access, at(899)), Ok(access));
        let (expired, message) = code(tokens().access(&pair.access, at(900)));
        assert_eq!(expired, Code::AuthTokenExpired);
        assert_eq!(message, "Token has expired");
        assert_eq!(tokens().refresh(&pair.refresh, at(900)), Ok(owner()));
        let (wrong, message) = code(tokens().access(&pair.refresh, at(0)));
        assert_eq!(wrong, Code::AuthTokenInvalid);
        assert_eq!(message, "Invalid token type. Expected access, got refresh");
        assert!(tokens().refresh(&pair.refresh, at(2_592_000)).is_err());
        let outdated = tokens().outdated_refresh(&pair.refresh, at(2_592_000));
        assert_eq!(outdated, Ok(owner()));
        // Issued at most 30 s in the future.
        assert!(tokens().access(&pair.access, at(-30)).is_ok());
        assert!(tokens().access(&pair.access, at(-31)).is_err());
    }

    #[test]
    fn what_was_not_signed_by_us_with_rs256_is_refused() {
        let pair = tokens().mint(owner(), "req_1", at(0)).unwrap();
        let parts: Vec<&str> = pair.access.split('.').collect();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
        let hmac = Header::new(Algorithm::HS256);
        let secret = jsonwebtoken::EncodingKey::from_secret(tokens().keys.id.as_bytes());
        let by_hmac = jsonwebtoken::encode(&hmac, &json!({"sub": owner().user}), &secret).unwrap();
        let stranger = Tokens::new(Keys::from_pem(&crate::keys::generate_pem().unwrap()).unwrap());
        let strange = stranger.mint(owner(), "req_1", at(0)).unwrap().access;
        let forged = [
            String::new(),
            "garbage".into(),
            format!("{none}.{}.", parts[1]),
            format!("{}.{}.", parts[0], parts[1]),
            format!(
                "{}.{}.{}",
                parts[0],
                parts[1],
                &parts[2][..parts[2].len() - 4]
            ),
            by_hmac,
            strange,
        ];
        for token in forged {
            let (code, _) = code(tokens().access(&token, at(0)));
            assert_eq!(code, Code::AuthTokenInvalid, "{token}");
        }
    }

    #[test]
    fn every_claim_is_mandatory_and_critical_extensions_are_refused() {
        let whole = json!({
            "sub": owner().user, "exp": NOW / 1000 + 900, "iat": NOW / 1000, "type": "access",
            "sid": owner().session, "rid": "req_1",
        });
        let sign = |header: &Header, claims: &serde_json::Value| {
            jsonwebtoken::encode(header, claims, &tokens().keys.signing).unwrap()
        };
        let header = Header::new(Algorithm::RS256);
        assert!(tokens().access(&sign(&header, &whole), at(0)).is_ok());
        for claim in ["sub", "exp", "iat", "type", "sid"] {
            let mut partial = whole.clone();
            partial.as_object_mut().unwrap().remove(claim);
            let token = sign(&header, &partial);
            assert!(tokens().access(&token, at(0)).is_err(), "{claim}");
        }
        let mut critical = header;
        critical.crit = Some(vec!["exp".into()]);
        assert!(tokens().access(&sign(&critical, &whole), at(0)).is_err());
    }
}
