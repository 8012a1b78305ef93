//! What nats-server and PostgreSQL have in common: a child process with a log file, which is
//! waited for until it answers.

use super::{
    Error, ServerKind,
    process::Process,
    wait::{TimedOut, wait_for},
};
use rustix::process::Signal;
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How long a server may take to stop before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// As much of a log as an error message carries.
const LOG_TAIL_BYTES: u64 = 2_000;

#[derive(Debug)]
pub(super) struct Daemon {
    kind: ServerKind,
    log_file: PathBuf,
    /// Sent to the child when this process ends.
    ending: Signal,
    patience: Duration,
    /// `None` while nobody wants it to run.
    running: Mutex<Option<Running>>,
}

#[derive(Clone, Debug)]
struct Running {
    process: Arc<Process>,
    /// Where its part of the log begins.
    log_start: u64,
}

impl Daemon {
    pub fn new(kind: ServerKind, log_file: PathBuf, ending: Signal, patience: Duration) -> Self {
        Self {
            kind,
            log_file,
            ending,
            patience,
            running: Mutex::default(),
        }
    }

    pub fn log_file(&self) -> &Path {
        &self.log_file
    }

    pub fn patience(&self) -> Duration {
        self.patience
    }

    pub fn pid(&self) -> Option<u32> {
        let running = self.slot().clone()?;
        let process = running.process;
        process.exited().is_none().then(|| process.id())
    }

    pub fn is_lost(&self) -> bool {
        let running = self.slot().clone();
        running.is_some_and(|running| running.process.exited().is_some())
    }

    /// Starts the command with its output in the log, and waits until `probe` succeeds.
    pub async fn launch<F>(&self, mut command: Command, probe: impl Fn() -> F) -> Result<(), Error>
    where
        F: Future<Output = Result<(), String>>,
    {
        let log = self.open_log()?;
        let log_start = log.metadata().map_or(0, |metadata| metadata.len());
        let second = log
            .try_clone()
            .map_err(Error::io("cannot open", &self.log_file))?;
        command
            .stdin(std::process::Stdio::null())
            .stdout(second)
            .stderr(log);
        let program = PathBuf::from(command.get_program());
        let process = Process::spawn_ending_with(command, self.ending)
            .map_err(Error::io("cannot execute", program))?;
        let process = Arc::new(process);
        *self.slot() = Some(Running {
            process: Arc::clone(&process),
            log_start,
        });
        let what = format!("an answer from {}", self.kind);
        let answered = wait_for(&what, self.patience, || async {
            if let Some(status) = process.exited() {
                return Ok(Err(status));
            }
            probe().await.map(Ok)
        })
        .await;
        let outcome = match answered {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(status)) => Error::Ended {
                server: self.kind,
                status: status.to_string(),
                log: self.log_since(log_start),
            },
            Err(source) => self.not_ready(source),
        };
        *self.slot() = None;
        Err(outcome)
    }

    pub fn not_ready(&self, source: TimedOut) -> Error {
        let log_start = self.slot().as_ref().map_or(0, |running| running.log_start);
        Error::NotReady {
            server: self.kind,
            log: self.log_since(log_start),
            source,
        }
    }

    /// Kills it and returns when it is gone.
    pub fn kill(&self) -> Result<(), Error> {
        let running = self.slot().take().ok_or(self.not_running())?;
        running.process.kill().map_err(|_| self.not_running())?;
        Ok(())
    }

    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        let running = self.slot().clone().ok_or(self.not_running())?;
        running
            .process
            .signal(signal)
            .map_err(|_| self.not_running())
    }

    /// Sends the signal and waits for the end; what runs on after [`STOP_PATIENCE`] is killed.
    /// Nothing happens when it is not running.
    pub async fn stop(&self, signal: Signal) -> Result<(), Error> {
        let Some(running) = self.slot().take() else {
            return Ok(());
        };
        let process = running.process;
        if process.signal(signal).is_err() || process.resume().is_err() {
            return Ok(()); // It has ended already.
        }
        let Err(source) = process.wait(STOP_PATIENCE).await else {
            return Ok(());
        };
        process.kill().ok();
        Err(Error::NotReady {
            server: self.kind,
            log: self.log_since(running.log_start),
            source,
        })
    }

    pub fn not_running(&self) -> Error {
        Error::NotRunning { server: self.kind }
    }

    fn open_log(&self) -> Result<File, Error> {
        if let Some(directory) = self.log_file.parent() {
            fs::create_dir_all(directory).map_err(Error::io("cannot make", directory))?;
        }
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&self.log_file)
            .map_err(Error::io("cannot open", &self.log_file))
    }

    fn log_since(&self, start: u64) -> String {
        let tail = || -> std::io::Result<String> {
            let mut file = File::open(&self.log_file)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(
                start.max(length.saturating_sub(LOG_TAIL_BYTES)),
            ))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        match tail() {
            Ok(text) if text.is_empty() => format!("({} is empty)", self.log_file.display()),
            Ok(text) => text,
            Err(error) => format!("({}: {error})", self.log_file.display()),
        }
    }

    fn slot(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a server ended because somebody else has its port.
pub(super) fn port_was_taken(error: &Error) -> bool {
    matches!(error, Error::Ended { log, .. } if log.to_lowercase().contains("address already in use"))
}
