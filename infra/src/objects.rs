//! The object store: an S3 endpoint and one bucket.

use crate::config;
use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Credentials, Region, retry::RetryConfig, timeout::TimeoutConfig},
    error::{DisplayErrorContext, SdkError},
};
use std::time::Duration;

/// The object store did not answer as it should.
#[derive(Debug, thiserror::Error)]
#[error("the object store at {endpoint} does not answer: {reason}")]
pub struct Error {
    /// Its base URL.
    pub endpoint: String,
    /// The whole chain of reasons.
    pub reason: String,
}

/// A client for the endpoint; it signs every request.
pub fn client(config: &config::ObjectStore) -> Client {
    let credentials = Credentials::new(
        config.access_key.as_str(),
        config.secret_key.expose(),
        None,
        None,
        "amaima",
    );
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(5))
        .operation_attempt_timeout(Duration::from_secs(30))
        .build();
    let settings = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(config.endpoint.as_str())
        .region(Region::new(config.region.clone()))
        .credentials_provider(credentials)
        .force_path_style(true)
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .build();
    Client::from_conf(settings)
}

/// Makes the bucket unless it is there, which also shows that the endpoint answers signed requests.
///
/// # Errors
/// When the endpoint does not answer, or refuses.
pub async fn ensure_bucket(config: &config::ObjectStore) -> Result<(), Error> {
    let client = client(config);
    let head = client.head_bucket().bucket(&config.bucket).send().await;
    let Err(SdkError::ServiceError(_)) = &head else {
        return head.map(|_| ()).map_err(|error| failed(config, &error));
    };
    client
        .create_bucket()
        .bucket(&config.bucket)
        .send()
        .await
        .map(|_| ())
        .map_err(|error| failed(config, &error))
}

fn failed<E>(config: &config::ObjectStore, error: &E) -> Error
where
    E: std::error::Error + 'static,
{
    Error {
        endpoint: config.endpoint.clone(),
        reason: DisplayErrorContext(error).to_string(),
    }
}
