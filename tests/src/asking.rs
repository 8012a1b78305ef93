//! Asking past the gateway, with everything that a command can say, and reading what workers write.

use crate::{
    client::Client,
    world::{PATIENCE, World},
};
use amaima::stack::wait_for;
use async_nats::Client as Nats;
use domain::{
    Actor,
    id::{AccountId, CommandId, QueryId},
    query::{Answer, Options, Submission},
    wire::{
        command::{Body, Reply, Request, Via},
        error::Failure,
        token::{self, Chunk, Message, Terminal},
    },
};
use infra::{bus::Commands, clock, sealing::QueryKeys, tokens::Tokens};

/// Somebody who asks.
#[derive(Clone)]
pub struct Asking {
    nats: Nats,
    owner: AccountId,
}

/// A query that has ended.
#[derive(Clone, Debug)]
pub struct Told {
    /// Its pieces.
    pub chunks: Vec<Chunk>,
    /// Its end.
    pub terminal: Terminal,
}

impl Asking {
    /// In the name of somebody who is signed in.
    ///
    /// # Panics
    /// When nobody is, or NATS does not answer.
    pub async fn of(world: &World, client: &Client) -> Self {
        let owner = client.user.as_deref().expect("signed in");
        Self {
            nats: world.nats().await,
            owner: owner.parse().expect("an id"),
        }
    }

    /// Asks.
    ///
    /// # Panics
    /// When that is refused.
    pub async fn submit(&self, text: &str, options: Options) -> QueryId {
        let query = QueryId::new(clock::fresh_id());
        self.submit_as(query, text, options).await;
        query
    }

    /// Asks under this id.
    ///
    /// # Panics
    /// When that is refused.
    pub async fn submit_as(&self, query: QueryId, text: &str, options: Options) {
        let refused = self.try_submit(query, text, options).await;
        refused.unwrap_or_else(|failure| panic!("{failure:?}"));
    }

    /// Asks under this id.
    ///
    /// # Errors
    /// When that is refused.
    ///
    /// # Panics
    /// When command-svc does not answer.
    pub async fn try_submit(
        &self,
        query: QueryId,
        text: &str,
        options: Options,
    ) -> Result<(), Failure> {
        let request = Request {
            id: CommandId::new(clock::fresh_id()),
            actor: Actor::User(self.owner),
            request_id: "test".into(),
            traceparent: None,
            deadline: clock::now().plus_millis(30_000),
            fingerprint: None,
            body: Body::SubmitQuery {
                query,
                named: true,
                via: Via::Rest,
                submission: Submission {
                    text: text.into(),
                    operation: "general".into(),
                    file_ids: vec![],
                    context: None,
                    reference: None,
                    options: Some(Box::new(options)),
                },
            },
        };
        let reply = Commands::new(self.nats.clone()).insist(&request).await;
        match reply {
            Reply::Accepted { .. } => Ok(()),
            Reply::Refused { failure } => Err(failure),
            Reply::Unavailable | Reply::Overloaded { .. } => panic!("{reply:?}"),
        }
    }

    /// What was told of a query, once it has ended.
    ///
    /// # Panics
    /// When it does not end, or its messages are not numbered from 1 without a gap.
    pub async fn told(&self, query: QueryId) -> Told {
        let ended = wait_for("the end of a query", PATIENCE * 2, || async {
            let messages = self.messages(query).await?;
            match messages.last() {
                Some(last) if last.is_terminal() => Ok(messages),
                other => Err(format!("{other:?}")),
            }
        });
        let mut messages = ended.await.unwrap_or_else(|error| panic!("{error}"));
        assert!(
            messages
                .iter()
                .map(|message| message.seq)
                .eq(1..=messages.len() as u32)
        );
        let Some(token::Body::Terminal(terminal)) = messages.pop().map(|message| message.body)
        else {
            panic!("the last message is no end");
        };
        let chunks = messages
            .into_iter()
            .filter_map(|message| match message.body {
                token::Body::Chunk(chunk) => Some(chunk),
                token::Body::Queued { .. } | token::Body::Terminal(_) => None,
            });
        Told {
            chunks: chunks.collect(),
            terminal,
        }
    }

    /// Asks, and waits for the end.
    ///
    /// # Panics
    /// As the two steps do.
    pub async fn ask(&self, text: &str, options: Options) -> Told {
        let query = self.submit(text, options).await;
        self.told(query).await
    }

    /// The messages so far.
    ///
    /// # Errors
    /// When they cannot be read now.
    pub async fn messages(&self, query: QueryId) -> Result<Vec<Message>, String> {
        let key = QueryKeys::new(self.nats.clone())
            .ask(query, self.owner)
            .await;
        let key = key.map_err(|error| error.to_string())?;
        let tokens = Tokens::new(self.nats.clone());
        let history = tokens.history(query, key.key()).await;
        Ok(history.map_err(|error| error.to_string())?.messages)
    }
}

impl Told {
    /// The answer.
    ///
    /// # Panics
    /// When there is none, or it is not the chunks joined.
    pub fn answer(&self) -> &Answer {
        let Terminal::Completed { answer } = &self.terminal else {
            panic!("{:?}", self.terminal);
        };
        let joined: String = self
            .chunks
            .iter()
            .map(|chunk| chunk.text.as_str())
            .collect();
        assert_eq!(answer.response_text, joined);
        answer
    }

    /// Code and message of a failure.
    ///
    /// # Panics
    /// When it has not failed.
    pub fn failure(&self) -> (&'static str, &str) {
        match &self.terminal {
            Terminal::Failed { code, message } => (code.as_str(), message),
            other => panic!("{other:?}"),
        }
    }
}
