//! One open socket.
//!
//! What the client asks for is done one thing after the other, in the order in which it came;
//! heartbeats and pongs are dealt with as soon as they are read, and updates of followed queries
//! flow meanwhile.

use super::{
    close::Close,
    pace::Pace,
    subscriptions::{self, Subscriptions},
};
use crate::{
    app::App,
    ask,
    edge::{Call, Identity},
    hub::Entry,
    rest::queries::{Source, follow, follow_submitted},
};
use axum::extract::ws::{Message, Utf8Bytes, WebSocket};
use domain::{
    id::QueryId,
    limits,
    wire::{
        command::Via,
        error::{Code, Failure},
        socket::{ClientFrame, ServerBody, ServerFrame, SubmitQuery, Topic},
    },
};
use futures_util::{FutureExt, SinkExt, future::BoxFuture};
use std::{collections::VecDeque, future::pending, sync::Arc, time::Duration};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// Frames of the client that wait for the one in work. When there are more, the socket is not read
/// until there is room: the client's own connection holds it back.
const WAITING: usize = 64;
/// Frames that go out in one flush.
const BATCH: usize = 256;

pub(super) struct Session {
    app: App,
    call: Call,
    identity: Identity,
    socket: WebSocket,
    bell: Arc<Notify>,
    subscriptions: Subscriptions,
    follows_system: bool,
    waiting: VecDeque<ClientFrame>,
    work: Option<BoxFuture<'static, Done>>,
    check: Option<BoxFuture<'static, bool>>,
    /// Frames for this socket alone, which go before updates.
    out: Vec<Utf8Bytes>,
    pace: Pace,
    next_ping: Instant,
    /// Pings since the client was last heard of.
    unanswered: u32,
    dead_at: Option<Instant>,
}

/// What came of a client's frame.
struct Done {
    /// As the client wrote it.
    query_id: Option<String>,
    from_seq: u32,
    /// Whether the client asked to follow, rather than to submit.
    confirm: bool,
    result: Result<(QueryId, Source), Failure>,
}

impl Session {
    pub(super) fn new(app: App, call: Call, identity: Identity, socket: WebSocket) -> Self {
        let now = Instant::now();
        Self {
            pace: Pace::new(app.socket_config.messages_per_second, now),
            next_ping: now + app.socket_config.ping_interval,
            app,
            call,
            identity,
            socket,
            bell: Arc::new(Notify::new()),
            subscriptions: Subscriptions::new(),
            follows_system: false,
            waiting: VecDeque::new(),
            work: None,
            check: None,
            out: vec![],
            unanswered: 0,
            dead_at: None,
        }
    }

    pub(super) fn into_socket(self) -> WebSocket {
        self.socket
    }

    /// Serves until the socket should be closed, or is gone.
    pub(super) async fn run(&mut self) -> Option<Close> {
        self.say(ServerBody::ConnectionEstablished {
            user_id: self.identity.user.to_string(),
        });
        let lifecycle = self.app.lifecycle.clone();
        let mut connection = self.app.hub.connection();
        loop {
            if self.work.is_none()
                && let Some(frame) = self.waiting.pop_front()
            {
                self.begin(frame);
            }
            let more = match self.flush().await {
                Ok(more) => more,
                Err(end) => return end,
            };
            let end = tokio::select! {
                biased;
                () = lifecycle.stopping() => Err(Some(Close::SHUTDOWN)),
                message = self.socket.recv(), if self.waiting.len() < WAITING => {
                    self.heard(message)
                }
                done = maybe(&mut self.work) => {
                    self.work = None;
                    self.finish(done);
                    Ok(())
                }
                active = maybe(&mut self.check) => {
                    self.check = None;
                    if active { Ok(()) } else { Err(Some(Close::INACTIVE)) }
                }
                () = sleep_until(self.next_ping) => self.ping(),
                () = maybe_at(self.dead_at) => Err(Some(Close::DEAD)),
                Ok(()) = connection.changed(), if self.follows_system => {
                    let is_up = connection.borrow_and_update().is_up;
                    self.say(system_status(is_up));
                    Ok(())
                }
                () = std::future::ready(()), if more || self.has_next() => Ok(()),
                () = self.bell.notified() => Ok(()),
            };
            if let Err(end) = end {
                return end;
            }
        }
    }

    /// Whether the next frame of the client can be begun.
    fn has_next(&self) -> bool {
        self.work.is_none() && !self.waiting.is_empty()
    }

    /// Writes what is ready. Answers whether there may be more.
    async fn flush(&mut self) -> Result<bool, Option<Close>> {
        let mut batch = std::mem::take(&mut self.out);
        let more = self.subscriptions.collect(BATCH, &mut batch);
        if batch.is_empty() {
            return Ok(false);
        }
        let socket = &mut self.socket;
        let write = async {
            for text in batch {
                socket.feed(Message::Text(text)).await?;
            }
            socket.flush().await
        };
        let patience = 2 * self.app.socket_config.ping_interval + self.app.socket_config.pong_wait;
        let given_up = stalled(&self.subscriptions, &self.bell, patience);
        tokio::select! {
            biased;
            written = write => written.map(|()| more).map_err(|_| None),
            close = given_up => Err(Some(close)),
            () = self.app.lifecycle.stopping() => Err(Some(Close::SHUTDOWN)),
        }
    }

    /// Takes a message of the client.
    fn heard(
        &mut self,
        message: Option<Result<Message, axum::Error>>,
    ) -> Result<(), Option<Close>> {
        let message = match message {
            None => return Err(None),
            Some(Err(error)) => return Err(unreadable(error)),
            Some(Ok(message)) => message,
        };
        self.unanswered = 0;
        self.dead_at = None;
        match message {
            Message::Close(_) => Err(None),
            Message::Ping(_) | Message::Pong(_) => Ok(()),
            Message::Text(_) | Message::Binary(_) if !self.pace.take(Instant::now()) => {
                Err(Some(Close::HASTY))
            }
            Message::Binary(_) => {
                let failure = Failure::new(Code::BadRequest, "Binary frames are not understood");
                self.complain(failure, None);
                Ok(())
            }
            Message::Text(text) => {
                self.understand(&text);
                Ok(())
            }
        }
    }

    fn understand(&mut self, text: &str) {
        match ClientFrame::parse(text) {
            Ok(ClientFrame::Pong) => {}
            Ok(ClientFrame::Heartbeat) => self.say(ServerBody::Heartbeat),
            Ok(frame) => self.waiting.push_back(frame),
            Err(malformed) => {
                let failure = Failure::new(malformed.code(), malformed.to_string());
                self.complain(failure, None);
            }
        }
    }

    /// Begins what a frame asks for.
    fn begin(&mut self, frame: ClientFrame) {
        match frame {
            ClientFrame::SubmitQuery(submit) => self.submit(submit),
            ClientFrame::SubscribeQuery { query_id, from_seq } => {
                self.subscribe(query_id, from_seq);
            }
            ClientFrame::UnsubscribeQuery { query_id } => {
                if let Ok(query) = query_id.parse() {
                    self.subscriptions.remove(query);
                }
                self.say(ServerBody::SubscriptionRemoved(Topic::Query { query_id }));
            }
            ClientFrame::SubscribeSystem => {
                self.follows_system = true;
                self.say(ServerBody::SubscriptionConfirmed(SYSTEM));
            }
            ClientFrame::UnsubscribeSystem => {
                self.follows_system = false;
                self.say(ServerBody::SubscriptionRemoved(SYSTEM));
            }
            ClientFrame::Pong | ClientFrame::Heartbeat => {}
        }
    }

    fn submit(&mut self, submit: SubmitQuery) {
        let query_id = submit.query_id.clone();
        if let Err(failure) = self.room() {
            return self.complain(failure, query_id);
        }
        let (app, call, user) = (self.app.clone(), self.call.clone(), self.identity.user);
        let bell = self.bell.clone();
        let work = async move {
            let result = async {
                let draft = ask::check(user, submit, None, vec![])?;
                let known = ask::submit(&app, &call, user, Via::Socket, draft).await?;
                let query = known.query;
                let source = follow_submitted(&app, &call, user, known, bell).await?;
                Ok((query, source))
            };
            Done {
                query_id,
                from_seq: 0,
                confirm: false,
                result: result.await,
            }
        };
        self.work = Some(work.boxed());
    }

    fn subscribe(&mut self, query_id: String, from_seq: u32) {
        let Ok(query) = query_id.parse::<QueryId>() else {
            let failure = Failure::new(Code::NotFound, "Query not found");
            return self.complain(failure, Some(query_id));
        };
        if self.subscriptions.knows(query) {
            let topic = Topic::Query { query_id };
            return self.say(ServerBody::SubscriptionConfirmed(topic));
        }
        if let Err(failure) = self.room() {
            return self.complain(failure, Some(query_id));
        }
        let (app, call, user) = (self.app.clone(), self.call.clone(), self.identity.user);
        let bell = self.bell.clone();
        let work = async move {
            let source = follow(&app, &call, user, query, bell).await;
            Done {
                query_id: Some(query_id),
                from_seq,
                confirm: true,
                result: source.map(|source| (query, source)),
            }
        };
        self.work = Some(work.boxed());
    }

    fn room(&self) -> Result<(), Failure> {
        if self.subscriptions.is_full() {
            let message = format!("At most {} queries at once", subscriptions::MOST);
            return Err(Failure::new(Code::SystemRateLimited, message));
        }
        Ok(())
    }

    fn finish(&mut self, done: Done) {
        let (query, source) = match done.result {
            Ok(found) => found,
            Err(failure) => return self.complain(failure, done.query_id),
        };
        if done.confirm {
            let query_id = done.query_id.unwrap_or_else(|| query.to_string());
            self.say(ServerBody::SubscriptionConfirmed(Topic::Query { query_id }));
        }
        match source {
            Source::Stream(follower) => self.subscriptions.add(follower, done.from_seq),
            Source::Ended(item) => {
                let entry = Entry::ending(&item, done.from_seq);
                if self.subscriptions.tell_once(query, entry.seq) {
                    subscriptions::push(entry, &mut self.out);
                }
            }
        }
    }

    fn ping(&mut self) -> Result<(), Option<Close>> {
        if self.identity.is_revoked(&self.app) {
            return Err(Some(Close::unauthorised(Code::AuthTokenInvalid)));
        }
        let config = &self.app.socket_config;
        let now = Instant::now();
        self.next_ping = now + config.ping_interval;
        if self.unanswered >= 2 {
            return Err(Some(Close::DEAD));
        }
        self.unanswered += 1;
        if self.unanswered == 2 {
            self.dead_at = Some(now + config.pong_wait);
        }
        if self.check.is_none() {
            self.check =
                Some(is_active(self.app.clone(), self.call.clone(), self.identity).boxed());
        }
        self.say(ServerBody::Ping);
        Ok(())
    }

    fn complain(&mut self, failure: Failure, query_id: Option<String>) {
        let mut message = failure.message;
        for detail in &failure.details {
            message.push_str(&format!("; {}: {}", detail.field, detail.message));
        }
        self.say(ServerBody::Error {
            message,
            code: failure.code,
            query_id,
        });
    }

    fn say(&mut self, body: ServerBody) {
        let frame = ServerFrame {
            body,
            seq: None,
            timestamp: infra::clock::now(),
        };
        self.out.push(crate::hub::encode(&frame));
    }
}

const SYSTEM: Topic = Topic::Channel { channel: "system" };

fn system_status(is_up: bool) -> ServerBody {
    let (status, message) = if is_up {
        ("operational", "The bus can be reached")
    } else {
        ("down", "The bus cannot be reached")
    };
    ServerBody::SystemStatus {
        status,
        component: "nats".into(),
        message: message.into(),
    }
}

/// Whether the user may still be connected. When nobody can tell, the answer is yes.
async fn is_active(app: App, call: Call, identity: Identity) -> bool {
    match app.account(&call, identity.user).await {
        Ok(user) => user.is_some_and(|user| user.is_active),
        Err(_) => true,
    }
}

/// Completes when a write has taken too long, or too much has gathered behind it.
async fn stalled(subscriptions: &Subscriptions, bell: &Notify, patience: Duration) -> Close {
    let end = Instant::now() + patience;
    loop {
        if subscriptions.backlog() > limits::SOCKET_BACKLOG_FRAMES {
            return Close::SLOW;
        }
        tokio::select! {
            () = bell.notified() => {}
            () = sleep_until(end) => return Close::DEAD,
        }
    }
}

/// Why a message of the client could not be read; nothing if the connection is gone.
fn unreadable(error: axum::Error) -> Option<Close> {
    let error = error.into_inner().downcast::<tungstenite::Error>().ok()?;
    match *error {
        tungstenite::Error::Capacity(_) => Some(Close::TOO_LARGE),
        tungstenite::Error::Utf8(_) => Some(Close::NOT_TEXT),
        tungstenite::Error::Protocol(
            tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
        ) => None,
        tungstenite::Error::Protocol(_) => Some(Close::PROTOCOL),
        _ => None,
    }
}

async fn maybe<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}

async fn maybe_at(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}
