//! A master key that never leaves AWS KMS, or another service that speaks its API: it wraps and
//! unwraps (`Encrypt`, `Decrypt`), with the person as encryption context, and keeps a record of it.
//!
//! A person's key is asked for once and then kept in memory, so that a restart costs one call for
//! each person who comes back, and folding a whole log one for each person in it.

use super::{
    Key,
    wrapper::{Failed, KeyWrapper},
};
use crate::config::{self, Secret};
use aws_sdk_kms::{
    Client,
    config::{BehaviorVersion, Credentials, Region, retry::RetryConfig, timeout::TimeoutConfig},
    error::{DisplayErrorContext, SdkError},
    operation::decrypt::DecryptError,
    primitives::Blob,
};
use domain::id::AccountId;
use futures_util::future::BoxFuture;
use std::{collections::HashMap, time::Duration};
use zeroize::Zeroizing;

/// How to reach the service.
#[derive(Clone, Debug)]
pub struct Config {
    /// Base URL; that of the region where it is not given.
    pub endpoint: Option<String>,
    /// The region.
    pub region: String,
    /// Access key.
    pub access_key: String,
    /// Secret key.
    pub secret_key: Secret,
    /// Of temporary credentials.
    pub session_token: Option<Secret>,
}

impl Config {
    /// `KMS_ACCESS_KEY` with `KMS_SECRET_KEY`, `KMS_REGION`, `KMS_SESSION_TOKEN` and
    /// `KMS_ENDPOINT`; `None` without an access key.
    ///
    /// # Errors
    /// When the access key stands without its secret.
    pub fn from_env() -> Result<Option<Self>, config::Error> {
        let given = |name| Some(config::text(name, "")).filter(|text| !text.is_empty());
        let Some(access_key) = given("KMS_ACCESS_KEY") else {
            return Ok(None);
        };
        let secret_key = given("KMS_SECRET_KEY").ok_or_else(|| config::Error {
            name: "KMS_SECRET_KEY",
            reason: "KMS_ACCESS_KEY is set and needs it".to_owned(),
        })?;
        Ok(Some(Self {
            endpoint: given("KMS_ENDPOINT"),
            region: config::text("KMS_REGION", "us-east-1"),
            access_key,
            secret_key: Secret::new(secret_key),
            session_token: given("KMS_SESSION_TOKEN").map(Secret::new),
        }))
    }
}

/// One master key there.
#[derive(Debug)]
pub(super) struct Kms {
    client: Client,
    /// Its id, alias or ARN.
    key: String,
}

impl Kms {
    pub(super) fn new(config: &Config, key: &str) -> Self {
        let token = config.session_token.as_ref();
        let credentials = Credentials::new(
            config.access_key.as_str(),
            config.secret_key.expose(),
            token.map(|token| token.expose().to_owned()),
            None,
            "amaima",
        );
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(3))
            .operation_attempt_timeout(Duration::from_secs(5))
            .build();
        let mut settings = aws_sdk_kms::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(config.region.clone()))
            .credentials_provider(credentials)
            // The service turns callers away that are too many: the client slows down then.
            .retry_config(RetryConfig::adaptive().with_max_attempts(4))
            .timeout_config(timeouts);
        if let Some(endpoint) = &config.endpoint {
            settings = settings.endpoint_url(endpoint);
        }
        Self {
            client: Client::from_conf(settings.build()),
            key: key.to_owned(),
        }
    }
}

fn context(person: AccountId) -> HashMap<String, String> {
    HashMap::from([("amaima-person".to_owned(), person.to_string())])
}

fn failed<E: std::error::Error + 'static>(error: E) -> Failed {
    Failed::Service(DisplayErrorContext(&error).to_string())
}

impl KeyWrapper for Kms {
    fn wrap<'a>(
        &'a self,
        person: AccountId,
        key: &'a Key,
    ) -> BoxFuture<'a, Result<Vec<u8>, Failed>> {
        let request = self
            .client
            .encrypt()
            .key_id(&self.key)
            .set_encryption_context(Some(context(person)))
            .plaintext(Blob::new(key.expose()));
        Box::pin(async move {
            let answer = request.send().await.map_err(failed)?;
            let wrapped = answer.ciphertext_blob.map(Blob::into_inner);
            wrapped.ok_or_else(|| Failed::Service("no ciphertext".to_owned()))
        })
    }

    fn unwrap<'a>(
        &'a self,
        person: AccountId,
        wrapped: &'a [u8],
    ) -> BoxFuture<'a, Result<Key, Failed>> {
        let request = self
            .client
            .decrypt()
            .key_id(&self.key)
            .set_encryption_context(Some(context(person)))
            .ciphertext_blob(Blob::new(wrapped));
        Box::pin(async move {
            let answer = request.send().await.map_err(|error| match &error {
                SdkError::ServiceError(refused) if is_another(refused.err()) => Failed::Not,
                _ => failed(error),
            })?;
            let key = answer.plaintext.map(Blob::into_inner).map(Zeroizing::new);
            key.and_then(|key| Key::of(&key)).ok_or(Failed::Not)
        })
    }
}

/// Whether the service says that it is not what was wrapped.
fn is_another(error: &DecryptError) -> bool {
    error.is_invalid_ciphertext_exception() || error.is_incorrect_key_exception()
}
