//! nats-server with JetStream, configured by `infra/deploy/nats.conf`.

use super::{
    Error, ServerKind, StackOptions, SyncMode,
    daemon::Daemon,
    data_dir::{DataDir, make_private},
    ports,
    programs::{NATS_OLDEST, Version},
    server::{Body, Server},
};
use async_nats::{Client, ConnectOptions, jetstream};
use infra::config::{self, Secret};
use rustix::process::Signal;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// The configuration that is shipped.
const CONFIGURATION: &str = include_str!("../../../deploy/nats.conf");

/// The user who may ask a server for its settings, which `nats.conf` includes here.
const SYSTEM_ACCOUNT: &str = include_str!("../../../deploy/nats-system.conf");

/// The user who alone may take messages out of the log, likewise.
const PURGE_USER: &str = include_str!("../../../deploy/nats-purge.conf");

const SYNC_ALWAYS: &str = "sync_interval: always";
/// In quotes: the server reads a bare 2m as two millions (of seconds).
const SYNC_RELAXED: &str = "sync_interval: \"2m\"";

#[derive(Debug)]
pub(super) struct Nats {
    daemon: Daemon,
    program: PathBuf,
    directory: PathBuf,
    store: PathBuf,
    /// The password of the user in [`SYSTEM_ACCOUNT`].
    system_password: String,
    /// The password of the user in [`PURGE_USER`].
    purge_password: String,
    /// Tells our server from one of somebody else on the same port.
    name: String,
    port: u16,
    membership: Option<Membership>,
}

/// What a server knows of the cluster that it belongs to.
#[derive(Clone, Debug)]
pub(super) struct Membership {
    /// The cluster's name.
    pub cluster: String,
    /// Where this one listens for the others.
    pub route_port: u16,
    /// Where all of them listen for each other.
    pub routes: String,
}

/// Starts the server, or takes the given one, and returns it and how to reach it.
pub(super) async fn start(
    options: &StackOptions,
    data_dir: &DataDir,
) -> Result<(Server, config::Nats), Error> {
    let progress = &options.progress;
    if let Some(url) = &options.existing.nats_url {
        let version = check_existing(url).await?;
        progress.say(format!("nats-server {version}: the given one answers"));
        let server = Server::new(ServerKind::Nats, Body::Existing);
        let nats = config::Nats {
            sync: options.existing.nats_sync,
            system_url: options.existing.nats_system_url.clone(),
            purge_url: options.existing.nats_purge_url.clone(),
            ..config::Nats::at(url)
        };
        return Ok((server, nats));
    }
    ports::demand_free(ServerKind::Nats, options.ports.nats)?;
    let program = options.programs.nats_server(progress).await?;
    let begun = Instant::now();
    let mut nats = Nats::new(
        program.path.clone(),
        data_dir.path().join("nats"),
        data_dir.path().join("logs/nats.log"),
        options.sync,
        options.patience,
    )?;
    if let Some(store) = &options.nats_store {
        nats.store.clone_from(store);
    }
    if let Some(password) = data_dir.state().nats_system_password {
        nats.system_password = password;
    }
    if let Some(password) = data_dir.state().nats_purge_password {
        nats.purge_password = password;
    }
    let candidates = ports::candidates(options.ports.nats, data_dir.state().nats_port);
    nats.port = ports::launch_on_first_free(candidates, |port| nats.launch(port)).await?;
    data_dir.update(|state| {
        state.nats_port = Some(nats.port);
        state.nats_system_password = Some(nats.system_password.clone());
        state.nats_purge_password = Some(nats.purge_password.clone());
    })?;
    progress.say(program.answering(nats.port, begun));
    let config = config::Nats {
        sync: options.sync.into(),
        system_url: Some(nats.url_of("amaima-check", &nats.system_password)),
        purge_url: Some(nats.url_of("amaima-purge", &nats.purge_password)),
        ..config::Nats::at(&url(nats.port))
    };
    Ok((Server::new(ServerKind::Nats, Body::Nats(nats)), config))
}

impl Nats {
    /// A server that keeps its data in `directory` and has not been launched yet.
    pub fn new(
        program: PathBuf,
        directory: PathBuf,
        log_file: PathBuf,
        sync: SyncMode,
        patience: Duration,
    ) -> Result<Self, Error> {
        prepare(&directory, sync)?;
        Ok(Self {
            daemon: Daemon::new(ServerKind::Nats, log_file, Signal::KILL, patience),
            program,
            store: directory.clone(),
            directory,
            system_password: fresh_password(),
            purge_password: fresh_password(),
            name: format!("amaima-{}", Uuid::new_v4().simple()),
            port: 0,
            membership: None,
        })
    }

    /// Launches it on this port. A member of a cluster is there when it takes connections: its
    /// JetStream answers only when more than half of the members run.
    pub async fn join(&mut self, port: u16, membership: Option<Membership>) -> Result<(), Error> {
        self.port = port;
        self.membership = membership;
        self.launch(port).await
    }

    fn url_of(&self, user: &str, password: &str) -> Secret {
        let port = self.port;
        Secret::new(format!("nats://{user}:{password}@127.0.0.1:{port}"))
    }

    pub fn pid(&self) -> Option<u32> {
        self.daemon.pid()
    }

    pub fn log_file(&self) -> &Path {
        self.daemon.log_file()
    }

    pub fn is_lost(&self) -> bool {
        self.daemon.is_lost()
    }

    pub fn kill(&self) -> Result<(), Error> {
        self.daemon.kill()
    }

    pub fn pause(&self) -> Result<(), Error> {
        self.daemon.signal(Signal::STOP)
    }

    pub fn resume(&self) -> Result<(), Error> {
        self.daemon.signal(Signal::CONT)
    }

    pub async fn stop(&self) -> Result<(), Error> {
        self.daemon.stop(Signal::TERM).await
    }

    pub async fn restart(&self) -> Result<(), Error> {
        self.stop().await?;
        self.launch(self.port).await
    }

    async fn launch(&self, port: u16) -> Result<(), Error> {
        let mut command = Command::new(&self.program);
        command
            .arg("--config")
            .arg(self.directory.join("nats.conf"))
            .arg("--store_dir")
            .arg(&self.store)
            .env("NATS_SYSTEM_PASSWORD", &self.system_password)
            .env("NATS_PURGE_PASSWORD", &self.purge_password)
            .arg("--pid")
            .arg(self.directory.join("nats.pid"))
            .args(["--addr", "127.0.0.1", "--port", &port.to_string()])
            .args(["--name", &self.name])
            .current_dir(&self.directory);
        if let Some(member) = &self.membership {
            let listen = format!("nats://127.0.0.1:{}", member.route_port);
            command
                .args(["--cluster_name", &member.cluster, "--cluster", &listen])
                .args(["--routes", &member.routes]);
        }
        self.daemon.launch(command, || self.probe(port)).await
    }

    /// The server is ours and, when it is alone, JetStream answers.
    async fn probe(&self, port: u16) -> Result<(), String> {
        let client = connect(&url(port)).await?;
        let name = client.server_info().server_name;
        if name != self.name {
            return Err(format!("another server, {name}, answers on port {port}"));
        }
        if self.membership.is_some() {
            return Ok(());
        }
        ask_jetstream(client).await
    }
}

pub(super) fn url(port: u16) -> String {
    format!("nats://127.0.0.1:{port}")
}

pub(super) async fn connect(url: &str) -> Result<Client, String> {
    let servers: Vec<&str> = url.split(',').collect();
    ConnectOptions::new()
        .connect(servers)
        .await
        .map_err(|error| error.to_string())
}

pub(super) async fn ask_jetstream(client: Client) -> Result<(), String> {
    let account = jetstream::new(client).query_account().await;
    account.map(|_| ()).map_err(|error| error.to_string())
}

async fn check_existing(url: &str) -> Result<Version, Error> {
    let unusable = |reason| Error::Unusable {
        server: ServerKind::Nats,
        reason,
    };
    let client = connect(url).await.map_err(unusable)?;
    let reported = client.server_info().version;
    let version = Version::parse(&reported)
        .ok_or_else(|| unusable(format!("it reports the version {reported:?}")))?;
    if let Err(reason) = NATS_OLDEST.admits(version) {
        return Err(unusable(reason));
    }
    ask_jetstream(client).await.map_err(unusable)?;
    Ok(version)
}

fn prepare(directory: &Path, sync: SyncMode) -> Result<(), Error> {
    make_private(directory)?;
    let write = |name: &str, text: &str| {
        let file = directory.join(name);
        fs::write(&file, text).map_err(Error::io("cannot write", file))
    };
    write("nats-system.conf", SYSTEM_ACCOUNT)?;
    write("nats-purge.conf", PURGE_USER)?;
    let with_users = format!(
        "{}\ninclude \"nats-system.conf\"\ninclude \"nats-purge.conf\"\n",
        configuration(sync)
    );
    write("nats.conf", &with_users)
}

/// A letter first, since the server would read digits as a number.
fn fresh_password() -> String {
    format!("p{}", Uuid::new_v4().simple())
}

fn configuration(sync: SyncMode) -> String {
    match sync {
        SyncMode::Always => CONFIGURATION.into(),
        SyncMode::Relaxed => CONFIGURATION.replace(SYNC_ALWAYS, SYNC_RELAXED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_configuration_syncs_always() {
        assert_eq!(configuration(SyncMode::Always), CONFIGURATION);
        assert_eq!(CONFIGURATION.matches(SYNC_ALWAYS).count(), 1);
    }

    #[test]
    fn the_relaxed_configuration_differs_in_that_alone() {
        let relaxed = configuration(SyncMode::Relaxed);
        assert_eq!(relaxed.replace(SYNC_RELAXED, SYNC_ALWAYS), CONFIGURATION);
        assert!(!relaxed.contains(SYNC_ALWAYS));
    }
}
