//! A stack for one test.

use super::{Error, Stack, StackOptions, SyncMode, data_dir};
use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    sync::Once,
    time::Duration,
};
use tempfile::TempDir;

const PREFIX: &str = "amaima-stack-";

/// A directory this old without a stack in it was left by a test that was killed.
const ABANDONED_AFTER: Duration = Duration::from_secs(600);

/// Own servers in a directory that disappears with the stack, with relaxed durability. The servers
/// of the environment are not used: a test may kill what it is given.
///
/// # Errors
/// As [`Stack::start`].
pub async fn testing() -> Result<Stack, Error> {
    testing_with(|_| {}).await
}

/// The same with other options, for instance [`SyncMode::Always`].
///
/// # Errors
/// As [`Stack::start`].
pub async fn testing_with(change: impl FnOnce(&mut StackOptions)) -> Result<Stack, Error> {
    let temporary = fresh_directory()?;
    let mut options = disposable(temporary.path());
    change(&mut options);
    let mut stack = Stack::start(options).await?;
    stack.temporary = Some(temporary);
    Ok(stack)
}

/// What a test starts when it does not care.
pub(super) fn disposable(directory: &Path) -> StackOptions {
    let mut options = StackOptions::new(directory);
    options.sync = SyncMode::Relaxed;
    options.disposable = true;
    options
}

/// A directory for one test.
pub(super) fn fresh_directory() -> Result<TempDir, Error> {
    static SWEPT: Once = Once::new();
    let parent = std::env::temp_dir();
    SWEPT.call_once(|| sweep(&parent));
    tempfile::Builder::new()
        .prefix(PREFIX)
        // PostgreSQL passes through as another user when we are root.
        .permissions(fs::Permissions::from_mode(0o711))
        .tempdir_in(&parent)
        .map_err(Error::io("cannot write to", parent))
}

/// Deletes what killed tests left behind.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let named = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if named && is_abandoned(&entry.path()).unwrap_or(false) {
            data_dir::delete(&entry.path()).ok();
        }
    }
}

fn is_abandoned(path: &Path) -> io::Result<bool> {
    let metadata = fs::symlink_metadata(path)?;
    let ours = metadata.is_dir() && metadata.uid() == rustix::process::geteuid().as_raw();
    let age = metadata.modified()?.elapsed().unwrap_or_default();
    Ok(ours && age > ABANDONED_AFTER)
}
