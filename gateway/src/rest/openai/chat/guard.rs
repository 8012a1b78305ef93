//! Gives a query up when whoever waits for its answer goes away.

use crate::{
    app::{App, Order},
    edge::Call,
};
use domain::{
    Actor,
    id::{AccountId, CommandId, QueryId},
    wire::command::Body,
};

/// Dropped before [`Self::disarm`], it cancels the query.
pub(super) struct Guard(Option<Armed>);

struct Armed {
    app: App,
    call: Call,
    user: AccountId,
    query: QueryId,
}

impl Guard {
    /// Of a query that nobody can ask for again, unless there is a key.
    pub(super) fn of(
        app: &App,
        call: &Call,
        user: AccountId,
        query: QueryId,
        key: Option<&str>,
    ) -> Self {
        let armed = || Armed {
            app: app.clone(),
            call: call.clone(),
            user,
            query,
        };
        Self(key.is_none().then(armed))
    }

    /// The query has ended.
    pub(super) fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(armed) = self.0.take() else { return };
        let lifecycle = armed.app.lifecycle.clone();
        lifecycle.spawn("abandoned query", armed.cancel());
    }
}

impl Armed {
    async fn cancel(self) {
        let Self {
            app,
            call,
            user,
            query,
        } = self;
        let order = Order {
            id: CommandId::derived(&[&user.to_string(), &query.to_string(), "abandoned"]),
            fingerprint: None,
            body: Body::CancelQuery { query },
        };
        // It may have ended by itself. Otherwise it ends at the latest when its time is over.
        if let Err(failure) = app.order(&call, Actor::User(user), order).await {
            tracing::info!(
                query.id = %query,
                reason = failure.message,
                "an abandoned query is not cancelled"
            );
        }
    }
}
