//! The key that signs tokens.

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rsa::{KeyPair, KeySize},
};
use base64::{Engine, engine::general_purpose};
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey,
    jwk::{AlgorithmParameters, Jwk, ThumbprintHash},
};
use serde::Serialize;

/// Smallest modulus in bytes.
const MODULUS_BYTES: usize = 256;

/// The key cannot sign tokens.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not the PEM of an RSA private key.
    #[error("the signing key must be the PEM of an RSA private key (PKCS#8 or PKCS#1)")]
    NotAnRsaKey(#[source] jsonwebtoken::errors::Error),
    /// Too short.
    #[error("the signing key has {bits} bits, at least 2048 are needed")]
    TooShort {
        /// Bits of its modulus.
        bits: usize,
    },
    /// None could be made.
    #[error("no RSA key could be generated")]
    Generation,
}

/// A checked signing key.
#[derive(Clone)]
pub struct Keys {
    pub(crate) signing: EncodingKey,
    pub(crate) verifying: DecodingKey,
    /// RFC 7638 thumbprint: the `kid`.
    pub(crate) id: String,
    pub(crate) set: KeySet,
}

/// A JSON Web Key Set (RFC 7517).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeySet {
    keys: Vec<PublicKey>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct PublicKey {
    kty: &'static str,
    kid: String,
    r#use: &'static str,
    alg: &'static str,
    n: String,
    e: String,
}

impl Keys {
    /// Reads a private key.
    ///
    /// # Errors
    /// When it is no RSA private key of at least 2048 bits.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let signing = EncodingKey::from_rsa_pem(pem.as_bytes()).map_err(Error::NotAnRsaKey)?;
        let jwk = Jwk::from_encoding_key(&signing, Algorithm::RS256).map_err(Error::NotAnRsaKey)?;
        let not_rsa =
            || Error::NotAnRsaKey(jsonwebtoken::errors::ErrorKind::InvalidKeyFormat.into());
        let AlgorithmParameters::RSA(public) = &jwk.algorithm else {
            return Err(not_rsa());
        };
        let modulus = general_purpose::URL_SAFE_NO_PAD
            .decode(&public.n)
            .map_err(|_| not_rsa())?;
        if modulus.len() < MODULUS_BYTES {
            let bits = modulus.len() * 8;
            return Err(Error::TooShort { bits });
        }
        let id = jwk
            .thumbprint(ThumbprintHash::SHA256)
            .map_err(Error::NotAnRsaKey)?;
        let verifying =
            DecodingKey::from_rsa_components(&public.n, &public.e).map_err(Error::NotAnRsaKey)?;
        jsonwebtoken::crypto::sign(b"probe", &signing, Algorithm::RS256)
            .map_err(Error::NotAnRsaKey)?;
        let set = KeySet {
            keys: vec![PublicKey {
                kty: "RSA",
                kid: id.clone(),
                r#use: "sig",
                alg: "RS256",
                n: public.n.clone(),
                e: public.e.clone(),
            }],
        };
        Ok(Self {
            signing,
            verifying,
            id,
            set,
        })
    }
}

/// A fresh RSA key of 2048 bits as PKCS#8 PEM, for development.
///
/// # Errors
/// When the system gives no randomness.
pub fn generate_pem() -> Result<String, Error> {
    let key = KeyPair::generate(KeySize::Rsa2048).map_err(|_| Error::Generation)?;
    let der: Pkcs8V1Der<'_> = key.as_der().map_err(|_| Error::Generation)?;
    Ok(to_pem(der.as_ref()))
}

fn to_pem(pkcs8: &[u8]) -> String {
    let text = general_purpose::STANDARD.encode(pkcs8);
    let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_is_accepted_and_nothing_else_is() {
        let pem = generate_pem().unwrap();
        let keys = Keys::from_pem(&pem).unwrap();
        let set = serde_json::to_value(&keys.set).unwrap();
        assert_eq!(set["keys"][0]["e"], "AQAB");
        assert_eq!(set["keys"][0]["kid"], keys.id);
        let random = aws_lc_rs::rand::SystemRandom::new();
        let curve = &aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let key = aws_lc_rs::signature::EcdsaKeyPair::generate_pkcs8(curve, &random).unwrap();
        let elliptic = to_pem(key.as_ref());
        for wrong in ["", "secret", &elliptic, &pem[..400]] {
            assert!(Keys::from_pem(wrong).is_err(), "{wrong}");
        }
    }
}
