//! The expected sequence under concurrent writers.

use super::{
    Ground,
    answers::{self, Answer, Headers, WRONG, WRONG_IN_FLIGHT, history, put},
    fresh_subject, on_one_and_on_three,
};
use futures_util::{StreamExt, future::join_all};
use std::collections::BTreeMap;

on_one_and_on_three!(
    of_many_writers_one_wins,
    of_many_messages_on_one_connection_one_wins,
    writers_who_take_turns_leave_no_gap,
);

const CONFLICTS: [u64; 2] = [WRONG, WRONG_IN_FLIGHT];

fn check(answers: &[Answer], log: &[(u64, String)]) {
    let [(seq, _)] = log else {
        panic!("{} messages are stored: {answers:?}", log.len());
    };
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for answer in answers {
        *counts.entry(format!("{answer:?}")).or_default() += 1;
    }
    let winners = answers
        .iter()
        .filter(|answer| **answer == Answer::Stored(*seq));
    assert_eq!(winners.count(), 1, "{counts:?}");
    let others = |answer: &Answer| match answer {
        Answer::Stored(at) => at == seq,
        Answer::Refused(code) => CONFLICTS.contains(code),
        Answer::Duplicate(_) | Answer::Noted => false,
    };
    assert!(answers.iter().all(others), "{counts:?}");
    println!("{counts:?}");
}

/// Carries: two command services never both change an aggregate that they saw in the same state.
/// The losers get one of two codes, and the client library maps only the first.
async fn of_many_writers_one_wins(ground: &Ground) {
    let clients = join_all((0..24).map(|n| ground.member(n))).await;
    for _ in 0..5 {
        let subject = fresh_subject();
        let writers = clients
            .iter()
            .map(|client| put(client, &subject, Headers::expecting(0), "x"));
        let answers = join_all(writers).await;
        check(&answers, &history(&ground.client, &subject).await);
    }
}

/// Carries: the same without a round trip between the messages, which is where a replicated stream
/// compares with messages that are in flight (10164) and not with the last stored one (10071).
async fn of_many_messages_on_one_connection_one_wins(ground: &Ground) {
    const MESSAGES: usize = 50;
    let subject = fresh_subject();
    let inbox = ground.client.new_inbox();
    let mut replies = ground
        .client
        .subscribe(inbox.clone())
        .await
        .expect("an inbox");
    for n in 0..MESSAGES {
        let (headers, payload) = (Headers::expecting(0).map(), n.to_string().into());
        ground
            .client
            .publish_with_reply_and_headers(subject.clone(), inbox.clone(), headers, payload)
            .await
            .expect("sent");
    }
    let mut answers = Vec::new();
    while answers.len() < MESSAGES {
        let reply = replies.next().await.expect("an answer");
        answers.push(answers::read(&reply.payload));
    }
    check(&answers, &history(&ground.client, &subject).await);
    let in_flight = answers.contains(&Answer::Refused(WRONG_IN_FLIGHT));
    assert_eq!(in_flight, ground.replicated(), "{answers:?}");
}

/// Carries: whoever is refused, reads and tries again gets through, and the predecessors that the
/// messages name form one chain without a gap.
async fn writers_who_take_turns_leave_no_gap(ground: &Ground) {
    const EACH: usize = 8;
    let subject = fresh_subject();
    let clients = join_all((0..4).map(|n| ground.member(n))).await;
    let writers = clients.iter().enumerate().map(|(writer, client)| {
        let (subject, leader) = (&subject, &ground.client);
        async move {
            for n in 0..EACH {
                loop {
                    let last = history(leader, subject)
                        .await
                        .last()
                        .map_or(0, |last| last.0);
                    let payload = format!("{last}:{writer}.{n}");
                    match put(client, subject, Headers::expecting(last), &payload).await {
                        Answer::Stored(_) => break,
                        Answer::Refused(code) if CONFLICTS.contains(&code) => {}
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
    });
    join_all(writers).await;
    let log = history(&ground.client, &subject).await;
    assert_eq!(log.len(), EACH * clients.len());
    let mut last = 0;
    for (seq, payload) in log {
        assert!(payload.starts_with(&format!("{last}:")), "{seq}: {payload}");
        last = seq;
    }
}
