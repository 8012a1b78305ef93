//! An answer in pieces: server-sent events, each a chunk, and `[DONE]` at the end.

use super::{
    answer::{Head, Piece},
    completed, error,
    guard::Guard,
};
use crate::{
    app::App,
    ask::Known,
    edge::{Call, Error},
    hub::Entry,
    rest::queries::{self, Reading},
};
use axum::response::{
    IntoResponse, Response, Sse,
    sse::{Event, KeepAlive},
};
use domain::{
    id::{AccountId, QueryId},
    wire::{error::Failure, socket::QueryUpdate},
};
use futures_util::{StreamExt, stream};
use serde::Serialize;
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::sync::Notify;

const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// What fails before it begins has a status of its own; after this long the answer begins without
/// a first piece, so that nobody on the way takes the connection for dead.
const FIRST_WAIT: Duration = Duration::from_secs(10);

/// Where a stream is.
struct Stream {
    reading: Reading,
    query: QueryId,
    head: Head,
    with_usage: bool,
    guard: Guard,
    /// What was read before the answer began.
    read: Option<Entry>,
}

pub(super) async fn answer(
    app: App,
    call: Call,
    user: AccountId,
    known: Known,
    head: Head,
    with_usage: bool,
    guard: Guard,
) -> Result<Response, Error> {
    let bell = Arc::new(Notify::new());
    let source = queries::follow_submitted(&app, &call, user, known, bell).await?;
    let mut stream = Stream {
        reading: Reading::of(app, source, 0),
        query: known.query,
        head,
        with_usage,
        guard,
        read: None,
    };
    stream.begin().await?;
    let first = stream.piece(Piece::first());
    let events = stream::unfold(Some(stream), |stream| async move {
        let mut stream = stream?;
        let (events, is_last) = stream.next().await;
        Some((stream::iter(events), (!is_last).then_some(stream)))
    });
    let events = stream::iter([first]).chain(events.flatten());
    let events = events.map(Ok::<_, Infallible>);
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(events).keep_alive(keep_alive).into_response())
}

impl Stream {
    /// Waits for the first piece, or the end.
    async fn begin(&mut self) -> Result<(), Error> {
        let first = async {
            loop {
                let entry = self.reading.next().await?;
                if is_worth_telling(&entry) {
                    return Some(entry);
                }
            }
        };
        let Ok(first) = tokio::time::timeout(FIRST_WAIT, first).await else {
            return Ok(());
        };
        let entry = first.ok_or_else(Failure::unavailable)?;
        if update(&entry).complete == Some(true) {
            let terminal = self.reading.terminal();
            if let Err(error) = completed(terminal.ok_or_else(Failure::internal)?) {
                self.guard.disarm();
                return Err(error);
            }
        }
        self.read = Some(entry);
        Ok(())
    }

    /// The events that come next, and whether they are the last ones.
    async fn next(&mut self) -> (Vec<Event>, bool) {
        let entry = match self.read.take() {
            Some(entry) => Some(entry),
            None => self.reading.next().await,
        };
        let Some(entry) = entry else {
            // The gateway stops.
            return (vec![failed(&Error::unavailable())], true);
        };
        let update = update(&entry);
        match update.chunk {
            Some(text) => {
                let piece = self.head.text(text, entry.tokens.as_deref());
                (vec![self.piece(piece)], false)
            }
            None if update.complete == Some(true) => (self.end(update.response_text), true),
            None => (vec![], false),
        }
    }

    fn end(&mut self, whole: Option<String>) -> Vec<Event> {
        self.guard.disarm();
        let terminal = self.reading.terminal();
        let terminal = terminal.ok_or_else(|| Error::from(Failure::internal()));
        let answer = match terminal.and_then(completed) {
            Ok(answer) => answer,
            Err(error) => return vec![failed(&error)],
        };
        let mut events = vec![];
        // Nothing but the end is left of a stream that has expired.
        if let Some(text) = whole.filter(|_| !self.reading.is_live()) {
            events.push(self.piece(self.head.text(text, None)));
        }
        events.push(self.piece(Piece::last(&answer)));
        if self.with_usage {
            events.push(event(&self.head.cost(self.query, &answer)));
        }
        events.push(Event::default().data("[DONE]"));
        events
    }

    fn piece(&self, piece: Piece) -> Event {
        event(&self.head.chunk(self.query, piece, self.with_usage))
    }
}

fn update(entry: &Entry) -> QueryUpdate {
    serde_json::from_str(entry.data()).expect("it was written here")
}

/// Not that the query waits.
fn is_worth_telling(entry: &Entry) -> bool {
    let update = update(entry);
    update.chunk.is_some() || update.complete == Some(true)
}

fn event(value: &impl Serialize) -> Event {
    Event::default().data(serde_json::to_string(value).unwrap_or_default())
}

/// What goes wrong after the answer has begun.
fn failed(error: &Error) -> Event {
    event(&error::body(error))
}
