//! PostgreSQL in a private cluster: one superuser, `amaima`, with a random password over loopback,
//! and no Unix socket, whose path would be too long in a deep directory.

mod cluster;

use cluster::{Cluster, DATA};

use super::{
    Error, Progress, ServerKind, StackOptions, SyncMode,
    daemon::Daemon,
    data_dir::{DataDir, make_passable},
    ports,
    programs::{POSTGRES_OLDEST, Program, Version},
    server::{Body, Server},
    unprivileged::User,
    wait::{blocking, wait_for},
};
use infra::config::Secret;
use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest, Sha256};
use sqlx::{Connection, PgConnection, Row};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

/// The superuser and the database that it finds.
const NAME: &str = "amaima";

/// Where its files go when its user cannot reach the data directory.
const ELSEWHERE: &str = "/var/lib/amaima";

#[derive(Debug)]
pub(super) struct Postgres {
    daemon: Daemon,
    program: PathBuf,
    /// The cluster, `PGDATA`.
    data: PathBuf,
    settings: Vec<String>,
    user: Option<User>,
    password: Secret,
    port: u16,
}

/// Starts the server, or takes the given one, and returns it with its URL.
pub(super) async fn start(
    options: &StackOptions,
    data_dir: &DataDir,
) -> Result<(Server, String), Error> {
    let progress = &options.progress;
    if let Some(url) = &options.existing.database_url {
        let version = check_existing(url).await?;
        progress.say(format!("PostgreSQL {version}: the given one answers"));
        return Ok((
            Server::new(ServerKind::Postgres, Body::Existing),
            url.clone(),
        ));
    }
    ports::demand_free(ServerKind::Postgres, options.ports.postgres)?;
    // The package brings the user, so the user is chosen after the program.
    let (directory, major) = existing_cluster(data_dir);
    let program = options.programs.postgres(major, progress).await?;
    let user = User::for_postgres()?;
    let directory = match directory {
        Some(directory) => directory,
        None => place(data_dir, user.as_ref(), progress)?,
    };
    let begun = Instant::now();
    let cluster = Cluster {
        template: options
            .programs
            .cache
            .as_deref()
            .filter(|_| options.disposable)
            .map(|cache| Cluster::template_in(cache, &program)),
        program: program.clone(),
        directory: directory.clone(),
        user: user.clone(),
        progress: progress.clone(),
    };
    let password = cluster.password(data_dir.state().postgres_password)?;
    // Kept before the cluster is made: a cluster whose password nobody knows is of no use.
    data_dir.update(|state| state.postgres_password = Some(password.clone()))?;
    let made = password.clone();
    blocking(move || cluster.make(&made)).await?;
    let ending = if options.disposable {
        Signal::QUIT
    } else {
        Signal::INT
    };
    let log_file = data_dir.path().join("logs/postgres.log");
    let mut postgres = Postgres {
        daemon: Daemon::new(ServerKind::Postgres, log_file, ending, options.patience),
        program: program.path.clone(),
        data: directory.join(DATA),
        settings: settings(options.sync, options.disposable),
        user,
        password: Secret::new(password),
        port: 0,
    };
    let candidates = ports::candidates(options.ports.postgres, data_dir.state().postgres_port);
    postgres.port = ports::launch_on_first_free(candidates, |port| postgres.launch(port)).await?;
    data_dir.update(|state| state.postgres_port = Some(postgres.port))?;
    ensure_database(&postgres.url(postgres.port, "postgres")).await?;
    progress.say(program.answering(postgres.port, begun));
    let url = own_url(postgres.port, postgres.password.expose());
    Ok((
        Server::new(ServerKind::Postgres, Body::Postgres(postgres)),
        url,
    ))
}

impl Postgres {
    pub fn pid(&self) -> Option<u32> {
        self.daemon.pid()
    }

    pub fn log_file(&self) -> &Path {
        self.daemon.log_file()
    }

    pub fn is_lost(&self) -> bool {
        self.daemon.is_lost()
    }

    /// Kills the server and its children, as when the machine loses power: nobody is left to
    /// finish a transaction.
    pub async fn kill(&self) -> Result<(), Error> {
        let children = self.children();
        self.daemon.kill()?;
        for child in &children {
            kill_process(*child, Signal::KILL).ok();
        }
        wait_for(
            "the end of its children",
            self.daemon.patience(),
            || async {
                match children.iter().find(|child| is_alive(**child)) {
                    Some(child) => Err(format!("process {child:?} is alive")),
                    None => Ok(()),
                }
            },
        )
        .await
        .map_err(|timed_out| self.daemon.not_ready(timed_out))
    }

    pub fn pause(&self) -> Result<(), Error> {
        self.signal_all(Signal::STOP)
    }

    pub fn resume(&self) -> Result<(), Error> {
        self.signal_all(Signal::CONT)
    }

    /// A fast shutdown: clients are disconnected, everything is written.
    pub async fn stop(&self) -> Result<(), Error> {
        if self.pid().is_some() {
            self.resume()?;
        }
        self.daemon.stop(Signal::INT).await
    }

    pub async fn restart(&self) -> Result<(), Error> {
        self.stop().await?;
        self.launch(self.port).await
    }

    /// Launches the server. What is left of an earlier one on the same cluster, for instance one
    /// that is being taken down with its parent, is waited for.
    async fn launch(&self, port: u16) -> Result<(), Error> {
        let deadline = self.daemon.patience() * 2;
        wait_for("the end of an earlier PostgreSQL", deadline, || async {
            self.forget_reused_pid();
            match self.launch_once(port).await {
                Err(error) if earlier_one_is_left(&error) => Err(error.to_string()),
                outcome => Ok(outcome),
            }
        })
        .await
        .map_err(|timed_out| self.daemon.not_ready(timed_out))?
    }

    async fn launch_once(&self, port: u16) -> Result<(), Error> {
        let mut command = Command::new(&self.program);
        command
            .arg("-D")
            .arg(&self.data)
            .args(["-p", &port.to_string()])
            .current_dir(&self.data)
            .env("LC_ALL", "C")
            .env("HOME", &self.data);
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        if let Some(user) = &self.user {
            user.run(&mut command);
        }
        self.daemon.launch(command, || self.probe(port)).await
    }

    /// The server is ours and answers.
    async fn probe(&self, port: u16) -> Result<(), String> {
        let ask = async {
            let mut connection = PgConnection::connect(&self.url(port, "postgres")).await?;
            let row = sqlx::query("SELECT current_setting('data_directory')")
                .fetch_one(&mut connection)
                .await?;
            connection.close().await?;
            row.try_get::<String, _>(0)
        };
        let data = ask.await.map_err(|error| error.to_string())?;
        if Path::new(&data) != self.data {
            return Err(format!("another server, on {data}, answers on port {port}"));
        }
        Ok(())
    }

    fn url(&self, port: u16, database: &str) -> String {
        url(port, self.password.expose(), database)
    }

    fn signal_all(&self, signal: Signal) -> Result<(), Error> {
        let children = self.children();
        self.daemon.signal(signal)?;
        for child in children {
            // One that has just ended needs no signal.
            kill_process(child, signal).ok();
        }
        Ok(())
    }

    /// The processes that serve its connections and write its files.
    fn children(&self) -> Vec<Pid> {
        let Some(pid) = self.pid() else {
            return Vec::new();
        };
        let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let listed = listed.unwrap_or_default();
        let raw = listed.split_whitespace().filter_map(|raw| raw.parse().ok());
        raw.filter_map(Pid::from_raw).collect()
    }

    /// Removes a `postmaster.pid` whose process id belongs to another program by now, which
    /// PostgreSQL takes for itself. The cluster is ours alone by the lock on the data directory.
    fn forget_reused_pid(&self) {
        let file = self.data.join("postmaster.pid");
        let Ok(contents) = fs::read_to_string(&file) else {
            return;
        };
        let pid = contents.lines().next().unwrap_or_default().trim();
        let Ok(command_line) = fs::read(format!("/proc/{pid}/cmdline")) else {
            return; // Nobody has it, or there is no /proc; PostgreSQL sorts this out itself.
        };
        let data = self.data.as_os_str().as_encoded_bytes();
        if !command_line.windows(data.len()).any(|part| part == data) {
            fs::remove_file(file).ok();
        }
    }
}

/// Makes a fresh database beside the one of the URL, and returns its URL.
pub(super) async fn create_database(url: &str, name: &str) -> Result<String, Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || !name.chars().all(plain) {
        return Err(Error::Unusable {
            server: ServerKind::Postgres,
            reason: format!("{name:?} is no name for a database: use letters, digits, _ and -"),
        });
    }
    execute(url, &format!("CREATE DATABASE \"{name}\"")).await?;
    Ok(with_database(url, name))
}

async fn ensure_database(url: &str) -> Result<(), Error> {
    match execute(url, &format!("CREATE DATABASE {NAME}")).await {
        Err(Error::Postgres { source, .. }) if is_duplicate(&source) => Ok(()),
        outcome => outcome,
    }
}

fn is_duplicate(error: &sqlx::Error) -> bool {
    const DUPLICATE_DATABASE: &str = "42P04";
    let refusal = error.as_database_error().and_then(|error| error.code());
    refusal.is_some_and(|code| code == DUPLICATE_DATABASE)
}

async fn execute(url: &str, statement: &str) -> Result<(), Error> {
    let run = async {
        let mut connection = PgConnection::connect(url).await?;
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
            .execute(&mut connection)
            .await?;
        connection.close().await
    };
    run.await.map_err(|source| Error::Postgres {
        what: statement.into(),
        source,
    })
}

/// The database that a stack has from the start.
pub(super) fn own_url(port: u16, password: &str) -> String {
    url(port, password, NAME)
}

fn url(port: u16, password: &str, database: &str) -> String {
    format!("postgres://{NAME}:{password}@127.0.0.1:{port}/{database}?sslmode=disable")
}

/// The URL with another database in its path.
fn with_database(url: &str, name: &str) -> String {
    let (address, query) = url.split_once('?').unwrap_or((url, ""));
    let authority_start = address.find("://").map_or(0, |at| at + 3);
    let authority_end = address[authority_start..]
        .find('/')
        .map_or(address.len(), |at| authority_start + at);
    let separator = if query.is_empty() { "" } else { "?" };
    format!("{}/{name}{separator}{query}", &address[..authority_end])
}

async fn check_existing(url: &str) -> Result<Version, Error> {
    let ask = async {
        let mut connection = PgConnection::connect(url).await?;
        let row = sqlx::query("SHOW server_version")
            .fetch_one(&mut connection)
            .await?;
        connection.close().await?;
        row.try_get::<String, _>(0)
    };
    let unusable = |reason| Error::Unusable {
        server: ServerKind::Postgres,
        reason,
    };
    let reported = ask.await.map_err(|error| unusable(error.to_string()))?;
    let version = Version::parse(&reported)
        .ok_or_else(|| unusable(format!("it reports the version {reported:?}")))?;
    POSTGRES_OLDEST.admits(version).map_err(unusable)?;
    Ok(version)
}

fn settings(sync: SyncMode, disposable: bool) -> Vec<String> {
    let mut settings = vec![
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "max_connections=200",
    ];
    if disposable {
        // A killed server still loses nothing: the operating system has each commit. Shared memory
        // lies in files of the cluster, so that what a killed server leaves goes with it.
        settings.extend([
            "fsync=off",
            "full_page_writes=off",
            "dynamic_shared_memory_type=mmap",
        ]);
    } else if sync == SyncMode::Relaxed {
        settings.push("synchronous_commit=off");
    }
    settings.into_iter().map(Into::into).collect()
}

/// The directory of an earlier start with the version that made it.
fn existing_cluster(data_dir: &DataDir) -> (Option<PathBuf>, Option<u32>) {
    let elsewhere = data_dir.state().postgres_elsewhere;
    let directory = elsewhere.unwrap_or_else(|| data_dir.path().join("postgres"));
    let version = fs::read_to_string(directory.join(DATA).join("PG_VERSION"));
    match version {
        Ok(text) => (Some(directory), text.trim().parse().ok()),
        Err(_) => (None, None),
    }
}

/// Where a new cluster goes.
fn place(data_dir: &DataDir, user: Option<&User>, progress: &Progress) -> Result<PathBuf, Error> {
    let inside = data_dir.path().join("postgres");
    let Some(user) = user.filter(|user| !user.can_enter(data_dir.path())) else {
        return Ok(inside);
    };
    let path = data_dir.path().as_os_str().as_encoded_bytes();
    let digest = Sha256::digest(path);
    let hash: String = digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let elsewhere = Path::new(ELSEWHERE).join(hash);
    progress.say(format!(
        "PostgreSQL: its user, {}, cannot reach {}; the database goes to {}",
        user.name,
        data_dir.path().display(),
        elsewhere.display()
    ));
    make_passable(Path::new(ELSEWHERE))?;
    data_dir.update(|state| state.postgres_elsewhere = Some(elsewhere.clone()))?;
    Ok(elsewhere)
}

fn earlier_one_is_left(error: &Error) -> bool {
    let signs = [
        "postmaster.pid\" already exists",
        "pre-existing shared memory block",
    ];
    matches!(error, Error::Ended { log, .. } if signs.iter().any(|sign| log.contains(sign)))
}

/// Neither gone nor a zombie that nobody has waited for.
fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    let state = |stat: &str| {
        stat.rsplit_once(") ")
            .map(|(_, rest)| rest.starts_with('Z'))
    };
    stat.is_ok_and(|stat| state(&stat) == Some(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_of_a_url_is_replaced() {
        for (url, expected) in [
            (
                "postgres://u:p@h:1/a?sslmode=disable",
                "postgres://u:p@h:1/b?sslmode=disable",
            ),
            ("postgres://u@h/a", "postgres://u@h/b"),
            ("postgres://h", "postgres://h/b"),
        ] {
            assert_eq!(with_database(url, "b"), expected);
        }
    }

    #[test]
    fn only_a_disposable_server_goes_without_fsync() {
        let durable = settings(SyncMode::Always, false).join(" ");
        assert!(!durable.contains("fsync") && !durable.contains("synchronous_commit"));
        assert!(settings(SyncMode::Relaxed, false).contains(&"synchronous_commit=off".into()));
        let disposable = settings(SyncMode::Relaxed, true).join(" ");
        assert!(disposable.contains("fsync=off") && !disposable.contains("synchronous_commit"));
    }
}
