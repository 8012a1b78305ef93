//! The query socket `GET /v1/ws/query` (contract §6).
//!
//! The upgrade always completes, so that browsers can read why a socket is closed. Then one task
//! serves it: [`session`] reads frames, does what they ask one after the other, and copies what
//! the followed queries have beyond its cursors ([`subscriptions`]) into batches.

mod close;
mod counted;
mod pace;
mod session;
mod subscriptions;

pub(crate) use counted::Counted;

use crate::{
    app::App,
    edge::{Call, Error, Identity, Params, identity::bearer},
    openapi::Doc,
    tokens,
};
use axum::{
    extract::{State, WebSocketUpgrade, ws::WebSocket},
    response::Response,
};
use close::Close;
use domain::limits;
use futures_util::FutureExt;
use http::{HeaderMap, header};
use session::Session;
use std::panic::AssertUnwindSafe;

pub(crate) const DOC: Doc = Doc::get("/v1/ws/query", "Opens the query socket (RFC 6455)")
    .headers(&["Origin"])
    .parameters(&["token"])
    .answers(101, "AnyObject");

/// An idle socket costs what its buffers cost.
const READ_BUFFER_BYTES: usize = 4 * 1024;
const WRITE_BUFFER_BYTES: usize = 4 * 1024;

pub(crate) async fn handle(
    State(app): State<App>,
    call: Call,
    params: Params,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Error> {
    if app.lifecycle.is_stopping() {
        return Err(Error::unavailable());
    }
    let upgrade = upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_frame_size(limits::SOCKET_FRAME_BYTES)
        .max_message_size(limits::SOCKET_FRAME_BYTES);
    let admitted = admit(&app, &params, &headers);
    Ok(upgrade.on_upgrade(async move |socket| {
        let lifecycle = app.lifecycle.clone();
        lifecycle.spawn("socket", serve(app, call, admitted, socket));
    }))
}

fn admit(app: &App, params: &Params, headers: &HeaderMap) -> Result<Identity, Close> {
    if !app.origins.allow(headers.get(header::ORIGIN)) {
        return Err(Close::ORIGIN);
    }
    let token = params.get("token").or_else(|| bearer(headers));
    token
        .ok_or_else(|| tokens::invalid("Token is missing"))
        .and_then(|token| Identity::of_token(app, token))
        .map_err(|failure| Close::unauthorised(failure.code))
}

async fn serve(app: App, call: Call, admitted: Result<Identity, Close>, socket: WebSocket) {
    let admitted = admitted.and_then(|identity| {
        let place = app.sockets.enter(identity.user);
        place.map(|place| (identity, place)).ok_or(Close::CROWDED)
    });
    let (identity, _place) = match admitted {
        Ok(admitted) => admitted,
        Err(close) => return close.send(socket).await,
    };
    app.metrics.socket_opened();
    let mut session = Session::new(app.clone(), call.clone(), identity, socket);
    let end = AssertUnwindSafe(session.run()).catch_unwind().await;
    app.metrics.socket_closed();
    let close = match end {
        Ok(Some(close)) => close,
        Ok(None) => return,
        Err(_) => {
            tracing::error!(request_id = &*call.request_id, "a socket panicked");
            Close::INTERNAL
        }
    };
    tracing::info!(
        request_id = &*call.request_id,
        user_id = %identity.user,
        code = close.code,
        reason = close.reason,
        "socket closed"
    );
    close.send(session.into_socket()).await;
}
