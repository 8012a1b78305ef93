//! Several nats-servers that keep every stream together, for what holds on one server only by
//! chance: replication, elections, a follower that lags.

use super::{
    Error, ServerKind, StackOptions,
    data_dir::DataDir,
    nats::{self, Membership, Nats},
    ports,
    server::{Body, Server},
    testing::{disposable, fresh_directory},
    wait::wait_for,
};
use tempfile::TempDir;
use uuid::Uuid;

/// How often other ports are chosen when somebody else took one of these meanwhile.
const ATTEMPTS: usize = 4;

/// Some nats-servers on 127.0.0.1. Streams that are to be safe in it have a replica on each
/// (`NATS_REPLICAS`). Everything is gone when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    // The order matters: servers go before the directory that they write to.
    members: Vec<Server>,
    urls: Vec<String>,
    _data_dir: DataDir,
    _temporary: TempDir,
}

impl Cluster {
    /// The members, to be killed, paused and restarted one by one. One that was restarted takes
    /// connections before it has caught up with the others.
    pub fn members(&self) -> &[Server] {
        &self.members
    }

    /// The URL of each member, in the order of [`Self::members`].
    pub fn member_urls(&self) -> &[String] {
        &self.urls
    }

    /// All of them, separated by commas, as `NATS_URL` takes them.
    pub fn url(&self) -> String {
        self.urls.join(",")
    }

    /// Copies that a stream should have here.
    pub fn replicas(&self) -> usize {
        self.members.len()
    }
}

/// A cluster of this many members for one test, in a directory that disappears with it, with
/// relaxed durability. One member is a server on its own; three go on without one of them.
///
/// # Errors
/// When the servers cannot be started or do not agree on a leader in time.
pub async fn cluster(members: usize) -> Result<Cluster, Error> {
    cluster_with(members, |_| {}).await
}

/// The same with other options, for instance another [`super::SyncMode`]. Ports, PostgreSQL and S3
/// do not concern it.
///
/// # Errors
/// As [`cluster`].
pub async fn cluster_with(
    members: usize,
    change: impl FnOnce(&mut StackOptions),
) -> Result<Cluster, Error> {
    let temporary = fresh_directory()?;
    let mut options = disposable(temporary.path());
    change(&mut options);
    let data_dir = DataDir::open(&options.data_dir, true)?;
    let program = options.programs.nats_server(&options.progress).await?;
    let mut attempts = 0;
    let (servers, urls) = loop {
        attempts += 1;
        match launch(members, &options, &data_dir, &program.path).await {
            Err(error) if super::daemon::port_was_taken(&error) && attempts < ATTEMPTS => {}
            outcome => break outcome?,
        }
    };
    let all = urls.join(",");
    let agreed = wait_for("a leader of the cluster", options.patience, || async {
        nats::ask_jetstream(nats::connect(&all).await?).await
    });
    agreed.await.map_err(|source| Error::NotReady {
        server: ServerKind::Nats,
        log: format!("(see {})", data_dir.path().join("logs").display()),
        source,
    })?;
    Ok(Cluster {
        members: servers.into_iter().map(member).collect(),
        urls,
        _data_dir: data_dir,
        _temporary: temporary,
    })
}

fn member(nats: Nats) -> Server {
    Server::new(ServerKind::Nats, Body::Nats(nats))
}

/// Launches all members side by side: none of them can do anything alone.
async fn launch(
    count: usize,
    options: &StackOptions,
    data_dir: &DataDir,
    program: &std::path::Path,
) -> Result<(Vec<Nats>, Vec<String>), Error> {
    let ports = ports::distinct(count * 2);
    let (clients, routes) = ports.split_at(count);
    let all_routes: Vec<String> = routes.iter().map(|port| nats::url(*port)).collect();
    let name = format!("amaima-{}", Uuid::new_v4().simple());
    let starting = clients
        .iter()
        .zip(routes)
        .enumerate()
        .map(|(n, (port, route))| {
            let membership = (count > 1).then(|| Membership {
                cluster: name.clone(),
                route_port: *route,
                routes: all_routes.join(","),
            });
            let program = program.to_owned();
            let directory = data_dir.path().join(format!("nats-{n}"));
            let log_file = data_dir.path().join(format!("logs/nats-{n}.log"));
            async move {
                let mut nats =
                    Nats::new(program, directory, log_file, options.sync, options.patience)?;
                nats.join(*port, membership).await?;
                Ok::<_, Error>(nats)
            }
        });
    let members = futures_util::future::try_join_all(starting).await?;
    let urls = clients.iter().map(|port| nats::url(*port)).collect();
    Ok((members, urls))
}
