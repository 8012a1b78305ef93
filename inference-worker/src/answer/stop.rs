//! Hearing that a query has ended elsewhere.

use async_nats::{Client, SubscribeError};
use domain::{id::QueryId, subject};
use futures_util::StreamExt;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Hears when a query has ended elsewhere, for as long as it is held.
pub(super) struct Stop {
    /// Is cancelled then.
    pub(super) token: CancellationToken,
    _guard: DropGuard,
}

impl Stop {
    pub(super) async fn listen(client: &Client, query: QueryId) -> Result<Self, SubscribeError> {
        let mut signals = client.subscribe(subject::cancel(query)).await?;
        let token = CancellationToken::new();
        let (cancel, gone) = (token.clone(), CancellationToken::new());
        let guard = gone.clone().drop_guard();
        let listener = async move {
            tokio::select! {
                Some(_) = signals.next() => cancel.cancel(),
                () = gone.cancelled() => {}
            }
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "it ends with the job that holds its guard"
        )]
        tokio::spawn(listener);
        Ok(Self {
            token,
            _guard: guard,
        })
    }
}
