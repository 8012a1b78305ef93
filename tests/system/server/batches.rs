//! Atomic batch publish, which commits to several aggregates go through.

use super::{
    Ground,
    answers::{Answer, Headers, WRONG, WRONG_IN_FLIGHT, history, put},
    fresh_subject, on_one_and_on_three,
};
use amaima::stack::wait_for;
use async_nats::{
    Client, header,
    jetstream::{self, stream::Config},
};
use domain::subject::EVENTS;
use futures_util::future::join_all;
use infra::direct_get;
use tests::world::PATIENCE;
use uuid::Uuid;

on_one_and_on_three!(
    parts_lie_side_by_side_and_keep_their_headers,
    one_stale_part_refuses_all,
    a_subject_is_guarded_once_per_batch,
    without_its_end_nothing_is_stored,
    a_lost_part_refuses_all,
    a_batch_is_not_bound_to_its_connection,
    a_known_message_id_refuses_all,
    a_thousand_parts_and_no_more,
    fifty_open_batches_and_no_more,
    batches_and_single_messages_exclude_each_other,
);

/// Too many batches are open.
const TOO_MANY_OPEN: u64 = 10_210;
/// Parts are missing.
const INCOMPLETE: u64 = 10_176;
/// More parts than the server takes.
const TOO_LARGE: u64 = 10_199;
/// One of the message ids is known.
const KNOWN_ID: u64 = 10_201;

fn fresh() -> String {
    Uuid::new_v4().simple().to_string()
}

fn part(headers: Headers, batch: &str, number: usize) -> Headers {
    headers
        .with(header::NATS_BATCH_ID.as_ref(), batch)
        .with(header::NATS_BATCH_SEQUENCE.as_ref(), number)
}

fn last(headers: Headers, batch: &str, number: usize) -> Headers {
    let commit = header::NATS_BATCH_COMMIT_FINAL;
    part(headers, batch, number).with(header::NATS_BATCH_COMMIT.as_ref(), commit)
}

/// Publishes a whole batch; only its first and last message are answered.
async fn publish(client: &Client, parts: Vec<(String, Headers)>) -> Answer {
    let (batch, count) = (fresh(), parts.len());
    for (index, (subject, headers)) in parts.into_iter().enumerate() {
        let number = index + 1;
        if number == count {
            return put(client, &subject, last(headers, &batch, number), "part").await;
        }
        let headers = part(headers, &batch, number);
        if number == 1 {
            let begun = put(client, &subject, headers, "part").await;
            // Nothing is judged before the end.
            assert_eq!(begun, Answer::Noted);
        } else {
            let sent = client.publish_with_headers(subject, headers.map(), "part".into());
            sent.await.expect("sent");
        }
    }
    panic!("an empty batch")
}

fn subjects<const N: usize>() -> [String; N] {
    std::array::from_fn(|_| fresh_subject())
}

async fn is_empty(client: &Client, subjects: &[String]) -> bool {
    let found = join_all(subjects.iter().map(|subject| history(client, subject))).await;
    found.iter().all(Vec::is_empty)
}

/// Carries: the answer's sequence is the last part's, and the other parts lie directly before it;
/// each keeps the expected sequence that it was written with, so that a check of the whole log
/// needs no case for batches.
async fn parts_lie_side_by_side_and_keep_their_headers(ground: &Ground) {
    let parts: [String; 3] = subjects();
    let guarded = parts
        .iter()
        .map(|subject| (subject.clone(), Headers::expecting(0)));
    let answer = publish(&ground.client, guarded.collect()).await;
    let Answer::Stored(end) = answer else {
        panic!("{answer:?}");
    };
    for (index, subject) in parts.iter().enumerate() {
        let found = direct_get::subject(&ground.client, EVENTS, subject, 1)
            .await
            .expect("read");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].seq, end - 2 + index as u64);
        let expected = found[0]
            .headers
            .get(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE);
        assert_eq!(expected.map(ToString::to_string).as_deref(), Some("0"));
    }
}

/// Carries: registering claims the address, makes the account and opens the session, or nothing.
/// The server does not tell which part was stale.
async fn one_stale_part_refuses_all(ground: &Ground) {
    let client = &ground.client;
    for stale in 0..3 {
        let parts: [String; 3] = subjects();
        let taken = put(client, &parts[stale], Headers::expecting(0), "taken").await;
        let Answer::Stored(seq) = taken else {
            panic!("{taken:?}");
        };
        let guarded = parts
            .iter()
            .map(|subject| (subject.clone(), Headers::expecting(0)));
        let answer = publish(client, guarded.collect()).await;
        assert_eq!(answer, Answer::Refused(WRONG));
        for (index, subject) in parts.iter().enumerate() {
            let expected = if index == stale {
                vec![(seq, "taken".into())]
            } else {
                vec![]
            };
            assert_eq!(history(client, subject).await, expected);
        }
    }
}

/// Carries: what is written together names each aggregate at most once. A second part of the same
/// subject is refused with the first one's expectation and with the sequence that it will have;
/// only without any expectation it is taken, and such a message our log does not hold.
async fn a_subject_is_guarded_once_per_batch(ground: &Ground) {
    let client = &ground.client;
    let [subject, other] = subjects();
    let twice = |second| {
        vec![
            (subject.clone(), Headers::expecting(0)),
            (subject.clone(), second),
            (other.clone(), Headers::expecting(0)),
        ]
    };
    let answer = publish(client, twice(Headers::expecting(0))).await;
    assert_eq!(answer, Answer::Refused(WRONG_IN_FLIGHT));
    assert!(is_empty(client, &[subject.clone(), other.clone()]).await);
    let answer = publish(client, twice(Headers::default())).await;
    assert!(matches!(answer, Answer::Stored(_)), "{answer:?}");
    assert_eq!(history(client, &subject).await.len(), 2);
}

/// Carries: a command service that dies between the first part and the last has written nothing,
/// and stands in nobody's way.
async fn without_its_end_nothing_is_stored(ground: &Ground) {
    let [one, other] = subjects();
    let (batch, dying) = (fresh(), ground.member(1).await);
    let begun = put(&dying, &one, part(Headers::expecting(0), &batch, 1), "lost").await;
    assert_eq!(begun, Answer::Noted);
    let headers = part(Headers::expecting(0), &batch, 2).map();
    let sent = dying.publish_with_headers(other.clone(), headers, "lost".into());
    sent.await.expect("sent");
    dying.flush().await.expect("written");
    drop(dying);
    assert!(is_empty(&ground.client, &[one.clone(), other.clone()]).await);
    let written = put(&ground.client, &one, Headers::expecting(0), "kept").await;
    assert!(matches!(written, Answer::Stored(_)), "{written:?}");
    let end = last(Headers::expecting(0), &batch, 3);
    let late = put(&ground.client, &other, end, "late").await;
    assert!(matches!(late, Answer::Refused(_)), "{late:?}");
    assert!(is_empty(&ground.client, &[other]).await);
}

/// Carries: parts that a lost connection has swallowed are missed.
async fn a_lost_part_refuses_all(ground: &Ground) {
    let [one, other] = subjects();
    let batch = fresh();
    let begun = put(
        &ground.client,
        &one,
        part(Headers::expecting(0), &batch, 1),
        "x",
    )
    .await;
    assert_eq!(begun, Answer::Noted);
    let end = last(Headers::expecting(0), &batch, 3);
    let answer = put(&ground.client, &other, end, "x").await;
    assert_eq!(answer, Answer::Refused(INCOMPLETE));
    assert!(is_empty(&ground.client, &[one, other]).await);
}

/// Carries: ids of batches are random. The server knows a batch by its id alone, so that two
/// writers with the same one would write into each other's batch.
async fn a_batch_is_not_bound_to_its_connection(ground: &Ground) {
    let [one, other] = subjects();
    let (batch, first) = (fresh(), ground.member(1).await);
    put(
        &first,
        &one,
        part(Headers::expecting(0), &batch, 1),
        "first",
    )
    .await;
    drop(first);
    let end = last(Headers::expecting(0), &batch, 2);
    let answer = put(&ground.client, &other, end, "second").await;
    assert!(matches!(answer, Answer::Stored(_)), "{answer:?}");
    assert!(!is_empty(&ground.client, &[one]).await);
}

/// Carries: commits that are written together carry no `Nats-Msg-Id`: one known id would refuse
/// the commits of all others, and with an error of its own instead of `duplicate`.
async fn a_known_message_id_refuses_all(ground: &Ground) {
    let client = &ground.client;
    let [one, two, three, four] = subjects();
    let (id, other_id) = (fresh(), fresh());
    let with_ids = |first: &String, second: &String, second_id: &str| {
        vec![
            (first.clone(), Headers::expecting(0).id(&id)),
            (second.clone(), Headers::expecting(0).id(second_id)),
        ]
    };
    let answer = publish(client, with_ids(&one, &two, &other_id)).await;
    assert!(matches!(answer, Answer::Stored(_)), "{answer:?}");
    let answer = publish(client, with_ids(&three, &four, &fresh())).await;
    assert_eq!(answer, Answer::Refused(KNOWN_ID));
    assert!(is_empty(client, &[three.clone(), four]).await);
    // The ids of a batch are remembered like any other.
    let single = put(client, &three, Headers::expecting(0).id(&other_id), "x").await;
    assert!(matches!(single, Answer::Duplicate(_)), "{single:?}");
}

/// Carries: a group of commits has at most a thousand.
async fn a_thousand_parts_and_no_more(ground: &Ground) {
    let many = |count: usize| -> Vec<(String, Headers)> {
        let guarded = (0..count).map(|_| (fresh_subject(), Headers::expecting(0)));
        guarded.collect()
    };
    let answer = publish(&ground.client, many(1_000)).await;
    assert!(matches!(answer, Answer::Stored(_)), "{answer:?}");
    let (over, subjects) = (many(1_001), |parts: &[(String, Headers)]| {
        parts[..3]
            .iter()
            .map(|(subject, _)| subject.clone())
            .collect::<Vec<_>>()
    });
    let first = subjects(&over);
    assert_eq!(
        publish(&ground.client, over).await,
        Answer::Refused(TOO_LARGE)
    );
    assert!(is_empty(&ground.client, &first).await);
}

/// Carries: whoever writes in batches keeps far below fifty at a time, over all command services,
/// and takes the refusal of a first part for "later".
async fn fifty_open_batches_and_no_more(ground: &Ground) {
    const LIMIT: usize = 50;
    // A stream of its own: open batches would stand in the way of the other pins.
    let name = format!("PIN{}", fresh());
    let config = Config {
        name: name.clone(),
        subjects: vec![format!("{name}.>")],
        num_replicas: ground.cluster.replicas(),
        allow_atomic_publish: true,
        ..Config::default()
    };
    let context = jetstream::new(ground.client.clone());
    context.create_stream(config).await.expect("a stream");
    // The member that we are connected to may hear later than its maker who takes the subjects.
    let listening = wait_for("the new stream", PATIENCE, || {
        ground.client.request(format!("{name}.first"), "x".into())
    });
    listening.await.expect("it answers");
    for n in 0..=LIMIT {
        let headers = part(Headers::expecting(0), &fresh(), 1);
        let answer = put(&ground.client, &format!("{name}.{n}"), headers, "x").await;
        let expected = if n < LIMIT {
            Answer::Noted
        } else {
            Answer::Refused(TOO_MANY_OPEN)
        };
        assert_eq!(answer, expected, "batch {n}");
    }
    context.delete_stream(name).await.expect("deleted");
}

/// Carries: a commit on its own and a batch that names the same aggregate are not both written.
async fn batches_and_single_messages_exclude_each_other(ground: &Ground) {
    let clients = join_all((0..16).map(|n| ground.member(n))).await;
    let contested = fresh_subject();
    let writers = clients.iter().enumerate().map(|(n, client)| {
        let contested = contested.clone();
        async move {
            if n % 2 == 0 {
                return put(client, &contested, Headers::expecting(0), "single").await;
            }
            let subjects = [fresh_subject(), contested, fresh_subject()];
            let guarded = subjects.map(|subject| (subject, Headers::expecting(0)));
            publish(client, guarded.to_vec()).await
        }
    });
    let answers = join_all(writers).await;
    let winners = answers
        .iter()
        .filter(|answer| matches!(answer, Answer::Stored(_)));
    assert_eq!(winners.count(), 1, "{answers:?}");
    assert_eq!(history(&ground.client, &contested).await.len(), 1);
    for answer in &answers {
        let in_order = [Answer::Refused(WRONG), Answer::Refused(WRONG_IN_FLIGHT)];
        assert!(
            matches!(answer, Answer::Stored(_)) || in_order.contains(answer),
            "{answer:?}"
        );
    }
}
