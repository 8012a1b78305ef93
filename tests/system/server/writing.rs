//! Streams that are written without waiting for the disk.

use super::{
    Ground,
    answers::{Answer, Headers, WRONG, put, stored},
    on_one_and_on_three,
};
use async_nats::jetstream::{self, stream::PersistenceMode};
use domain::{id::QueryId, subject};
use futures_util::future::join_all;
use uuid::Uuid;

on_one_and_on_three!(a_relaxed_stream_is_still_guarded);

/// Carries: token streams have one writer, although `TOKENS` is written without waiting for the
/// disk (`persist_mode: async`; a replicated stream has no such mode and is not given it).
async fn a_relaxed_stream_is_still_guarded(ground: &Ground) {
    let context = jetstream::new(ground.client.clone());
    let stream = context.get_stream(subject::TOKENS).await.expect("TOKENS");
    let relaxed = stream.cached_info().config.persist_mode == Some(PersistenceMode::Async);
    assert_eq!(relaxed, !ground.replicated());
    let tokens = subject::tokens(QueryId::new(Uuid::new_v4()));
    let clients = join_all((0..8).map(|n| ground.member(n))).await;
    let writers = clients
        .iter()
        .map(|client| put(client, &tokens, Headers::expecting(0), "x"));
    let answers = join_all(writers).await;
    let winners = answers
        .iter()
        .filter(|answer| matches!(answer, Answer::Stored(_)));
    assert_eq!(winners.count(), 1, "{answers:?}");
    let last = answers.iter().find_map(|answer| match answer {
        Answer::Stored(seq) => Some(*seq),
        _ => None,
    });
    let last = last.expect("a winner");
    let next = stored(&clients[0], &tokens, Headers::expecting(last), "y").await;
    let stale = put(&clients[1], &tokens, Headers::expecting(last), "z").await;
    assert_eq!(stale, Answer::Refused(WRONG));
    assert!(next > last);
}
