//! The duplicate window: what `Nats-Msg-Id` is worth beside the expected sequence.

use super::{
    Ground,
    answers::{Answer, DUPLICATE_IN_FLIGHT, Headers, WRONG, WRONG_IN_FLIGHT, history, put, stored},
    fresh_subject, on_one_and_on_three,
};
use amaima::stack::wait_for;
use futures_util::future::join_all;
use tests::world::PATIENCE;
use uuid::Uuid;

on_one_and_on_three!(
    which_check_comes_first,
    an_id_is_known_on_every_subject,
    the_id_of_a_refused_message_is_not_known,
    parallel_repeats_are_stored_once,
);

fn id() -> String {
    Uuid::new_v4().to_string()
}

/// Carries: a repeat of a command stores nothing, whatever it expects; and the write path looks
/// into the log after a conflict *and* after `duplicate`, since the server gives either answer to
/// the same repeat: a single server checks the sequence first, a replicated stream the id.
async fn which_check_comes_first(ground: &Ground) {
    let (subject, first_id) = (fresh_subject(), id());
    let client = &ground.client;
    let message = |expected| Headers::expecting(expected).id(&first_id);
    let first = stored(client, &subject, message(0), "first").await;
    let second = stored(
        client,
        &subject,
        Headers::expecting(first).id(&id()),
        "second",
    )
    .await;
    let known = Answer::Duplicate(first);
    let stale = if ground.replicated() {
        known.clone()
    } else {
        Answer::Refused(WRONG)
    };
    // As it was sent first, with a wrong expectation, and with the right one.
    assert_eq!(put(client, &subject, message(0), "first").await, stale);
    assert_eq!(
        put(client, &subject, message(second + 77), "first").await,
        stale
    );
    assert_eq!(put(client, &subject, message(second), "first").await, known);
    let log = history(client, &subject).await;
    assert_eq!(log, [(first, "first".into()), (second, "second".into())]);
}

/// Carries: a command id belongs to one aggregate. The window does not look at subjects, so a
/// second aggregate that is written with the same id within two minutes gets `duplicate` and the
/// other subject's sequence, and nothing is stored. That is why commits to several aggregates in
/// one batch have no message id.
async fn an_id_is_known_on_every_subject(ground: &Ground) {
    let (one, other, id) = (fresh_subject(), fresh_subject(), id());
    let message = || Headers::expecting(0).id(&id);
    let first = stored(&ground.client, &one, message(), "one").await;
    let answer = put(&ground.client, &other, message(), "other").await;
    assert_eq!(answer, Answer::Duplicate(first));
    assert_eq!(history(&ground.client, &other).await, []);
}

/// Carries: a command whose append was refused is decided and appended again under its own id.
async fn the_id_of_a_refused_message_is_not_known(ground: &Ground) {
    let (subject, id) = (fresh_subject(), id());
    let client = &ground.client;
    let first = stored(client, &subject, Headers::expecting(0), "first").await;
    let refused = put(client, &subject, Headers::expecting(0).id(&id), "x").await;
    assert_eq!(refused, Answer::Refused(WRONG));
    stored(client, &subject, Headers::expecting(first).id(&id), "x").await;
}

/// Carries: `infra::append` takes error 10158 for a conflict. Repeats that run beside the first
/// attempt get it on a replicated stream, where neither `duplicate` nor a sequence is known yet.
async fn parallel_repeats_are_stored_once(ground: &Ground) {
    let (subject, id) = (fresh_subject(), id());
    let clients = join_all((0..12).map(|n| ground.member(n))).await;
    let repeats = clients
        .iter()
        .map(|client| put(client, &subject, Headers::expecting(0).id(&id), "once"));
    let answers = join_all(repeats).await;
    let log = history(&ground.client, &subject).await;
    let [(seq, _)] = log[..] else {
        panic!("stored {} times", log.len());
    };
    let first = answers
        .iter()
        .filter(|answer| **answer == Answer::Stored(seq));
    assert_eq!(first.count(), 1, "{answers:?}");
    let in_order = |answer: &Answer| match answer {
        Answer::Stored(at) | Answer::Duplicate(at) => *at == seq,
        Answer::Refused(code) => [WRONG, WRONG_IN_FLIGHT, DUPLICATE_IN_FLIGHT].contains(code),
        Answer::Noted => false,
    };
    assert!(answers.iter().all(in_order), "{answers:?}");
}

/// Carries: the first repeat after a crash of the server is recognised too, as long as the window
/// is open; afterwards the aggregate itself recognises it.
#[tokio::test]
async fn ids_outlive_a_killed_server() {
    let ground = Ground::own(1).await;
    let (subject, id) = (fresh_subject(), id());
    let message = |expected| Headers::expecting(expected).id(&id);
    let first = stored(&ground.client, &subject, message(0), "x").await;
    let server = &ground.cluster.members()[0];
    server.kill().await.expect("killed");
    server.restart().await.expect("restarted");
    wait_for("the connection", PATIENCE, || ground.client.flush())
        .await
        .expect("it comes back");
    let repeat = put(&ground.client, &subject, message(first), "x").await;
    assert_eq!(repeat, Answer::Duplicate(first));
}
