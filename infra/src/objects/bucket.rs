use super::{Error, Listed};
use crate::config;
use aws_sdk_s3::{
    Client,
    config::{
        BehaviorVersion, Credentials, Region, ResponseChecksumValidation, retry::RetryConfig,
        timeout::TimeoutConfig,
    },
    error::{DisplayErrorContext, SdkError},
    primitives::ByteStream,
};
use bytes::Bytes;
use std::{ops::Range, time::Duration};

/// One bucket at an S3 endpoint. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Bucket {
    client: Client,
    name: String,
    endpoint: String,
}

/// What must be so for an object to be written.
#[derive(Clone, Copy, Debug)]
pub enum If<'a> {
    /// Nothing.
    Any,
    /// There is none of this key.
    Absent,
    /// It is still of this version.
    Version(&'a str),
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
        // Whoever reads checks hashes of our own, and says what exactly is wrong.
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
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
        return head
            .map(|_| ())
            .map_err(|error| failed(&config.endpoint, &error));
    };
    client
        .create_bucket()
        .bucket(&config.bucket)
        .send()
        .await
        .map(|_| ())
        .map_err(|error| failed(&config.endpoint, &error))
}

impl Bucket {
    /// The bucket that the configuration names.
    pub fn new(config: &config::ObjectStore) -> Self {
        Self {
            client: client(config),
            name: config.bucket.clone(),
            endpoint: config.endpoint.clone(),
        }
    }

    /// The object and its version, or `None` where there is none.
    ///
    /// # Errors
    /// When that cannot be said now.
    pub async fn get(&self, key: &str) -> Result<Option<(Bytes, String)>, Error> {
        self.fetch(key, None).await
    }

    pub(super) async fn get_range(
        &self,
        key: &str,
        range: Range<u64>,
    ) -> Result<Option<Bytes>, Error> {
        let found = self.fetch(key, Some(range.clone())).await?;
        let whole = |bytes: &Bytes| bytes.len() as u64 == range.end - range.start;
        Ok(found.map(|(bytes, _)| bytes).filter(whole))
    }

    async fn fetch(
        &self,
        key: &str,
        range: Option<Range<u64>>,
    ) -> Result<Option<(Bytes, String)>, Error> {
        let range = range.map(|range| format!("bytes={}-{}", range.start, range.end - 1));
        let get = self.client.get_object().bucket(&self.name).key(key);
        let found = match get.set_range(range).send().await {
            Ok(found) => found,
            // No such key, or such a range lies outside of it.
            Err(error) if matches!(status(&error), Some(404 | 416)) => return Ok(None),
            Err(error) => return Err(failed(&self.endpoint, &error)),
        };
        let version = found.e_tag.unwrap_or_default();
        let body = found.body.collect().await;
        let body = body.map_err(|error| failed(&self.endpoint, &error))?;
        Ok(Some((body.into_bytes(), version)))
    }

    /// Writes an object and answers with its version, or `None` where the condition does not hold:
    /// then nothing has changed.
    ///
    /// # Errors
    /// When it may or may not have been written.
    pub async fn put(
        &self,
        key: &str,
        bytes: Bytes,
        condition: If<'_>,
    ) -> Result<Option<String>, Error> {
        let put = self.client.put_object().bucket(&self.name).key(key);
        let put = match condition {
            If::Any => put,
            If::Absent => put.if_none_match("*"),
            If::Version(version) => put.if_match(version),
        };
        match put.body(ByteStream::from(bytes)).send().await {
            Ok(written) => Ok(Some(written.e_tag.unwrap_or_default())),
            Err(error) => match (condition, status(&error)) {
                // 409: another conditional write of this key is under way.
                (If::Absent | If::Version(_), Some(409 | 412)) => Ok(None),
                // What should be replaced is not there.
                (If::Version(_), Some(404)) => Ok(None),
                _ => Err(failed(&self.endpoint, &error)),
            },
        }
    }

    pub(super) async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Listed>, Error> {
        let list = self.client.list_objects_v2().bucket(&self.name);
        let after = (!after.is_empty()).then(|| after.to_owned());
        let found = list.prefix(prefix).set_start_after(after).send().await;
        let found = found.map_err(|error| failed(&self.endpoint, &error))?;
        let listed = found.contents.unwrap_or_default().into_iter();
        Ok(listed
            .filter_map(|object| {
                Some(Listed {
                    key: object.key?,
                    bytes: u64::try_from(object.size?).ok()?,
                })
            })
            .collect())
    }

    pub(super) fn describe(&self) -> String {
        format!("{}/{}", self.endpoint.trim_end_matches('/'), self.name)
    }
}

fn status<E>(error: &SdkError<E>) -> Option<u16> {
    Some(error.raw_response()?.status().as_u16())
}

fn failed<E>(endpoint: &str, error: &E) -> Error
where
    E: std::error::Error + 'static,
{
    Error::Endpoint {
        endpoint: endpoint.to_owned(),
        reason: DisplayErrorContext(error).to_string(),
    }
}
