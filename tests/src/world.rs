//! A whole system: servers, services, a place for clients.

use crate::{
    archive, catalogue,
    client::Client,
    random_model::{self, Words},
    service::{self, Role},
};
use amaima::stack::{self, Process, Stack, wait_for};
use domain::{Aggregate, commit, subject};
use infra::{
    config,
    direct_get::{self, Stored},
    event_store::EventStore,
    lifecycle::Lifecycle,
    sealing::{Keyring, Sealing},
};
use projection_svc::archiver;
use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::OnceLock,
    time::Duration,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// How long anything may take that a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How services run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Services {
    /// In the test's own process.
    #[default]
    InProcess,
    /// One process each, so that they can be killed.
    AsProcesses,
}

/// A model that answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Model {
    /// The demo model.
    #[default]
    Demo,
    /// Random weights, slow enough to be interrupted in the middle of an answer.
    Slow,
    /// Random weights that answer each question otherwise, at once.
    Quick,
    /// Random weights that say U+0000 all the time.
    SayingNul,
    /// Random weights with many tokens a second, for long answers of several queries at once.
    Steady,
}

impl Model {
    /// Tokens of its answers, if it does not end them before.
    const fn tokens(self) -> usize {
        match self {
            // For seconds, also on fast machines.
            Self::Slow => 600,
            Self::Demo | Self::Quick | Self::SayingNul | Self::Steady => 160,
        }
    }

    /// Where it is, if it is not the demo model: made once per process and kept only for it.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn dir(self) -> Option<PathBuf> {
        static SLOW: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
        static QUICK: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
        static SAYING_NUL: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
        static STEADY: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
        let (made, shape, words) = match self {
            Self::Demo => return None,
            Self::Slow => (&SLOW, random_model::SLOW, Words::Plain),
            Self::Quick => (&QUICK, random_model::QUICK, Words::Plain),
            Self::SayingNul => (&SAYING_NUL, random_model::QUICK, Words::WithNul),
            Self::Steady => (&STEADY, random_model::STEADY, Words::Plain),
        };
        let (_, dir) = made.get_or_init(|| {
            let into = TempDir::new().expect("a directory for the model");
            let dir = random_model::make(into.path(), shape, words).expect("a model");
            (into, dir)
        });
        Some(dir.clone())
    }
}

/// What a world is made of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// How services run.
    pub services: Services,
    /// What answers.
    pub model: Model,
    /// No inference worker.
    pub no_worker: bool,
    /// Short intervals of pings on sockets.
    pub fast_pings: bool,
    /// Most commands that command-svc works on at once, where services run in this process.
    pub commands_in_work: Option<usize>,
    /// The life of queries in seconds, where it is not the contract's.
    pub query_life_secs: Option<u32>,
    /// Have services in this process copy the log as well.
    pub copying: bool,
    /// How often it is copied, where that is not as often as tests like it.
    pub copy_every: Option<Duration>,
    /// Have services that are processes keep everything as it is, unsealed.
    pub unsealed: bool,
    /// The log is made as one that queries may leave; it is for the test to have them leave.
    pub bounded: bool,
    /// Which model answers what, where it is not as the rules of the tree say.
    pub routing_rules: Option<&'static str>,
}

/// Servers and services of one test. Everything goes when it is dropped.
pub struct World {
    /// The servers.
    pub stack: Stack,
    /// Where the gateway listens.
    pub http: SocketAddr,
    /// Where Prometheus would scrape.
    pub metrics: SocketAddr,
    /// The life of services in this process.
    pub lifecycle: Lifecycle,
    env: Vec<(String, String)>,
    processes: HashMap<&'static str, Process>,
    logs: TempDir,
}

impl World {
    /// Everything in this process, with the demo model.
    pub async fn start() -> Self {
        Self::with(Options::default()).await
    }

    /// A world made to order; comes back when it answers.
    ///
    /// # Panics
    /// When it cannot be brought up: there is nothing to test then.
    pub async fn with(options: Options) -> Self {
        Self::on(stack::testing().await.expect("the servers start"), options).await
    }

    /// The same on servers that run already.
    ///
    /// # Panics
    /// When it cannot be brought up.
    pub async fn on(stack: Stack, options: Options) -> Self {
        let logs = TempDir::new().expect("a directory for logs");
        let (http, metrics) = (free_address(), free_address());
        let mut env: Vec<(String, String)> = stack
            .endpoints()
            .env()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        env.push(("HTTP_ADDR".into(), http.to_string()));
        env.push(("METRICS_ADDR".into(), metrics.to_string()));
        env.push(("JWT_SECRET".into(), signing_key().to_owned()));
        env.push(("DEVELOPMENT".into(), "true".into()));
        env.push(("WORKER_CACHE_DIR".into(), cache().display().to_string()));
        let tokens = options.model.tokens().to_string();
        env.push(("WORKER_MAX_NEW_TOKENS".into(), tokens));
        if let Some(secs) = options.query_life_secs {
            env.push(("QUERY_LIFE_SECS".into(), secs.to_string()));
        }
        if options.unsealed {
            let file = logs.path().join("no-keys");
            std::fs::write(&file, "off").expect("a file");
            env.retain(|(name, _)| name != "MASTER_KEYS_FILE");
            env.push(("MASTER_KEYS_FILE".into(), file.display().to_string()));
        }
        let rules = options.routing_rules.map(|rules| {
            let file = logs.path().join("routing.toml");
            std::fs::write(&file, rules).expect("a file");
            file
        });
        if let Some(file) = &rules {
            env.push(("ROUTING_RULES".into(), file.display().to_string()));
        }
        if options.bounded {
            env.push(("LOG_KEEP_DAYS".into(), "0.000001".into()));
        }
        if let Some(dir) = options.model.dir() {
            env.push(("MODEL_DIR".into(), dir.display().to_string()));
        }
        let mut world = Self {
            stack,
            http,
            metrics,
            lifecycle: Lifecycle::new(),
            env,
            processes: HashMap::new(),
            logs,
        };
        match options.services {
            Services::InProcess => world.run_in_process(options, rules),
            Services::AsProcesses => {
                for role in Role::ALL {
                    if !(role == Role::Worker && options.no_worker) {
                        world.spawn(role);
                    }
                }
            }
        }
        world.ready().await;
        world
    }

    fn run_in_process(&self, options: Options, routing_rules: Option<PathBuf>) {
        let nats = config::Nats::at(&self.stack.endpoints().nats_url);
        let postgres = config::Postgres::at(&self.stack.endpoints().database_url);
        let mut gateway = gateway::Config::new(config::Secret::new(signing_key()), nats.clone());
        gateway.http_addr = self.http;
        gateway.metrics_addr = self.metrics;
        gateway.development = true;
        if options.fast_pings {
            gateway.sockets.ping_interval = Duration::from_millis(300);
            gateway.sockets.pong_wait = Duration::from_millis(200);
        }
        let mut worker = self.worker();
        worker.cache_dir = cache();
        worker.model_dirs.extend(options.model.dir());
        worker.max_new_tokens = options.model.tokens();
        let sealing = self.stack.endpoints().sealing().expect("master keys");
        let mut commands = commands(&nats, sealing.clone(), options);
        commands.routing_rules = routing_rules;
        let mut projections = projection_svc::Config::at(nats, sealing, postgres);
        let every = options.copy_every.unwrap_or(archive::EVERY);
        let store = self.stack.endpoints().s3.clone();
        projections.archive = options.copying.then_some(archiver::Config { store, every });
        let life = &self.lifecycle;
        let each = life.clone();
        life.spawn("command-svc", async move {
            command_svc::run(commands, each)
                .await
                .expect("command-svc runs");
        });
        let each = life.clone();
        life.spawn("projection-svc", async move {
            projection_svc::run(projections, each)
                .await
                .expect("projection-svc runs");
        });
        let each = life.clone();
        life.spawn("gateway", async move {
            gateway::run(gateway, each).await.expect("the gateway runs");
        });
        if !options.no_worker {
            self.run_worker(worker, life);
        }
    }

    /// A worker of this world, as it is by default.
    pub fn worker(&self) -> inference_worker::Config {
        inference_worker::Config::at(config::Nats::at(&self.stack.endpoints().nats_url))
    }

    /// Runs one more worker in this process, for as long as that life.
    pub fn run_worker(&self, worker: inference_worker::Config, life: &Lifecycle) -> JoinHandle<()> {
        let each = life.clone();
        self.lifecycle.spawn("inference-worker", async move {
            inference_worker::run(worker, each)
                .await
                .expect("the worker runs");
        })
    }

    /// Waits until the gateway is ready and commands are answered.
    ///
    /// # Panics
    /// When that does not come.
    pub async fn ready(&self) {
        let url = self.url("/health/ready");
        let ready = wait_for("a ready gateway", PATIENCE, || async {
            let response = reqwest::get(&url)
                .await
                .map_err(|error| error.to_string())?;
            if response.status().is_success() {
                Ok(())
            } else {
                Err(response.status().to_string())
            }
        });
        if let Err(error) = ready.await {
            panic!("{error}\n{}", self.tail_of_logs());
        }
    }

    /// The end of what services in processes of their own have logged.
    pub fn tail_of_logs(&self) -> String {
        let mut text = String::new();
        for role in Role::ALL {
            let log =
                std::fs::read_to_string(self.logs.path().join(format!("{}.log", role.name())));
            let log = log.unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            for line in &lines[lines.len().saturating_sub(15)..] {
                text.push_str(&format!("{}: {line}\n", role.name()));
            }
        }
        text
    }

    /// An absolute URL at the gateway.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    /// Starts one more gateway in this process, and waits until it is ready.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn another_gateway(&self) -> SocketAddr {
        let nats = config::Nats::at(&self.stack.endpoints().nats_url);
        let mut config = gateway::Config::new(config::Secret::new(signing_key()), nats);
        (config.http_addr, config.metrics_addr) = (free_address(), free_address());
        let (http, each) = (config.http_addr, self.lifecycle.clone());
        self.lifecycle.spawn("another gateway", async move {
            gateway::run(config, each).await.expect("the gateway runs");
        });
        let url = format!("http://{http}/health/ready");
        let ready = wait_for("another gateway", PATIENCE, || async {
            let response = reqwest::get(&url)
                .await
                .map_err(|error| error.to_string())?;
            let status = response.status();
            status.is_success().then_some(()).ok_or(status.to_string())
        });
        ready.await.expect("another gateway is ready");
        http
    }

    /// A client that has not signed in.
    pub fn client(&self) -> Client {
        Client::new(self.http)
    }

    /// Starts a service as a process.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(&mut self, role: Role) {
        let process = service::spawn(role, &self.env, self.logs.path()).expect("a process starts");
        self.processes.insert(role.name(), process);
    }

    /// The same with more in its environment.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn_with(&mut self, role: Role, more: &[(&str, &str)]) {
        let process = self.one_more(role, more);
        self.processes.insert(role.name(), process);
    }

    /// The same, as one of several of its kind.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn one_more(&self, role: Role, more: &[(&str, &str)]) -> Process {
        let more = more
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        let env: Vec<(String, String)> = self.env.iter().cloned().chain(more).collect();
        service::spawn(role, &env, self.logs.path()).expect("a process starts")
    }

    /// Waits until somebody answers commands.
    ///
    /// # Panics
    /// When nobody does.
    pub async fn commands_are_answered(&self) {
        let client = self.nats().await;
        let answered = wait_for("command-svc", PATIENCE, || async {
            let ask = client.request("$SRV.PING.command-svc", "".into()).await;
            ask.map(|_| ()).map_err(|error| error.to_string())
        });
        if let Err(error) = answered.await {
            panic!("{error}\n{}", self.tail_of_logs());
        }
    }

    /// Where services that are processes log to.
    pub fn logs(&self) -> &std::path::Path {
        self.logs.path()
    }

    /// Kills a service that runs as a process, as `kill -9` does; comes back when it is gone.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self, role: Role) {
        let process = self.processes.remove(role.name()).expect("it runs");
        process.kill().expect("it can be killed");
    }

    /// A service that runs as a process.
    ///
    /// # Panics
    /// When it does not run.
    pub fn process(&self, role: Role) -> &Process {
        self.processes.get(role.name()).expect("it runs")
    }

    /// A pool of connections to the read models.
    ///
    /// # Panics
    /// When the database does not answer.
    pub async fn database(&self) -> sqlx::PgPool {
        sqlx::PgPool::connect(&self.stack.endpoints().database_url)
            .await
            .expect("a connection")
    }

    /// The log, as command-svc reads it.
    ///
    /// # Panics
    /// When NATS does not answer.
    pub async fn log(&self) -> EventStore {
        let client = self.nats().await;
        let keys = self.keys(&client);
        EventStore::new(client, keys)
    }

    /// The commits of an aggregate as the log has them, with what they say.
    ///
    /// # Panics
    /// When they cannot be read.
    pub async fn commits<A: Aggregate>(&self, id: Uuid) -> Vec<(Stored, Vec<A::Event>)> {
        let (client, subject) = (self.nats().await, A::named(id).subject());
        let stored = direct_get::subject(&client, subject::EVENTS, &subject, 1).await;
        let keys = self.keys(&client);
        let mut commits = Vec::new();
        for message in stored.expect("the log can be read") {
            let opened = keys.open_stored(&subject, message).await.expect("a key");
            let message = opened.expect("not erased");
            let events = commit::decode(&subject, &message.payload).expect("ours");
            commits.push((message, events));
        }
        commits
    }

    /// The keys of persons.
    ///
    /// # Panics
    /// When there are no master keys.
    pub fn keys(&self, client: &async_nats::Client) -> Keyring {
        let sealing = self.stack.endpoints().sealing().expect("master keys");
        Keyring::new(client, sealing)
    }

    /// A connection to the bus.
    ///
    /// # Panics
    /// When NATS does not answer.
    pub async fn nats(&self) -> async_nats::Client {
        let config = config::Nats::at(&self.stack.endpoints().nats_url);
        infra::nats::connect(&config, "test")
            .await
            .expect("a connection")
    }
}

impl Drop for World {
    /// Whatever a test was about, what services have written is what the catalogue says.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            tokio::task::block_in_place(|| {
                let check = async {
                    let client = self.nats().await;
                    catalogue::check_log(&client, &self.keys(&client)).await;
                };
                tokio::runtime::Handle::current().block_on(check)
            });
        }
    }
}

fn commands(nats: &config::Nats, sealing: Sealing, options: Options) -> command_svc::Config {
    let mut commands = command_svc::Config::at(nats.clone(), sealing);
    if let Some(secs) = options.query_life_secs {
        commands.policies.query_life_millis = i64::from(secs) * 1000;
    }
    commands.in_work = options.commands_in_work.unwrap_or(commands.in_work);
    commands
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address")
}

/// Where models are unpacked, once per test run.
fn cache() -> PathBuf {
    let cache = std::env::temp_dir().join("amaima-tests");
    std::fs::create_dir_all(&cache).expect("a directory for models");
    cache
}

fn signing_key() -> &'static str {
    static KEY: OnceLock<String> = OnceLock::new();
    KEY.get_or_init(|| gateway::keys::generate_pem().expect("a key"))
}
