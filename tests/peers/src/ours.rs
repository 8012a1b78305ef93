//! The work by Amaima: command-svc and projection-svc as they are, over nats-server.
//!
//! It does more for the same commands than the peers do: each passes the bus, is checked against
//! the table of who may do what, and is recognised when it is repeated; policies write each query's
//! token stream and make a job of it. Nobody takes the jobs here.

use crate::{
    contest::{Contestant, Rows, Stored, wait_for_rows},
    database,
    work::{ANSWER, EVENTS, MODEL, OPERATION, QUESTION, Step, Task, WORKER},
};
use amaima::stack::Stack;
use anyhow::Context;
use async_nats::{Client, jetstream};
use domain::{
    Actor,
    id::{AccountId, CommandId, QueryId},
    query::{Answer, Submission, Usage},
    subject::{self, Kind},
    wire::command::{Body, Reply, Request, Via},
};
use futures_util::TryStreamExt;
use infra::{bus::Commands, clock, config, lifecycle::Lifecycle, sealing::Sealing, telemetry};
use sqlx::PgPool;
use std::time::{Duration, Instant};

/// How long an answer may take; commands are sent again until then.
const DEADLINE_MILLIS: i64 = 30_000;
/// How long services may take to finish their work.
const GRACE: Duration = Duration::from_secs(30);

/// The services and their servers.
pub struct Ours {
    nats: config::Nats,
    client: Client,
    commands: Commands,
    /// The rows that are audited.
    pool: PgPool,
    /// An empty database for the rebuild.
    another: String,
    services: Lifecycle,
}

impl Ours {
    /// On this stack, whose log is empty, with two empty databases.
    ///
    /// # Errors
    /// When a server does not answer.
    pub async fn start(stack: &Stack, database: &str, another: &str) -> anyhow::Result<Self> {
        let endpoints = stack.endpoints();
        let nats = config::Nats {
            // command-svc asks the server whether it syncs every write, and does not start otherwise.
            sync: endpoints.nats_sync,
            system_url: endpoints.nats_system_url.clone(),
            ..config::Nats::at(&endpoints.nats_url)
        };
        let client = infra::nats::connect(&nats, "peers").await?;
        let services = Lifecycle::new();
        let (config, life) = (command_svc::Config::at(nats.clone(), Sealing::Off), services.clone());
        services.spawn("command-svc", async move {
            if let Err(error) = command_svc::run(config, life).await {
                crate::say(&format!("command-svc: {}", telemetry::chain(&error)));
            }
        });
        project(&nats, database, &services);
        Ok(Self {
            commands: Commands::new(client.clone()),
            client,
            pool: database::pool(database, 2).await?,
            another: another.to_owned(),
            services,
            nats,
        })
    }
}

/// Starts projection-svc on this database.
fn project(nats: &config::Nats, database: &str, services: &Lifecycle) {
    // The peers keep everything as it is.
    let postgres = config::Postgres::at(database);
    let config = projection_svc::Config::at(nats.clone(), Sealing::Off, postgres);
    let life = services.clone();
    services.spawn("projection-svc", async move {
        if let Err(error) = projection_svc::run(config, life).await {
            crate::say(&format!("projection-svc: {}", telemetry::chain(&error)));
        }
    });
}

impl Contestant for Ours {
    /// The service meets and settles conflicts itself, so none are counted here.
    async fn give(&self, task: &Task, step: Step) -> anyhow::Result<u64> {
        let (actor, body) = order(task, step);
        let request = Request {
            id: CommandId::new(clock::fresh_id()),
            actor,
            request_id: "req_0123456789ab".into(),
            traceparent: None,
            deadline: clock::now().plus_millis(DEADLINE_MILLIS),
            body,
            fingerprint: None,
        };
        match self.commands.insist(&request).await {
            Reply::Accepted { .. } => Ok(0),
            other => anyhow::bail!("not accepted: {other:?}"),
        }
    }

    async fn completed(&self) -> anyhow::Result<u64> {
        database::count(
            &self.pool,
            "SELECT count(*) FROM rm.queries WHERE status = 'completed'",
        )
        .await
    }

    /// Each of these commands is one event, and each event the only one of its message.
    async fn stored(&self) -> anyhow::Result<Stored> {
        let context = jetstream::new(self.client.clone());
        let log = context.get_stream(subject::EVENTS).await?;
        let queries = format!("ev.*.{}.*", Kind::Query.as_str());
        let mut subjects = log.info_with_subjects(queries).await?;
        let mut stored = Stored {
            events: 0,
            aggregates: 0,
            uneven: 0,
        };
        while let Some((_, messages)) = subjects.try_next().await? {
            let messages = messages as u64;
            stored.events += messages;
            stored.aggregates += 1;
            stored.uneven += u64::from(messages != EVENTS);
        }
        Ok(stored)
    }

    async fn rows(&self) -> anyhow::Result<Rows> {
        let query = format!(
            "SELECT count(*), count(*) FILTER (WHERE status = 'completed'
                 AND length(query) = 1 + {QUESTION} AND length(response_text) = 1 + {ANSWER}
                 AND started_at IS NOT NULL AND completed_at IS NOT NULL)
             FROM rm.queries"
        );
        database::rows(&self.pool, &query).await
    }

    /// The whole way of a new instance with an empty database: connect, make the tables, become
    /// their owner, read the log from its beginning.
    async fn rebuild(&mut self, expected: u64) -> anyhow::Result<Duration> {
        self.services.stop(GRACE).await;
        self.pool.close().await;
        self.pool = database::pool(&self.another, 2).await?;
        self.services = Lifecycle::new();
        let began = Instant::now();
        project(&self.nats, &self.another, &self.services);
        wait_for_rows(self, expected).await.context("rebuild")?;
        Ok(began.elapsed())
    }

    async fn stop(self) {
        self.services.stop(GRACE).await;
        self.pool.close().await;
    }
}

/// The command of a step, and who gives it.
fn order(task: &Task, step: Step) -> (Actor, Body) {
    let query = QueryId::new(task.query);
    let worker = Actor::Worker(WORKER.into());
    match step {
        Step::Submit => (
            Actor::User(AccountId::new(task.owner)),
            Body::SubmitQuery {
                query,
                named: true,
                via: Via::Socket,
                submission: Submission {
                    text: task.question.clone(),
                    operation: OPERATION.into(),
                    file_ids: vec![],
                    context: None,
                    reference: None,
                    options: None,
                },
            },
        ),
        Step::Start => (
            worker,
            Body::StartQuery {
                query,
                model: MODEL.into(),
            },
        ),
        Step::Complete => (
            worker,
            Body::CompleteQuery {
                query,
                answer: Answer {
                    response_text: task.answer.clone(),
                    model_used: MODEL.into(),
                    confidence: None,
                    latency_ms: 0,
                    finish_reason: "stop".into(),
                    usage: Usage::default(),
                    chunks: 0,
                },
            },
        ),
    }
}
