//! `GET /v1/users/me/export`: everything that is kept about the person, as one JSON document that is
//! sent while it is gathered: the profile, device sessions, queries with their answers, and every
//! event of the log. If it cannot be gathered to its end, the connection breaks before the end.

use crate::{
    app::App,
    edge::{Call, Error, Identity},
    openapi::Doc,
};
use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use domain::{
    id::AccountId,
    subject::{Kind, View},
    wire::{
        error::{Code, Failure},
        view::{PersonFound, Persons, Queries, QueryPage, Sessions, SessionsFound},
    },
};
use futures_util::stream;
use http::{HeaderValue, header};
use serde::Serialize;
use std::io;
use tokio::sync::mpsc;

pub(crate) const DOC: Doc = Doc::get("/v1/users/me/export", "Everything that is kept about you")
    .signed_in()
    .answers(200, "Export")
    .refuses(&[Code::AuthUserNotFound]);

/// Pieces that wait to be sent: when they are there, gathering waits for the client.
const AHEAD: usize = 4;
/// Queries that are asked for at a time.
const PAGE: u32 = 100;

pub(crate) async fn handle(
    State(app): State<App>,
    call: Call,
    identity: Identity,
) -> Result<Response, Error> {
    let user = app
        .account(&call, identity.user)
        .await?
        .filter(|user| user.is_active)
        .ok_or_else(|| Error::new(Code::AuthUserNotFound, "User not found"))?;
    let (sender, pieces) = mpsc::channel(AHEAD);
    let document = Document {
        app: app.clone(),
        call,
        person: identity.user,
        sender,
    };
    let stopping = app.lifecycle.clone();
    app.lifecycle.spawn("export", async move {
        let gathered = tokio::select! {
            gathered = document.gather(&user) => gathered,
            () = stopping.stopping() => Err(Failed::Answer(Failure::unavailable())),
        };
        if let Err(Failed::Answer(failure)) = gathered {
            tracing::warn!(reason = failure.message, "an export was broken off");
            let broken = io::Error::other("the export cannot be finished now");
            document.sender.send(Err(broken)).await.ok();
        }
    });
    let body = stream::unfold(pieces, |mut pieces| async move {
        let piece: io::Result<Bytes> = pieces.recv().await?;
        Some((piece, pieces))
    });
    let mut response = Body::from_stream(body).into_response();
    let headers = response.headers_mut();
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    let name = HeaderValue::from_static("attachment; filename=\"amaima-export.json\"");
    headers.insert(header::CONTENT_DISPOSITION, name);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Why a document is not finished.
enum Failed {
    /// Something cannot be had now.
    Answer(Failure),
    /// Nobody takes it any more.
    Gone,
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self::Answer(failure)
    }
}

/// The document as it is sent.
struct Document {
    app: App,
    call: Call,
    person: AccountId,
    sender: mpsc::Sender<io::Result<Bytes>>,
}

impl Document {
    async fn gather(&self, user: &(impl Serialize + Sync)) -> Result<(), Failed> {
        let now = infra::clock::now();
        let head = format!(
            r#"{{"format":"amaima.export.v1","exported_at":"{now}","user":{},"sessions":"#,
            json(user)?
        );
        self.send(head).await?;
        let question = Sessions::List {
            account: self.person,
        };
        let sessions: SessionsFound = self.ask(View::Sessions, question).await?;
        self.send(json(&sessions)?).await?;
        self.send(r#","queries":["#.to_owned()).await?;
        self.queries().await?;
        self.send(r#"],"events":["#.to_owned()).await?;
        let mut first = true;
        for kind in [Kind::Account, Kind::Session, Kind::Query, Kind::ApiKeys] {
            self.events(kind, &mut first).await?;
        }
        self.send("]}".to_owned()).await
    }

    async fn queries(&self) -> Result<(), Failed> {
        let (mut after, mut first) = (None, true);
        loop {
            let question = Queries::List {
                owner: self.person,
                limit: PAGE,
                after,
                status: None,
                operation: None,
            };
            let page: QueryPage = self.ask(View::Queries, question).await?;
            self.list(&page.items, &mut first).await?;
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn events(&self, kind: Kind, first: &mut bool) -> Result<(), Failed> {
        let mut after = None;
        loop {
            let question = Persons::Events {
                account: self.person,
                kind,
                after,
            };
            let page: PersonFound = self.ask(View::Persons, question).await?;
            let PersonFound::Events { events, next } = page else {
                return Err(Failure::internal().into());
            };
            self.list(&events, first).await?;
            after = next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn ask<Q, R>(&self, view: View, question: Q) -> Result<R, Failed>
    where
        Q: Serialize + Sync,
        R: serde::de::DeserializeOwned,
    {
        let (call, person) = (&self.call, self.person);
        Ok(self.app.ask(call, person, view, question).await?)
    }

    /// More items of a list.
    async fn list(&self, items: &[impl Serialize + Sync], first: &mut bool) -> Result<(), Failed> {
        let mut piece = String::new();
        for item in items {
            if !std::mem::take(first) {
                piece.push(',');
            }
            piece.push_str(&json(item)?);
        }
        self.send(piece).await
    }

    async fn send(&self, piece: String) -> Result<(), Failed> {
        let sent = self.sender.send(Ok(piece.into())).await;
        sent.map_err(|_| Failed::Gone)
    }
}

fn json(value: &(impl Serialize + ?Sized)) -> Result<String, Failed> {
    serde_json::to_string(value).map_err(|_| Failure::internal().into())
}
