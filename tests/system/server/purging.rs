//! Taking messages out of a stream on purpose.

use super::{
    Ground,
    answers::{Headers, stored},
    fresh_subject, on_one_and_on_three,
};
use async_nats::jetstream::{
    self,
    stream::{Config, StorageType},
};
use domain::subject;
use infra::direct_get;
use uuid::Uuid;

on_one_and_on_three!(purging_cannot_be_allowed_later, a_purge_stops_at_a_sequence);

/// Carries: a log that was made without `LOG_KEEP_DAYS` keeps everything, whatever is set later; one
/// that was made with it can be left by queries, and each service can tell from the stream.
async fn purging_cannot_be_allowed_later(ground: &Ground) {
    let context = jetstream::new(ground.client.clone());
    let log = context.get_stream(subject::EVENTS).await.expect("EVENTS");
    let mut config = log.cached_info().config.clone();
    assert!(config.deny_purge);
    config.deny_purge = false;
    let refused = context.update_stream(config).await.expect_err("refused");
    let refused = refused.to_string();
    assert!(refused.contains("can not cancel deny purge"), "{refused}");
}

/// Carries: what was appended after the copy was compared stays in the log.
async fn a_purge_stops_at_a_sequence(ground: &Ground) {
    let context = jetstream::new(ground.client.clone());
    let name = format!("PURGED_{}", Uuid::new_v4().simple());
    let subject = fresh_subject().replace("ev.", "purged.");
    let made = context.create_stream(Config {
        name: name.clone(),
        subjects: vec![subject.clone()],
        storage: StorageType::File,
        num_replicas: ground.cluster.replicas(),
        deny_delete: true,
        allow_direct: true,
        ..Config::default()
    });
    let stream = made.await.expect("a stream");
    let first = stored(&ground.client, &subject, Headers::expecting(0), "a").await;
    let second = stored(&ground.client, &subject, Headers::expecting(first), "b").await;
    let third = stored(&ground.client, &subject, Headers::expecting(second), "c").await;
    let purged = stream.purge().filter(&subject).sequence(third).await;
    assert_eq!(purged.expect("purged").purged, 2);
    let mut left = context.get_stream(&name).await.expect("the stream");
    let state = left.info().await.expect("its state").state.clone();
    assert_eq!((state.messages, state.last_sequence), (1, third));
    if !ground.replicated() {
        // A replica may lag.
        let found = direct_get::subject(&ground.client, &name, &subject, 1).await;
        let found: Vec<u64> = found.expect("read").iter().map(|each| each.seq).collect();
        assert_eq!(found, [third]);
    }
    // A subject of which nothing is left is a new one to whoever appends: its past has to be asked
    // for elsewhere.
    stream.purge().filter(&subject).await.expect("purged");
    let again = stored(&ground.client, &subject, Headers::expecting(0), "a").await;
    assert_eq!(again, third + 1);
}
