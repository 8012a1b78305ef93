//! Our services as processes of their own, to be killed.
//!
//! The test binary starts itself again: its test `service_process` runs the service that the
//! environment names, and ends at once where it names none.

use amaima::stack::Process;
use infra::lifecycle::Lifecycle;
use std::{fs::File, path::Path, process::Command};

/// Names the service in the environment of a child.
const ROLE: &str = "AMAIMA_TEST_SERVICE";

/// Which service a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// command-svc
    Command,
    /// projection-svc
    Projection,
    /// inference-worker
    Worker,
    /// gateway
    Gateway,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Command, Self::Projection, Self::Worker, Self::Gateway];

    /// As the environment names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Command => "command-svc",
            Self::Projection => "projection-svc",
            Self::Worker => "inference-worker",
            Self::Gateway => "gateway",
        }
    }
}

/// Starts a service as a child that dies with this process; its log is appended to
/// `<logs>/<role>.log`.
///
/// # Errors
/// When the process cannot be started.
pub fn spawn(role: Role, env: &[(String, String)], logs: &Path) -> anyhow::Result<Process> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(logs.join(format!("{}.log", role.name())))?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args([
            "--exact",
            "service_process",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(ROLE, role.name())
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdout(log.try_clone()?)
        .stderr(log);
    Ok(Process::spawn(command)?)
}

/// The body of the test `service_process`: a service until it is killed, or nothing.
///
/// # Panics
/// When the service cannot run: the log of the child tells.
pub fn run_if_named() {
    let Ok(named) = std::env::var(ROLE) else {
        return;
    };
    let role = Role::ALL
        .into_iter()
        .find(|role| role.name() == named)
        .expect("a known service");
    infra::telemetry::start(role.name(), std::io::stdout);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let lifecycle = Lifecycle::new();
    let ended: anyhow::Result<()> = runtime.block_on(async {
        match role {
            Role::Command => {
                command_svc::run(command_svc::Config::from_env()?, lifecycle).await?;
            }
            Role::Projection => {
                projection_svc::run(projection_svc::Config::from_env()?, lifecycle).await?;
            }
            Role::Worker => {
                inference_worker::run(inference_worker::Config::from_env()?, lifecycle).await?;
            }
            Role::Gateway => gateway::run(gateway::Config::from_env()?, lifecycle).await?,
        }
        Ok(())
    });
    ended.expect("the service runs");
}
