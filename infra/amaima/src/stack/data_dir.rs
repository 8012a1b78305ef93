//! The directory that a stack lives in: its lock, and what the next start has to know.

use super::{Error, own_object_store, wait::wait_for};
use infra::config::{ObjectStore, Secret};
use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, Signal, geteuid, kill_process},
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use uuid::Uuid;

const LOCK: &str = "lock";
const STATE: &str = "stack.json";

/// What is kept from one start to the next. It holds passwords: mode 0600.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats_system_password: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats_purge_password: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s3_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres_password: Option<String>,
    /// Where PostgreSQL's files are, when its user cannot reach the data directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres_elsewhere: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s3_access_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s3_secret_key: Option<String>,
}

/// A data directory, locked.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    state: Mutex<State>,
    disposable: bool,
    _lock: File,
}

impl DataDir {
    /// Makes the directory if needed and locks it for this process.
    pub fn open(path: &Path, disposable: bool) -> Result<Self, Error> {
        make_passable(path)?;
        let path = path
            .canonicalize()
            .map_err(Error::io("cannot open", path))?;
        let mut lock = open_lock(&path)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let pid = read_pid(&mut lock);
            return Err(Error::InUse {
                data_dir: path,
                pid: pid.map_or("unknown".into(), |pid| pid.to_string()),
            });
        }
        let write_pid = |lock: &mut File| {
            lock.set_len(0)?;
            lock.rewind()?;
            write!(lock, "{}", std::process::id())
        };
        write_pid(&mut lock).map_err(Error::io("cannot write", path.join(LOCK)))?;
        let state = read_state(&path)?;
        Ok(Self {
            path,
            state: Mutex::new(state),
            disposable,
            _lock: lock,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn state(&self) -> State {
        self.locked_state().clone()
    }

    /// Changes the state and keeps it on disk.
    pub fn update(&self, change: impl FnOnce(&mut State)) -> Result<(), Error> {
        let mut state = self.locked_state();
        change(&mut state);
        let file = self.path.join(STATE);
        write_secret(
            &file,
            &serde_json::to_vec_pretty(&*state).unwrap_or_default(),
        )
        .map_err(Error::io("cannot write", file))
    }

    fn locked_state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        if self.disposable
            && let Some(elsewhere) = &self.locked_state().postgres_elsewhere
        {
            fs::remove_dir_all(elsewhere).ok();
        }
    }
}

/// The process that runs a stack on a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    pid: Pid,
}

impl Holder {
    /// Its process id.
    pub fn pid(self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Asks it to stop.
    ///
    /// # Errors
    /// When it may not be signalled.
    pub fn terminate(self) -> std::io::Result<()> {
        Ok(kill_process(self.pid, Signal::TERM)?)
    }
}

/// Who runs a stack on this directory, if anybody does.
///
/// # Errors
/// When the lock file cannot be read.
pub fn holder(data_dir: &Path) -> Result<Option<Holder>, Error> {
    let file = data_dir.join(LOCK);
    if !file.exists() {
        return Ok(None);
    }
    let mut lock = open_lock(data_dir)?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
        return Ok(None);
    }
    match read_pid(&mut lock) {
        Some(pid) => Ok(Some(Holder { pid })),
        None => Err(Error::Data {
            path: file,
            reason: "it is locked, and does not say by whom".into(),
        }),
    }
}

/// Where the NATS of the stack is that runs on this directory, if one does and it is its own.
///
/// # Errors
/// When the lock file or the state cannot be read.
pub fn running_nats(data_dir: &Path) -> Result<Option<String>, Error> {
    if holder(data_dir)?.is_none() {
        return Ok(None);
    }
    Ok(read_state(data_dir)?.nats_port.map(super::nats::url))
}

/// Where the database of the stack is that runs on this directory, if one does and it is its own.
///
/// # Errors
/// When the lock file or the state cannot be read.
pub fn running_database(data_dir: &Path) -> Result<Option<Secret>, Error> {
    if holder(data_dir)?.is_none() {
        return Ok(None);
    }
    let state = read_state(data_dir)?;
    let own = state.postgres_port.zip(state.postgres_password);
    Ok(own.map(|(port, password)| Secret::new(super::postgres::own_url(port, &password))))
}

/// How to reach the S3 endpoint of the stack that runs on this directory, if one does and it is its
/// own.
///
/// # Errors
/// When the lock file or the state cannot be read.
pub fn running_s3(data_dir: &Path) -> Result<Option<ObjectStore>, Error> {
    if holder(data_dir)?.is_none() {
        return Ok(None);
    }
    let state = read_state(data_dir)?;
    let known = (state.s3_port, state.s3_access_key, state.s3_secret_key);
    let (Some(port), Some(access_key), Some(secret_key)) = known else {
        return Ok(None);
    };
    Ok(Some(own_object_store(port, &access_key, &secret_key)))
}

/// Deletes everything that stacks left in this directory and elsewhere on its behalf, waiting for
/// a stack that is about to stop.
///
/// # Errors
/// When the directory is not one of a stack, is still in use, or cannot be deleted.
pub async fn wipe(data_dir: &Path) -> Result<(), Error> {
    if !data_dir.join(LOCK).exists() {
        return Err(Error::Data {
            path: data_dir.into(),
            reason: "not a data directory of amaima, nothing was deleted".into(),
        });
    }
    wait_for("the end of its stack", Duration::from_secs(30), || async {
        match delete(data_dir) {
            Err(error @ Error::InUse { .. }) => Err(error),
            outcome => Ok(outcome),
        }
    })
    .await
    .map_err(|timed_out| Error::Data {
        path: data_dir.into(),
        reason: timed_out.to_string(),
    })?
}

/// Deletes everything of a stack that does not run.
pub(super) fn delete(data_dir: &Path) -> Result<(), Error> {
    let opened = DataDir::open(data_dir, true)?;
    remove(opened.path())
}

/// Writes a file that only its owner can read, in one step.
pub(super) fn write_secret(file: &Path, contents: &[u8]) -> std::io::Result<()> {
    let fresh = file.with_extension(format!("new-{}", Uuid::new_v4().simple()));
    let mut open = OpenOptions::new();
    let mut written = open.create_new(true).write(true).mode(0o600).open(&fresh)?;
    written.write_all(contents)?;
    written.sync_all()?;
    fs::rename(&fresh, file)
}

fn remove(directory: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("cannot delete", directory)(error))
        }
        _ => Ok(()),
    }
}

/// Makes a directory that PostgreSQL's user can pass through, unless it is there.
pub(super) fn make_passable(path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(Error::io("cannot make", path))?;
    // PostgreSQL's user has to pass through when it is not ours; everything that is secret below
    // has a mode of its own.
    let mode = if geteuid().is_root() { 0o711 } else { 0o700 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(Error::io("cannot set the mode of", path))
}

/// Makes a directory that only its owner can enter, unless it is there.
pub(super) fn make_private(path: &Path) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(Error::io("cannot make", path))
}

fn open_lock(directory: &Path) -> Result<File, Error> {
    let file = directory.join(LOCK);
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&file)
        .map_err(Error::io("cannot open", file))
}

fn read_pid(lock: &mut File) -> Option<Pid> {
    let mut text = String::new();
    lock.read_to_string(&mut text).ok()?;
    Pid::from_raw(text.trim().parse().ok()?)
}

fn read_state(directory: &Path) -> Result<State, Error> {
    let file = directory.join(STATE);
    let bytes = match fs::read(&file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(State::default()),
        Err(error) => return Err(Error::io("cannot read", file)(error)),
    };
    serde_json::from_slice(&bytes).map_err(|error| Error::Data {
        path: file,
        reason: error.to_string(),
    })
}
