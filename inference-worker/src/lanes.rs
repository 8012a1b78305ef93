//! The queues that jobs wait in: one for each model and priority, and those for whichever model has
//! room. The server hands jobs of one consumer out in turn, so that each has a consumer of its own.

use crate::models::{Models, Served};
use async_nats::{
    Subscriber,
    jetstream::{
        self, Message,
        consumer::{AckPolicy, pull},
    },
};
use domain::subject::{self, Priority};
use futures_util::{StreamExt, future::try_join_all};
use std::{future::Future, sync::Arc, time::Duration};
use tokio::time::timeout;

/// After so long without a sign of life a job goes to another worker.
const ACK_WAIT: Duration = Duration::from_secs(4);
/// How long one pull waits at the server. A server that restarts forgets it, so that this is also
/// how long a job may wait after that.
const PULL: Duration = Duration::from_secs(2);
/// An answer of the server may take so much longer.
const SLACK: Duration = Duration::from_millis(500);
/// Where every job waited in earlier versions. The server does not let two consumers have a job.
const EARLIER: &str = "workers";

type Error = async_nats::Error;

/// Where jobs of one priority wait for one model, or for any.
pub(crate) struct Lane {
    subject: String,
    consumer: String,
    /// `None` for any.
    model: Option<Arc<Served>>,
    priority: Priority,
}

impl Lane {
    /// How urgent its jobs are.
    pub(crate) const fn priority(&self) -> Priority {
        self.priority
    }

    /// The model that would answer a job from here at once.
    pub(crate) fn answered_by<'a>(
        &'a self,
        with_room: &[&'a Arc<Served>],
    ) -> Option<&'a Arc<Served>> {
        match &self.model {
            None => with_room.first().copied(),
            Some(model) => with_room
                .iter()
                .copied()
                .find(|free| free.id() == model.id()),
        }
    }
}

/// All queues of a worker.
pub(crate) struct Lanes {
    context: jetstream::Context,
    /// By falling priority.
    all: Vec<Lane>,
    /// Lanes of one priority take turns in being the first.
    turn: usize,
}

impl Lanes {
    /// Makes sure that their consumers are there.
    pub(crate) async fn prepare(
        context: &jetstream::Context,
        models: &Models,
    ) -> Result<Self, Error> {
        let stream = context.get_stream_no_info(subject::JOBS).await?;
        // That it is not there is what should be.
        stream.delete_consumer(EARLIER).await.ok();
        let mut all = vec![];
        for priority in Priority::ALL {
            let served = models
                .iter()
                .map(|served| (served.id(), Some(served.clone())));
            for (id, model) in served.chain([(subject::ANY_MODEL, None)]) {
                all.push(Lane {
                    subject: subject::job(id, priority),
                    consumer: subject::job_consumer(id, priority),
                    model,
                    priority,
                });
            }
        }
        let made = all.iter().map(|lane| {
            let config = pull::Config {
                durable_name: Some(lane.consumer.clone()),
                description: Some("Inference workers".into()),
                filter_subject: lane.subject.clone(),
                ack_policy: AckPolicy::Explicit,
                ack_wait: ACK_WAIT,
                max_ack_pending: 10_000,
                ..pull::Config::default()
            };
            context.create_consumer_on_stream(config, subject::JOBS)
        });
        try_join_all(made).await?;
        Ok(Self {
            context: context.clone(),
            all,
            turn: 0,
        })
    }

    /// The lane that a job was taken from.
    pub(crate) fn of(&self, message: &Message) -> Option<&Lane> {
        let subject = message.subject.as_str();
        self.all.iter().find(|lane| lane.subject == subject)
    }

    /// A job of the highest priority among the lanes that are `open`, when there is one, or none after
    /// a while or when `interrupted`; and the pull, which is still to be ended.
    pub(crate) async fn pull(
        &mut self,
        open: impl Fn(&Lane) -> bool,
        interrupted: impl Future<Output = ()>,
    ) -> Result<(Option<Message>, Pull), Error> {
        self.turn = self.turn.wrapping_add(1);
        let lanes = self.all.iter().enumerate().filter(|(_, lane)| open(lane));
        let mut lanes: Vec<(usize, &Lane)> = lanes.collect();
        let count = lanes.len().max(1);
        lanes.sort_by_key(|(index, lane)| (lane.priority, (index + self.turn) % count));
        let mut pull = Pull::begin(&self.context).await?;
        for (_, lane) in &lanes {
            pull.ask(lane, Waits::Not).await?;
            if let Ok(Some(job)) = timeout(SLACK, pull.next()).await.unwrap_or(Ok(None)) {
                return Ok((Some(job), pull));
            }
        }
        for (_, lane) in &lanes {
            pull.ask(lane, Waits::For(PULL)).await?;
        }
        let answers = async {
            for _ in &lanes {
                if let Some(job) = pull.next().await? {
                    return Ok::<_, Error>(Some(job));
                }
            }
            Ok(None)
        };
        let job = tokio::select! {
            job = answers => job?,
            () = tokio::time::sleep(PULL + SLACK) => None,
            () = interrupted => None,
        };
        Ok((job, pull))
    }
}

enum Waits {
    Not,
    For(Duration),
}

/// What the server is asked for at one time, and answers.
pub(crate) struct Pull {
    context: jetstream::Context,
    inbox: String,
    answers: Subscriber,
}

impl Pull {
    async fn begin(context: &jetstream::Context) -> Result<Self, Error> {
        let client = context.client();
        let inbox = client.new_inbox();
        let answers = client.subscribe(inbox.clone()).await?;
        Ok(Self {
            context: context.clone(),
            inbox,
            answers,
        })
    }

    /// Asks for one job.
    async fn ask(&self, lane: &Lane, waits: Waits) -> Result<(), Error> {
        let subject = format!(
            "$JS.API.CONSUMER.MSG.NEXT.{}.{}",
            subject::JOBS,
            lane.consumer
        );
        let how = match waits {
            Waits::Not => r#"{"batch":1,"no_wait":true}"#.to_owned(),
            Waits::For(most) => format!(r#"{{"batch":1,"expires":{}}}"#, most.as_nanos()),
        };
        let client = self.context.client();
        let asked = client.publish_with_reply(subject, self.inbox.clone(), how.into());
        Ok(asked.await?)
    }

    /// The next answer: a job, or that there was none.
    async fn next(&mut self) -> Result<Option<Message>, Error> {
        let message = self
            .answers
            .next()
            .await
            .ok_or("the connection is closed")?;
        match message.status.map(|status| status.as_u16()) {
            None => Ok(Some(Message {
                message,
                context: self.context.clone(),
            })),
            Some(404 | 408) => Ok(None),
            Some(status) => {
                let reason = message.description.as_deref().unwrap_or_default();
                Err(format!("a pull was answered with {status} {reason}").into())
            }
        }
    }

    /// Takes back what was asked for and not answered. Seldom a job is on its way and comes still.
    pub(crate) async fn end(mut self) -> Result<Vec<Message>, Error> {
        self.answers.drain().await?;
        let mut jobs = vec![];
        let rest = async {
            while let Some(message) = self.answers.next().await {
                if message.status.is_none() {
                    let context = self.context.clone();
                    jobs.push(Message { message, context });
                }
            }
        };
        // Without a connection there is nothing on its way.
        timeout(SLACK, rest).await.ok();
        Ok(jobs)
    }
}
