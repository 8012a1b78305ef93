//! A headless Chromium for tests of the console, driven over WebDriver.
//!
//! [`Browser::start`] finds Chromium and its driver (and installs Debian's packages when it runs as
//! root where they are missing), gives them a profile of their own and takes them down when
//! dropped. What a test does is written in the words of a visitor: fill the input of this name,
//! click what reads so, wait for a text.
//!
//! The few WebDriver calls that this takes are made with `reqwest` directly
//! (<https://www.w3.org/TR/webdriver2/>).

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

const START_LIMIT: Duration = Duration::from_secs(30);
const INSTALL_LIMIT: Duration = Duration::from_secs(600);
/// One call's limit: chromedriver answers a navigation only when the page has loaded.
const CALL_LIMIT: Duration = Duration::from_secs(60);
const END_LIMIT: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(25);

const CHROMIUM: &[&str] = &["chromium", "chromium-browser", "google-chrome"];
const DRIVER: &[&str] = &["chromedriver"];
const USUAL_PLACES: &[&str] = &[
    "/usr/bin",
    "/usr/local/bin",
    "/usr/lib/chromium",
    "/snap/bin",
];
const INSTALL: &str = "apt-get install -y chromium chromium-driver";

/// The key of an element's id in WebDriver's JSON, fixed by the standard.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Chromium stays quiet: nothing but the pages under test is fetched.
const CHROMIUM_FLAGS: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    // Chromium reads the driver's commands from a pipe and ends with it, also when the driver is
    // killed.
    "--remote-debugging-pipe",
];

/// One browser window with a profile of its own. Dropping it ends the browser and removes the
/// profile.
pub struct Browser {
    http: reqwest::Client,
    session: String,
    // Fields are dropped in this order: the driver ends before the profile is removed.
    _driver: Child,
    _profile: TempDir,
}

impl Browser {
    /// Starts a browser with a window of `width` × `height` CSS pixels. Fails with the command that
    /// installs what is missing.
    pub async fn start(width: u32, height: u32) -> Result<Self> {
        let (chromium, driver) = find_or_install().await?;
        let profile = TempDir::new().context("making a profile directory")?;
        let (driver, port) = start_driver(&driver, profile.path()).await?;
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(CALL_LIMIT)
            .build()?;

        let mut flags: Vec<String> = CHROMIUM_FLAGS.iter().map(|flag| flag.to_string()).collect();
        flags.push(format!("--user-data-dir={}", profile.path().display()));
        flags.push(format!("--window-size={width},{height}"));
        let mut options = json!({ "binary": chromium, "args": flags });
        // Chromium does not let a window become narrower than 500 pixels; a phone has to be
        // emulated.
        if width < 500 {
            let metrics = json!({ "width": width, "height": height, "pixelRatio": 2.0 });
            options["mobileEmulation"] = json!({ "deviceMetrics": metrics });
        }
        let wanted =
            json!({ "capabilities": { "alwaysMatch": { "goog:chromeOptions": options } } });

        let base = format!("http://127.0.0.1:{port}/session");
        let answer = call(&http, Method::POST, &base, Some(wanted)).await?;
        let id = answer["sessionId"]
            .as_str()
            .context("the driver names no session")?;
        let session = format!("{base}/{id}");
        Ok(Self {
            http,
            session,
            _driver: driver,
            _profile: profile,
        })
    }

    /// Opens an address and waits until the page has loaded.
    pub async fn goto(&self, url: &str) -> Result<()> {
        self.post("/url", json!({ "url": url })).await?;
        Ok(())
    }

    /// The address of the page shown.
    pub async fn url(&self) -> Result<String> {
        text_of(self.get("/url").await?)
    }

    /// Replaces the text of the input or text area with this `name`, key by key as a visitor types
    /// it. `\u{E007}` is Enter, `\u{E009}` holds Control down, as in the standard's table of keys.
    pub async fn fill(&self, name: &str, text: &str) -> Result<()> {
        let input = self
            .element("css selector", &format!("[name='{name}']"))
            .await?;
        self.post(&format!("/element/{input}/clear"), json!({}))
            .await?;
        self.post(&format!("/element/{input}/value"), json!({ "text": text }))
            .await?;
        Ok(())
    }

    /// Clicks the link or button that reads `text`, as soon as there is one that is shown.
    pub async fn click(&self, text: &str) -> Result<()> {
        ensure!(
            !text.contains('"'),
            "a text to click cannot contain a double quote"
        );
        let target = format!("//*[self::a or self::button][normalize-space()=\"{text}\"]");
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let clicked = match self.element("xpath", &target).await {
                Ok(id) => self.post(&format!("/element/{id}/click"), json!({})).await,
                Err(error) => Err(error),
            };
            let Err(error) = clicked else { return Ok(()) };
            if Instant::now() > deadline {
                return Err(error.context(format!("clicking {text:?}")));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// The text shown inside the first element that a CSS selector finds.
    pub async fn text(&self, selector: &str) -> Result<String> {
        let id = self.element("css selector", selector).await?;
        text_of(self.get(&format!("/element/{id}/text")).await?)
    }

    /// Waits until the page shows `text`; the failure says what it showed instead.
    pub async fn wait_for_text(&self, text: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            // While one page gives way to the next there may be no body to read.
            let shown = self
                .text("body")
                .await
                .unwrap_or_else(|error| format!("({error:#})"));
            if shown.contains(text) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let url = self.url().await.unwrap_or_default();
                bail!("no {text:?} within {limit:?}; {url} shows:\n{shown}");
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Runs a script in the page and returns what it returns.
    pub async fn run(&self, script: &str) -> Result<Value> {
        self.post("/execute/sync", json!({ "script": script, "args": [] }))
            .await
    }

    /// Writes a PNG of what the window shows.
    pub async fn screenshot(&self, file: &Path) -> Result<()> {
        let encoded = text_of(self.get("/screenshot").await?)?;
        let png = BASE64_STANDARD
            .decode(encoded)
            .context("decoding the screenshot")?;
        tokio::fs::write(file, png)
            .await
            .with_context(|| format!("writing {}", file.display()))
    }

    async fn element(&self, using: &str, value: &str) -> Result<String> {
        let found = self
            .post("/element", json!({ "using": using, "value": value }))
            .await?;
        text_of(found[ELEMENT].clone())
    }

    async fn get(&self, path: &str) -> Result<Value> {
        call(
            &self.http,
            Method::GET,
            &format!("{}{path}", self.session),
            None,
        )
        .await
    }

    async fn post(&self, path: &str, body: Value) -> Result<Value> {
        call(
            &self.http,
            Method::POST,
            &format!("{}{path}", self.session),
            Some(body),
        )
        .await
    }
}

impl Drop for Browser {
    /// Ends the browser in good order, so that it no longer writes to its profile when that is
    /// removed. Where this fails it still ends with its driver.
    fn drop(&mut self) {
        let _ = end_session(&self.session);
    }
}

/// `DELETE` on the session without a runtime, since a drop cannot wait for one.
fn end_session(session: &str) -> std::io::Result<()> {
    let (host, path) = session
        .trim_start_matches("http://")
        .split_once('/')
        .unwrap_or_default();
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(END_LIMIT))?;
    let request = format!("DELETE /{path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    // The answer comes when the browser has ended.
    stream.read_exact(&mut [0])
}

/// One WebDriver call: the `value` of the answer, or its error and message.
async fn call(
    http: &reqwest::Client,
    method: Method,
    url: &str,
    body: Option<Value>,
) -> Result<Value> {
    let mut request = http.request(method, url);
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.context("calling chromedriver")?;
    let failed = !answer.status().is_success();
    let mut answer: Value = answer
        .json()
        .await
        .context("reading chromedriver's answer")?;
    let value = answer["value"].take();
    if failed {
        let message = value["message"].as_str().unwrap_or_default();
        bail!(
            "{}: {}",
            value["error"],
            message.lines().next().unwrap_or_default()
        );
    }
    Ok(value)
}

fn text_of(value: Value) -> Result<String> {
    match value {
        Value::String(text) => Ok(text),
        other => bail!("expected a text from chromedriver, got {other}"),
    }
}

/// Starts the driver on a port of its own choosing and reads from its first lines which one it is.
/// What the two leave behind in the directory for temporary files goes to `scratch`.
async fn start_driver(driver: &Path, scratch: &Path) -> Result<(Child, u16)> {
    let mut child = Command::new(driver)
        .arg("--port=0")
        .env("TMPDIR", scratch)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {}", driver.display()))?;
    let output = child.stdout.take().context("chromedriver has no output")?;
    let mut lines = BufReader::new(output).lines();
    let port = timeout(START_LIMIT, async {
        while let Some(line) = lines.next_line().await? {
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                return port
                    .trim_end_matches('.')
                    .parse()
                    .context("reading the port");
            }
        }
        bail!("chromedriver ended before it listened")
    })
    .await
    .context("chromedriver did not start in time")??;
    Ok((child, port))
}

async fn find_or_install() -> Result<(PathBuf, PathBuf)> {
    if let Some(found) = find() {
        return Ok(found);
    }
    // Several tests may start at once; the first one installs, the others wait for it.
    let guard = File::create(std::env::temp_dir().join("amaima-browser-install.lock"))?;
    let guard = tokio::task::spawn_blocking(move || guard.lock().map(|()| guard)).await??;
    if let Some(found) = find() {
        return Ok(found);
    }
    install().await.with_context(|| {
        format!(
            "tests of the console need Chromium and chromedriver; on Debian, as root: {INSTALL}"
        )
    })?;
    drop(guard);
    find().context("Chromium was installed but is not where it was expected")
}

fn find() -> Option<(PathBuf, PathBuf)> {
    Some((find_program(CHROMIUM)?, find_program(DRIVER)?))
}

fn find_program(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places: Vec<PathBuf> = std::env::split_paths(&path)
        .chain(USUAL_PLACES.iter().map(PathBuf::from))
        .collect();
    names
        .iter()
        .flat_map(|name| places.iter().map(move |place| place.join(name)))
        .find(|file| file.is_file())
}

/// Installs Debian's packages. Without root `apt-get` says so itself, and the caller adds the
/// command to run.
async fn install() -> Result<()> {
    for command in ["apt-get update -q", INSTALL] {
        let mut words = command.split(' ');
        let mut process = Command::new(words.next().unwrap_or_default());
        process
            .args(words)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null());
        let output = timeout(INSTALL_LIMIT, process.kill_on_drop(true).output())
            .await
            .with_context(|| format!("`{command}` took too long"))?
            .with_context(|| format!("running `{command}`"))?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "`{command}` failed: {}",
            complaint.trim()
        );
    }
    Ok(())
}
