//! A client that does random things, repeats what had no answer, and writes everything down.

use super::{
    Random,
    answer::{Answer, id, item, outcome, sequence, shown_by},
    call::{Call, Effect, Handle, Operation, Outcome, Shown, ShownQuery},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{net::SocketAddr, time::Duration};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

/// Longest wait for an answer: longer than any pause, shorter than a run.
const PATIENCE: Duration = Duration::from_secs(12);
/// How often a call without an answer is repeated, and what lies between.
const REPEATS: usize = 40;
const BETWEEN: Duration = Duration::from_millis(120);
/// Questions of one person: then the client becomes somebody else, so that lists stay whole.
const QUESTIONS: usize = 80;
/// Most items of a list.
const LIST: usize = 100;
const TOKEN: &str = "x-consistency-token";
const PASSWORD: &str = "password123";

pub(super) struct Client {
    index: usize,
    http: reqwest::Client,
    gateway: SocketAddr,
    random: Random,
    started: Instant,
    questions_per_second: f64,
    questions: usize,
    person: Person,
    pub calls: Vec<Call>,
}

#[derive(Default)]
struct Person {
    account: Uuid,
    email: String,
    access: String,
    refresh: String,
    session: Uuid,
    refresh_id: Uuid,
    /// As the last accepted write returned it.
    token: Option<String>,
    questions: Vec<Operation>,
    queries: Vec<Uuid>,
}

impl Client {
    pub fn new(index: usize, gateway: SocketAddr, seed: u64, started: Instant) -> Self {
        let http = reqwest::Client::builder().timeout(PATIENCE).build();
        Self {
            index,
            http: http.expect("an HTTP client"),
            gateway,
            random: Random::new(seed),
            started,
            questions_per_second: 0.6,
            questions: 0,
            person: Person::default(),
            calls: Vec::new(),
        }
    }

    /// Does random things until then.
    pub async fn run(&mut self, until: Instant) {
        self.become_somebody().await;
        while Instant::now() < until {
            if self.person.queries.len() >= QUESTIONS {
                self.become_somebody().await;
            }
            match self.random.below(13) {
                0..=2 if self.may_ask() => self.ask().await,
                12 => self.ask_otherwise().await,
                3 => self.ask_again().await,
                4 => self.cancel().await,
                5 => self.refresh().await,
                6..=8 => self.read_one().await,
                9 => self.read_sessions().await,
                _ => self.read_list().await,
            }
            sleep(Duration::from_millis(self.random.below(60) as u64)).await;
        }
    }

    /// Reads everything once more, when nothing moves.
    pub async fn look_back(&mut self) {
        self.read_list().await;
        self.read_sessions().await;
        for query in self.person.queries.clone() {
            self.read(query).await;
        }
    }

    /// The worker answers a few questions a second; whatever is asked has to end after the run.
    fn may_ask(&self) -> bool {
        let earned = self.started.elapsed().as_secs_f64() * self.questions_per_second;
        (self.questions as f64) < earned + 2.0
    }

    async fn become_somebody(&mut self) {
        let email = format!("{}@example.com", self.random.id());
        self.person = Person {
            email: email.clone(),
            ..Person::default()
        };
        let body = json!({ "email": email, "password": PASSWORD });
        for _ in 0..REPEATS {
            let began = self.started.elapsed();
            let answer = self.post("/v1/auth/register", &body, &[]).await;
            let outcome = outcome(&answer, |answer| {
                let (account, session) = self.person.adopt(&answer.body)?;
                Some(Effect::Account { account, session })
            });
            let known = outcome.is_known();
            self.learn(&outcome, &answer);
            self.record(
                began,
                Operation::Register {
                    email: email.clone(),
                },
                outcome,
            );
            if known {
                break;
            }
            sleep(BETWEEN).await;
        }
        if self.person.session.is_nil() {
            // The first attempt was in effect, and this repeat was told that the address is taken.
            self.sign_in().await;
        }
    }

    async fn sign_in(&mut self) {
        let body = json!({ "email": self.person.email, "password": PASSWORD });
        for _ in 0..REPEATS {
            let began = self.started.elapsed();
            let answer = self.post("/v1/auth/login", &body, &[]).await;
            let outcome = outcome(&answer, |answer| {
                let (_, session) = self.person.adopt(&answer.body)?;
                Some(Effect::Session(session))
            });
            let known = outcome.is_known();
            self.learn(&outcome, &answer);
            self.record(began, Operation::SignIn, outcome);
            if known {
                return;
            }
            sleep(BETWEEN).await;
        }
    }

    async fn ask(&mut self) {
        self.questions += 1;
        let text = format!("What is an aggregate? ({}.{})", self.index, self.questions);
        let handle = match self.random.below(5) {
            0 => Handle::None,
            1..=2 => Handle::Id(self.random.id()),
            _ => Handle::Key(self.random.id().to_string()),
        };
        let operation = Operation::Submit { text, handle };
        self.person.questions.push(operation.clone());
        self.submit(operation).await;
    }

    async fn ask_again(&mut self) {
        let repeatable = |each: &&Operation| match each {
            Operation::Submit { handle, .. } => *handle != Handle::None,
            _ => false,
        };
        let asked: Vec<_> = self
            .person
            .questions
            .iter()
            .filter(repeatable)
            .cloned()
            .collect();
        if let Some(operation) = self.random.pick(&asked).cloned() {
            self.submit(operation).await;
        }
    }

    /// Another question under a key that has been used: refused, unless the first never arrived.
    async fn ask_otherwise(&mut self) {
        let key = |each: &Operation| match each {
            Operation::Submit {
                handle: Handle::Key(key),
                ..
            } => Some(key.clone()),
            _ => None,
        };
        let keys: Vec<String> = self.person.questions.iter().filter_map(key).collect();
        let Some(key) = self.random.pick(&keys).cloned() else {
            return;
        };
        self.questions += 1;
        let text = format!("What else? ({}.{})", self.index, self.questions);
        let handle = Handle::Key(key);
        self.submit(Operation::Submit { text, handle }).await;
    }

    async fn submit(&mut self, operation: Operation) {
        let Operation::Submit { text, handle } = &operation else {
            return;
        };
        let mut body = json!({ "query": text });
        let mut headers = Vec::new();
        match handle {
            Handle::Id(id) => body["query_id"] = id.to_string().into(),
            Handle::Key(key) => headers.push(("idempotency-key", key.clone())),
            Handle::None => {}
        }
        if !self.random.one_in(5) {
            headers.push(("prefer", "respond-async".to_owned()));
        }
        for _ in 0..REPEATS {
            let began = self.started.elapsed();
            let answer = self.post("/v1/query", &body, &headers).await;
            let outcome = outcome(&answer, |answer| {
                let query = id(&answer.body["query_id"])?;
                let answer = answer.body["response_text"].as_str().map(str::to_owned);
                Some(Effect::Query { query, answer })
            });
            let known = outcome.is_known();
            self.learn(&outcome, &answer);
            if let Outcome::Accepted {
                effect: Effect::Query { query, .. },
                ..
            } = &outcome
                && !self.person.queries.contains(query)
            {
                self.person.queries.push(*query);
            }
            self.record(began, operation.clone(), outcome);
            // Without an id or a key a repeat might be another question; and not everybody repeats.
            if known || *handle == Handle::None || self.random.one_in(10) {
                return;
            }
            sleep(BETWEEN).await;
        }
    }

    async fn cancel(&mut self) {
        // One of the latest, which may still be open.
        let late = self.person.queries.len().saturating_sub(3);
        let Some(query) = self.random.pick(&self.person.queries[late..]).copied() else {
            return;
        };
        let began = self.started.elapsed();
        let path = format!("/v1/queries/{query}/cancel");
        let answer = self.post(&path, &json!({}), &[]).await;
        let outcome = outcome(&answer, |_| Some(Effect::Ended));
        self.learn(&outcome, &answer);
        self.record(began, Operation::Cancel { query }, outcome);
    }

    async fn refresh(&mut self) {
        let (session, superseded) = (self.person.session, self.person.refresh_id);
        let body = json!({ "refresh_token": self.person.refresh });
        for _ in 0..REPEATS {
            let began = self.started.elapsed();
            let answer = self.post("/v1/auth/refresh", &body, &[]).await;
            let outcome = outcome(&answer, |answer| {
                self.person.adopt(&answer.body)?;
                Some(Effect::Rotated(self.person.refresh_id))
            });
            let refused = matches!(outcome, Outcome::Refused(_));
            let known = outcome.is_known();
            self.learn(&outcome, &answer);
            self.record(
                began,
                Operation::Refresh {
                    session,
                    superseded,
                },
                outcome,
            );
            if refused {
                // An attempt before this one was in effect, and its answer was lost.
                self.sign_in().await;
            }
            if known {
                return;
            }
            sleep(BETWEEN).await;
        }
    }

    async fn read_one(&mut self) {
        // The latest ones move.
        let late = self.person.queries.len().saturating_sub(6);
        if let Some(query) = self.random.pick(&self.person.queries[late..]).copied() {
            self.read(query).await;
        }
    }

    async fn read(&mut self, query: Uuid) {
        let path = format!("/v1/queries/{query}");
        let (began, at_least, answer) = self.get(&path).await;
        let shown = |answer: &Answer| {
            let queries = match answer.status {
                StatusCode::NOT_FOUND => Vec::new(),
                _ => vec![item(&answer.body)?],
            };
            Some(Shown {
                queries,
                sessions: Vec::new(),
                complete: true,
            })
        };
        let outcome = shown_by(&answer, shown);
        self.record(began, Operation::ReadQuery { query, at_least }, outcome);
    }

    async fn read_list(&mut self) {
        let (began, at_least, answer) = self.get(&format!("/v1/queries?limit={LIST}")).await;
        let outcome = shown_by(&answer, |answer| {
            let items = answer.body.as_array()?;
            let queries: Vec<ShownQuery> = items.iter().map(item).collect::<Option<_>>()?;
            let complete = queries.len() < LIST;
            Some(Shown {
                queries,
                sessions: Vec::new(),
                complete,
            })
        });
        self.record(began, Operation::ReadQueries { at_least }, outcome);
    }

    async fn read_sessions(&mut self) {
        let (began, at_least, answer) = self.get("/v1/auth/sessions").await;
        let outcome = shown_by(&answer, |answer| {
            let one = |each: &Value| {
                Some((
                    id(&each["session_id"])?,
                    each["last_seen_at"].as_str()?.to_owned(),
                ))
            };
            let sessions = answer
                .body
                .as_array()?
                .iter()
                .map(one)
                .collect::<Option<_>>()?;
            Some(Shown {
                queries: Vec::new(),
                sessions,
                complete: true,
            })
        });
        self.record(began, Operation::ReadSessions { at_least }, outcome);
    }

    async fn get(&mut self, path: &str) -> (Duration, Option<u64>, Result<Answer, String>) {
        let token = self.person.token.clone().filter(|_| !self.random.one_in(3));
        let headers: Vec<_> = token.iter().map(|token| (TOKEN, token.clone())).collect();
        let began = self.started.elapsed();
        let answer = self.send(Method::GET, path, None, &headers).await;
        if matches!(&answer, Ok(answer) if answer.status == StatusCode::UNAUTHORIZED) {
            self.sign_in().await;
        }
        (began, token.as_deref().and_then(sequence), answer)
    }

    async fn post(
        &self,
        path: &str,
        body: &Value,
        headers: &[(&'static str, String)],
    ) -> Result<Answer, String> {
        self.send(Method::POST, path, Some(body), headers).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        headers: &[(&'static str, String)],
    ) -> Result<Answer, String> {
        let url = format!("http://{}{path}", self.gateway);
        let mut request = self.http.request(method, url);
        if !self.person.access.is_empty() {
            request = request.bearer_auth(&self.person.access);
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let read = async {
            let response = request.send().await?;
            let status = response.status();
            let token = response
                .headers()
                .get(TOKEN)
                .and_then(|value| value.to_str().ok());
            let token = token.map(str::to_owned);
            let body = response.text().await?;
            let body = serde_json::from_str(&body).unwrap_or(Value::String(body));
            Ok::<_, reqwest::Error>(Answer {
                status,
                token,
                body,
            })
        };
        read.await.map_err(|error| format!("{error:?}"))
    }

    /// Keeps the token of an accepted write.
    fn learn(&mut self, outcome: &Outcome, answer: &Result<Answer, String>) {
        if let (
            Outcome::Accepted { .. },
            Ok(Answer {
                token: Some(token), ..
            }),
        ) = (outcome, answer)
        {
            self.person.token = Some(token.clone());
        }
    }

    fn record(&mut self, began: Duration, operation: Operation, outcome: Outcome) {
        let (client, person, ended) = (self.index, self.person.account, self.started.elapsed());
        self.calls.push(Call {
            client,
            person,
            began,
            ended,
            operation,
            outcome,
        });
    }
}

impl Person {
    /// Takes the tokens of a token body and returns account and session.
    fn adopt(&mut self, body: &Value) -> Option<(Uuid, Uuid)> {
        self.access = body["access_token"].as_str()?.to_owned();
        self.refresh = body["refresh_token"].as_str()?.to_owned();
        let claims = self.refresh.split('.').nth(1)?;
        let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
        let claims: Value = serde_json::from_slice(&claims).ok()?;
        self.account = id(&claims["sub"])?;
        self.session = id(&claims["sid"])?;
        self.refresh_id = id(&claims["jti"])?;
        Some((self.account, self.session))
    }
}
