//! Messages of a durable consumer, settled one after the other within a subject and side by side
//! otherwise.
//!
//! A message that cannot be settled for long holds up its own subject and nothing else. All that is
//! in hand, waiting or in work, is kept ours by signs of life; a delivery of something that we have
//! already is not begun twice. What a killed instance had in hand comes to another one after
//! [`ACK_WAIT`]; a stopping one gives back what it has not begun. Two instances may share a
//! consumer: then two messages of one subject can be in work at the same time, one at each.

mod in_hand;

use async_nats::jetstream::{
    self, AckKind, Message,
    consumer::{AckPolicy, PullConsumer, pull},
};
use futures_util::StreamExt;
use in_hand::{Delivery, InHand};
use infra::{lifecycle::Lifecycle, retry::Backoff};
use std::{future::Future, sync::Arc, time::Duration};
use tokio::sync::mpsc;
use tracing::{debug, warn};

/// Messages in hand at one instance; the consumer pauses while there are so many.
const IN_HAND: usize = 2_048;
/// Not acknowledged and without a sign of life for so long, a message goes to another instance.
const ACK_WAIT: Duration = Duration::from_secs(6);
/// Signs of life come this often.
const SIGN: Duration = Duration::from_secs(2);
/// A pull waits so long at the server; one that restarts is noticed after twice the heartbeat.
const PULL: Duration = Duration::from_secs(10);
const HEARTBEAT: Duration = Duration::from_secs(2);

/// How work on a message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It need not come again.
    Done,
    /// It should come again after this pause.
    Again(Duration),
}

/// Which messages.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// The stream.
    pub stream: &'static str,
    /// The durable consumer's name.
    pub durable: &'static str,
    /// Told by the server to whoever asks.
    pub description: &'static str,
    /// The subjects.
    pub filter: &'static str,
}

/// Takes messages until the lifecycle stops it, and has `work` settle each.
pub async fn run<W, F>(context: jetstream::Context, source: Source, life: Lifecycle, work: W)
where
    W: Fn(Arc<Message>) -> F,
    F: Future<Output = Settled> + Send + 'static,
{
    let (ended, ends) = mpsc::channel(IN_HAND * 2);
    let mut hand = Hand {
        messages: InHand::new(),
        work,
        life: life.clone(),
        ended,
        ends,
    };
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    while !life.is_stopping() {
        match hand.take_from(&context, source).await {
            Ok(()) => debug!(consumer = source.durable, "the consumer ended"),
            Err(error) => warn!(consumer = source.durable, %error, "the consumer is lost"),
        }
        hand.settle_for(backoff.delay()).await;
    }
    hand.give_back().await;
}

type End = (String, Settled);

struct Hand<W> {
    messages: InHand<Arc<Message>>,
    work: W,
    life: Lifecycle,
    ended: mpsc::Sender<End>,
    ends: mpsc::Receiver<End>,
}

impl<W, F> Hand<W>
where
    W: Fn(Arc<Message>) -> F,
    F: Future<Output = Settled> + Send + 'static,
{
    async fn take_from(
        &mut self,
        context: &jetstream::Context,
        source: Source,
    ) -> Result<(), async_nats::Error> {
        let config = pull::Config {
            durable_name: Some(source.durable.into()),
            description: Some(source.description.into()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: (IN_HAND * 2) as i64,
            filter_subject: source.filter.into(),
            ..pull::Config::default()
        };
        let consumer: PullConsumer = context
            .create_consumer_on_stream(config, source.stream)
            .await?;
        let mut messages = consumer
            .stream()
            .max_messages_per_batch(IN_HAND / 2)
            .heartbeat(HEARTBEAT)
            .expires(PULL)
            .messages()
            .await?;
        let life = self.life.clone();
        let mut signs = tokio::time::interval(SIGN);
        loop {
            let room = self.messages.len() < IN_HAND;
            tokio::select! {
                Some((subject, settled)) = self.ends.recv() => self.end(&subject, settled).await,
                message = messages.next(), if room => match message {
                    Some(message) => self.deliver(Arc::new(message?)),
                    None => return Ok(()),
                },
                _ = signs.tick() => self.show_life().await,
                () = life.stopping() => return Ok(()),
            }
        }
    }

    /// Goes on with what is in hand, while nothing new can be had.
    async fn settle_for(&mut self, pause: Duration) {
        let over = tokio::time::sleep(pause);
        tokio::pin!(over);
        let life = self.life.clone();
        loop {
            tokio::select! {
                Some((subject, settled)) = self.ends.recv() => self.end(&subject, settled).await,
                () = &mut over => return,
                () = life.stopping() => return,
            }
        }
    }

    /// Others may have at once what is not begun; what is in work is finished.
    async fn give_back(&mut self) {
        for message in self.messages.drop_waiting() {
            tell(&message, AckKind::Nak(None)).await;
        }
        let mut signs = tokio::time::interval(SIGN);
        while self.messages.len() > 0 {
            tokio::select! {
                Some((subject, settled)) = self.ends.recv() => self.end(&subject, settled).await,
                _ = signs.tick() => self.show_life().await,
            }
        }
    }

    fn deliver(&mut self, message: Arc<Message>) {
        let seq = message.info().map_or(0, |info| info.stream_sequence);
        let subject = message.subject.to_string();
        match self.messages.deliver(&subject, seq, message.clone()) {
            Delivery::Begin => self.begin(subject, message),
            Delivery::Waits | Delivery::Known => {}
        }
    }

    fn begin(&self, subject: String, message: Arc<Message>) {
        let (working, ended) = ((self.work)(message), self.ended.clone());
        self.life.spawn("delivery", async move {
            let settled = working.await;
            // There is room for every message in hand.
            ended.send((subject, settled)).await.ok();
        });
    }

    async fn end(&mut self, subject: &str, settled: Settled) {
        // The newest delivery of it is the one that the server wants to hear of.
        if let Some(message) = self.messages.settle(subject) {
            let kind = match settled {
                Settled::Done => AckKind::Ack,
                Settled::Again(pause) => AckKind::Nak(Some(pause)),
            };
            tell(&message, kind).await;
        }
        if let Some(next) = self.messages.current(subject) {
            self.begin(subject.to_owned(), next.clone());
        }
    }

    async fn show_life(&self) {
        for message in self.messages.all() {
            tell(message, AckKind::Progress).await;
        }
    }
}

/// Tells the server about a message. What gets lost is made up for by another delivery.
async fn tell(message: &Message, kind: AckKind) {
    if let Err(error) = message.ack_with(kind).await {
        debug!(subject = %message.subject, %error, "the server was not told of a message");
    }
}
