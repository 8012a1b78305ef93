//! Providers on the network, asked over real connections: the suite that every provider passes, what
//! they are sent, and servers that misbehave.

mod conformance;
mod failures;
mod fallback;
mod frames;
mod requests;
mod server;

use engine::{
    Finish, Message,
    provider::{ChatRequest, End, Item, Provider},
};
use inference_worker::providers::{Dialect, Limits, Service, Settings, make};
use infra::config::Secret;
use server::Server;
use std::{sync::Arc, time::Duration};

/// How long anything may take that a test waits for.
const PATIENCE: Duration = Duration::from_secs(30);
/// A key that must not be seen anywhere.
const KEY: &str = "sk-never-to-be-seen";

/// Everything that came of an answer.
struct Heard {
    text: String,
    end: End,
}

impl Heard {
    /// The reason of a failure, which everything but a failure fails.
    fn reason(&self) -> &str {
        match &self.end.finish {
            Finish::Error(reason) => reason,
            other => panic!("it ended with {other:?} after {:?}", self.text),
        }
    }
}

fn service(server: &Server, dialect: Dialect) -> Service {
    Service {
        name: format!("{dialect:?}").to_lowercase(),
        base_url: server.url.parse().expect("a URL"),
        model: "the-model".to_owned(),
        key: Some(Secret::new(KEY)),
        logprobs: false,
        dialect,
    }
}

/// Patient with answers, impatient with silence.
const LIMITS: Limits = Limits {
    deadline: Duration::from_secs(20),
    silence: Duration::from_millis(500),
};

fn provider(services: Vec<Service>) -> Arc<dyn Provider> {
    let limits = LIMITS;
    make(&Settings::Remote { services, limits }).expect("a provider")
}

fn question(text: &str) -> ChatRequest {
    let message = Message {
        role: "user".into(),
        content: text.into(),
    };
    ChatRequest::new(vec![message], 100)
}

/// The whole answer to a question.
async fn ask(provider: &dyn Provider, text: &str) -> Heard {
    let mut answer = provider.answer(question(text)).expect("it is taken");
    let mut heard = String::new();
    loop {
        let item = tokio::time::timeout(PATIENCE, answer.next()).await;
        match item.expect("an item").expect("an end") {
            Item::Text { text, .. } => heard.push_str(&text),
            Item::End(end) => return Heard { text: heard, end },
        }
    }
}
