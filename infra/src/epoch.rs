//! Which log this is: the instant at which its stream was made.

use async_nats::jetstream::{self, context::GetStreamError, stream::InfoError};
use domain::{subject, wire::consistency::Epoch};

/// The server does not tell of the log.
#[derive(Debug, thiserror::Error)]
#[error("the log cannot be looked up")]
pub struct Error(#[source] async_nats::Error);

impl From<GetStreamError> for Error {
    fn from(error: GetStreamError) -> Self {
        Self(error.into())
    }
}

impl From<InfoError> for Error {
    fn from(error: InfoError) -> Self {
        Self(error.into())
    }
}

/// The epoch of the log behind this connection.
///
/// # Errors
/// When the server does not tell of it: it is out of reach, or there is no log yet.
pub async fn of_log(client: &async_nats::Client) -> Result<Epoch, Error> {
    let stream = jetstream::new(client.clone())
        .get_stream_no_info(subject::EVENTS)
        .await?;
    let created = stream.get_info().await?.created.unix_timestamp_nanos();
    Ok(Epoch::of_log(u64::try_from(created).unwrap_or_default()))
}
