//! `POST /v1/chat/completions`: a conversation becomes a query, its answer comes whole or in pieces.
//!
//! A client that goes away gives its query up, as aborting means in OpenAI's dialect: nobody else
//! knows the query's id. Under an `Idempotency-Key` the query goes on, and a repeat gets its answer.

mod answer;
mod content;
mod guard;
mod request;
mod stream;

use self::{
    answer::{Completion, Head},
    guard::Guard,
    request::Wanted,
};
use super::{error, models};
use crate::{
    app::App,
    ask::{self, Known},
    edge::{self, Call, Caller, Error, Key, Writes},
    hub::Follower,
    openapi::Doc,
    rest::queries,
};
use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use domain::{
    id::AccountId,
    wire::{
        command::Via,
        error::Code,
        token::{Terminal, Token},
    },
};

pub(crate) const DOC: Doc = Doc::post("/v1/chat/completions", "Answer a conversation")
    .by_key::<Writes>()
    .in_openais_form()
    .takes("ChatRequest")
    .answers(200, "ChatCompletion")
    .refuses(&[
        Code::NotFound,
        Code::Conflict,
        Code::QueryTimeout,
        Code::QueryModelError,
        Code::QueryProcessingError,
        Code::QueryRoutingError,
    ]);

pub(crate) async fn handle(
    State(app): State<App>,
    call: Call,
    caller: Caller<Writes>,
    key: Key,
    body: edge::Body,
) -> Result<Response, Error> {
    let Wanted {
        submission,
        streamed,
        with_usage,
    } = request::read(&body)?;
    models::demand(&app, &submission).await?;
    let head = Head::of(&submission, infra::clock::now());
    let draft = ask::conversation(caller.user, submission, key.as_deref());
    let guard = Guard::of(&app, &call, caller.user, draft.query(), key.as_deref());
    let known = ask::submit(&app, &call, caller.user, Via::Completions, draft).await?;
    if streamed {
        return stream::answer(app, call, caller.user, known, head, with_usage, guard).await;
    }
    let completion = whole(&app, &call, caller.user, known, head, guard).await?;
    Ok(Json(completion).into_response())
}

async fn whole(
    app: &App,
    call: &Call,
    user: AccountId,
    known: Known,
    head: Head,
    mut guard: Guard,
) -> Result<Completion, Error> {
    let (follower, terminal) = queries::end_of(app, call, user, known).await?;
    guard.disarm();
    let answer = completed(terminal)?;
    let asked = follower.filter(|_| head.with_logprobs);
    let tokens = asked.map(|follower| tokens_of(&follower));
    Ok(head.completion(known.query, &answer, &tokens.unwrap_or_default()))
}

fn completed(terminal: Terminal) -> Result<domain::query::Answer, Error> {
    match terminal {
        Terminal::Completed { answer } => Ok(answer),
        Terminal::Failed { code, message } => Err(error::ended(code, message)),
        Terminal::Cancelled => Err(queries::cancelled().into()),
    }
}

/// All tokens of a stream that has ended.
fn tokens_of(follower: &Follower) -> Vec<Token> {
    let entries = follower.after(0, usize::MAX);
    let each = entries.iter().filter_map(|entry| entry.tokens.as_deref());
    each.flatten().cloned().collect()
}

#[cfg(test)]
pub(crate) use answer::{example, example_chunk};
