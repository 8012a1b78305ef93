//! `amaima up`: servers, then services, then a watch over both.

use crate::{
    say,
    service::{Configs, GRACE},
};
use amaima::stack::{
    Existing, Ports, Progress, ServerKind, Stack, StackOptions, SyncMode, wait_for,
};
use anyhow::{Context, bail};
use clap::Args;
use infra::{
    config::{self, Secret},
    lifecycle::Lifecycle,
    sealing::Sealing,
};
use projection_svc::archiver;
use std::{
    fs::{self, OpenOptions},
    io::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

const HTTP_PORT: u16 = 8000;
const METRICS_PORT: u16 = 8001;

/// How long the services may take until they are ready.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server that ends this often within [`RESTART_WINDOW`] is left to the person at the terminal.
const RESTARTS: usize = 5;
const RESTART_WINDOW: Duration = Duration::from_secs(60);

#[derive(Args)]
pub struct Options {
    /// The address that clients reach; 0.0.0.0 admits other machines.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// HTTP and WebSocket [default: 8000, or a free one]
    #[arg(long)]
    http_port: Option<u16>,
    /// Prometheus metrics [default: 8001, or a free one]
    #[arg(long)]
    metrics_port: Option<u16>,
    /// nats-server [default: the last one, or a free one]
    #[arg(long)]
    nats_port: Option<u16>,
    /// PostgreSQL [default: the last one, or a free one]
    #[arg(long)]
    postgres_port: Option<u16>,
    /// The S3 endpoint [default: the last one, or a free one]
    #[arg(long)]
    s3_port: Option<u16>,
    /// Acknowledge writes before the disk has them: faster, and a crash of the machine loses them.
    #[arg(long)]
    relaxed: bool,
    /// Never install a missing server.
    #[arg(long)]
    no_install: bool,
    /// Start the servers alone, and print how services reach them.
    #[arg(long)]
    servers_only: bool,
}

pub async fn up(data_dir: &Path, options: Options) -> anyhow::Result<()> {
    let begun = Instant::now();
    let stack = Stack::start(stack_options(data_dir, &options)?).await?;
    let data_dir = stack.data_dir().to_owned();
    if options.servers_only {
        for (name, value) in stack.endpoints().env() {
            say(format!("{name}='{value}'"));
        }
        say("ready: the servers alone, until Ctrl-C or `amaima down`");
        let watched = watch(&stack, std::future::pending()).await;
        return watched.and(stop(stack, Lifecycle::new()).await);
    }

    let log = start_log(&data_dir)?;
    let lifecycle = Lifecycle::new();
    let configs = configs(&stack, &options)?;
    let (http, metrics) = (configs.gateway.http_addr, configs.gateway.metrics_addr);
    say("services: starting command-svc, projection-svc, inference-worker and gateway");
    let (report, ended) = oneshot::channel();
    let life = lifecycle.clone();
    lifecycle.spawn("services", async move {
        // Nobody listens any more when the end was asked for.
        report.send(configs.run(&life).await).ok();
    });
    let announced = async {
        announce(http, metrics, &data_dir, &log, begun).await?;
        std::future::pending().await
    };
    let services = async {
        tokio::select! {
            ended = ended => match ended {
                Ok(Err(error)) => Err(error),
                Ok(Ok(())) | Err(_) => bail!("a service ended; {log} tells why"),
            },
            failed = announced => failed,
        }
    };
    let watched = watch(&stack, services).await;
    let stopped = stop(stack, lifecycle).await;
    watched.and(stopped)
}

/// Where the last `up` in this data directory served.
pub fn last_url(data_dir: &Path) -> String {
    let url = fs::read_to_string(data_dir.join(URL_FILE));
    url.unwrap_or_else(|_| format!("http://127.0.0.1:{HTTP_PORT}"))
}

const URL_FILE: &str = "gateway-url";

fn stack_options(data_dir: &Path, options: &Options) -> anyhow::Result<StackOptions> {
    let mut stack = StackOptions::new(data_dir);
    stack.ports = Ports {
        nats: options.nats_port,
        postgres: options.postgres_port,
        s3: options.s3_port,
    };
    stack.existing = Existing::from_env()?;
    if options.relaxed {
        stack.sync = SyncMode::Relaxed;
        stack.existing.nats_sync = SyncMode::Relaxed.into();
    }
    stack.programs.install = !options.no_install;
    stack.progress = Progress::new(|line| say(line));
    Ok(stack)
}

/// The environment's settings, at this stack.
fn configs(stack: &Stack, options: &Options) -> anyhow::Result<Configs> {
    let endpoints = stack.endpoints();
    let nats = config::Nats {
        url: Secret::new(&endpoints.nats_url),
        sync: endpoints.nats_sync,
        system_url: endpoints.nats_system_url.clone(),
        purge_url: endpoints.nats_purge_url.clone(),
        ..config::Nats::from_env()?
    };
    let postgres = config::Postgres {
        url: Secret::new(&endpoints.database_url),
        ..config::Postgres::from_env()?
    };
    let archive = archiver::Config {
        store: endpoints.s3.clone(),
        every: archiver::every_from_env()?,
    };
    let sealing = match config::text("MASTER_KEYS", "").is_empty() {
        true => endpoints.sealing()?,
        false => Sealing::from_env()?,
    };
    let mut commands = command_svc::Config::sealing_with(sealing.clone())?;
    commands.nats = nats.clone();
    let mut worker = inference_worker::Config::from_env()?;
    worker.nats = nats.clone();
    worker.cache_dir = config::parsed("WORKER_CACHE_DIR", stack.data_dir().join("models"))?;
    let mut gateway = gateway::Config::from_env()?;
    gateway.nats = nats.clone();
    if gateway.jwt_pem.expose().is_empty() {
        gateway.jwt_pem = signing_key(&stack.data_dir().join("signing-key.pem"))?;
    }
    gateway.development = config::parsed("DEVELOPMENT", true)?;
    gateway.http_addr = address(options.host, options.http_port, HTTP_PORT)?;
    gateway.metrics_addr = address(options.host, options.metrics_port, METRICS_PORT)?;
    Ok(Configs {
        commands,
        projections: projection_svc::Config {
            nats,
            postgres,
            archive: Some(archive),
            ..projection_svc::Config::sealing_with(sealing)?
        },
        worker,
        gateway,
    })
}

/// The given port, or the usual one, or where that is taken any free one.
fn address(host: IpAddr, given: Option<u16>, usual: u16) -> anyhow::Result<SocketAddr> {
    if let Some(port) = given {
        return Ok(SocketAddr::new(host, port));
    }
    let bound = TcpListener::bind((host, usual)).or_else(|_| TcpListener::bind((host, 0)));
    let address = bound.and_then(|listener| listener.local_addr());
    let address = address.with_context(|| format!("no port is free on {host}"))?;
    if address.port() != usual {
        say(format!("port {usual} is taken: {} instead", address.port()));
    }
    Ok(address)
}

/// The key that signs tokens, made at the first start.
fn signing_key(file: &Path) -> anyhow::Result<Secret> {
    if !file.exists() {
        let pem = gateway::keys::generate_pem()?;
        write_private(file, &pem).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let pem =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(Secret::new(pem))
}

fn write_private(file: &Path, text: &str) -> std::io::Result<()> {
    let fresh = file.with_extension("new");
    let mut open = OpenOptions::new();
    let mut written = open
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&fresh)?;
    written.write_all(text.as_bytes())?;
    written.sync_all()?;
    fs::rename(fresh, file)
}

/// Sends the services' log to a file and returns its name.
fn start_log(data_dir: &Path) -> anyhow::Result<String> {
    let file = data_dir.join("logs/amaima.log");
    let name = file.display().to_string();
    fs::create_dir_all(data_dir.join("logs"))?;
    let mut open = OpenOptions::new();
    let log = open.create(true).append(true).mode(0o600).open(&file);
    let log = log.with_context(|| format!("cannot open {name}"))?;
    infra::telemetry::start("backend-amaima", Arc::new(log));
    Ok(name)
}

/// Waits until the gateway finds everything ready, and says how to go on.
async fn announce(
    http: SocketAddr,
    metrics: SocketAddr,
    data_dir: &Path,
    log: &str,
    begun: Instant,
) -> anyhow::Result<()> {
    let (url, metrics) = (base_url(http), base_url(metrics));
    let client = reqwest::Client::new();
    let ready = wait_for("readiness of the services", PATIENCE, || async {
        let response = client.get(format!("{url}/health/ready")).send().await;
        let response = response.map_err(|error| error.to_string())?;
        match response.status() {
            status if status.is_success() => Ok(()),
            status => Err(format!(
                "{status}: {}",
                response.text().await.unwrap_or_default()
            )),
        }
    });
    ready.await.with_context(|| format!("{log} tells more"))?;
    fs::write(data_dir.join(URL_FILE), &url)?;
    say(format!(
        "ready after {:.1} s\n\n\
         Console  {url}/\n\
         API      {url}/openapi.json\n\
         Metrics  {metrics}/metrics\n\
         Log      {log}\n\
         Try      curl {url}/v1/auth/register -H 'Content-Type: application/json' \
         -d '{{\"email\":\"mia@example.com\",\"password\":\"SecurePass123!\"}}'\n\
         Or       cargo amaima ask \"What is a projection here?\"\n\
         Stop     Ctrl-C, or `cargo amaima down` (with --wipe also delete the data)",
        begun.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// As a client on this machine writes it.
fn base_url(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        return format!("http://127.0.0.1:{}", address.port());
    }
    format!("http://{address}")
}

/// Keeps the servers running until a signal comes, or the services end.
async fn watch(
    stack: &Stack,
    services: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    tokio::select! {
        ended = services => ended,
        given_up = keep_running(stack) => given_up,
        signal = Lifecycle::signalled() => {
            signal?;
            say("stopping: the work in hand is finished first");
            Ok(())
        }
    }
}

/// Starts servers again that end by themselves or by somebody's hand.
async fn keep_running(stack: &Stack) -> anyhow::Result<()> {
    let mut restarts: Vec<(ServerKind, Instant)> = Vec::new();
    loop {
        let lost = stack.server_lost().await;
        restarts.retain(|(kind, at)| *kind == lost && at.elapsed() < RESTART_WINDOW);
        if restarts.len() == RESTARTS {
            bail!("{lost} ended {RESTARTS} times within a minute");
        }
        restarts.push((lost, Instant::now()));
        say(format!("{lost}: it ended, starting it again"));
        stack.server(lost).restart().await?;
        say(format!("{lost}: answers again"));
    }
}

/// Stops the services, then the servers they need. A second signal ends both at once.
async fn stop(stack: Stack, lifecycle: Lifecycle) -> anyhow::Result<()> {
    let in_order = async {
        lifecycle.stop(GRACE).await;
        stack.stop().await
    };
    tokio::select! {
        stopped = in_order => Ok(stopped?),
        signal = Lifecycle::signalled() => Ok(signal?),
    }
}
