//! Making a cluster: by `initdb`, or for a disposable stack as a copy of one that was made before.

use super::{NAME, Program, Progress, User};
use crate::stack::{
    Error,
    data_dir::{make_private, write_secret},
};
use sha2::{Digest, Sha256};
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use uuid::Uuid;

/// The cluster's name in PostgreSQL's directory.
pub(super) const DATA: &str = "data";

const PASSWORD: &str = "password";

/// Text sorts by code point on every machine, and case follows Unicode.
const LOCALE: &str = if cfg!(target_os = "macos") {
    "--locale=en_US.UTF-8"
} else {
    "--locale=C.UTF-8"
};

const INITDB: [&str; 6] = [
    "--username",
    NAME,
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    LOCALE,
    "--data-checksums",
];

/// A cluster to be made, unless it is there.
pub(super) struct Cluster {
    pub program: Program,
    pub directory: PathBuf,
    pub user: Option<User>,
    /// A cluster to copy: made if it is missing. For clusters that nobody has to sync.
    pub template: Option<PathBuf>,
    pub progress: Progress,
}

impl Cluster {
    /// Where the template of clusters lies that this program makes.
    pub fn template_in(cache: &Path, program: &Program) -> PathBuf {
        let digest = Sha256::digest(INITDB.join(" "));
        cache.join(format!(
            "cluster-{}-{:02x}{:02x}",
            program.version, digest[0], digest[1]
        ))
    }

    /// The password that the cluster has or will have.
    pub fn password(&self, known: Option<String>) -> Result<String, Error> {
        if let Some(known) = known {
            return Ok(known);
        }
        if self.data().exists() {
            return Err(Error::Data {
                path: self.data(),
                reason: "its password is lost with stack.json; `amaima down --wipe` starts afresh"
                    .into(),
            });
        }
        let template = self.template.as_ref();
        let copied = template.and_then(|path| fs::read_to_string(path.join(PASSWORD)).ok());
        Ok(copied.unwrap_or_else(|| Uuid::new_v4().simple().to_string()))
    }

    /// Makes the cluster unless it is there. Blocks.
    pub fn make(&self, password: &str) -> Result<(), Error> {
        make_private(&self.directory)?;
        let data = self.data();
        if data.exists() {
            return self
                .user
                .as_ref()
                .map_or(Ok(()), |user| user.own_tree(&self.directory));
        }
        // A cluster takes its name when it is whole, so an interrupted start is simply repeated.
        let fresh = self.directory.join("data.new");
        match fs::remove_dir_all(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("cannot delete", fresh)(error));
            }
            _ => {}
        }
        let template = self.template.as_deref();
        match template.filter(|template| has_password(template, password)) {
            Some(template) => copy_tree(&template.join(DATA), &fresh)
                .map_err(Error::io("cannot copy", template))?,
            None => {
                self.initdb(&fresh, password)?;
                if let Some(template) = template {
                    keep_as_template(&fresh, password, template)
                        .map_err(Error::io("cannot make", template))?;
                }
            }
        }
        if let Some(user) = &self.user {
            user.own_tree(&fresh)?;
            user.own(&self.directory)?;
        }
        fs::rename(&fresh, &data).map_err(Error::io("cannot make", data))
    }

    fn data(&self) -> PathBuf {
        self.directory.join(DATA)
    }

    fn initdb(&self, fresh: &Path, password: &str) -> Result<(), Error> {
        self.progress.say(format!(
            "PostgreSQL {}: making a database cluster in {}",
            self.program.version,
            self.directory.display()
        ));
        let password_file = self.directory.join(PASSWORD);
        write_secret(&password_file, password.as_bytes())
            .map_err(Error::io("cannot write", &password_file))?;
        let mut command = Command::new(self.program.path.with_file_name("initdb"));
        command
            .args(INITDB)
            .arg("--pwfile")
            .arg(&password_file)
            .arg("--pgdata")
            .arg(fresh)
            .current_dir(&self.directory)
            .env("HOME", &self.directory)
            .stdin(Stdio::null());
        if self.template.is_some() {
            command.arg("--no-sync");
        }
        if let Some(user) = &self.user {
            user.own(&self.directory)?;
            user.own(&password_file)?;
            user.run(&mut command);
        }
        let output = command.output();
        fs::remove_file(&password_file).ok();
        let output = output.map_err(Error::io("cannot execute", command.get_program()))?;
        if output.status.success() {
            return Ok(());
        }
        Err(Error::Command {
            command: format!("{command:?}"),
            output: String::from_utf8_lossy(&output.stderr).trim().into(),
        })
    }
}

fn has_password(template: &Path, password: &str) -> bool {
    fs::read_to_string(template.join(PASSWORD)).is_ok_and(|found| found == password)
}

fn keep_as_template(cluster: &Path, password: &str, template: &Path) -> io::Result<()> {
    let cache = template.parent().unwrap_or(template);
    fs::create_dir_all(cache)?;
    let work = tempfile::tempdir_in(cache)?;
    copy_tree(cluster, &work.path().join(DATA))?;
    write_secret(&work.path().join(PASSWORD), password.as_bytes())?;
    // When another process was quicker, its template serves as well.
    fs::rename(work.path(), template).ok();
    Ok(())
}

/// Copies a directory with its modes. A fresh cluster has files and directories only.
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    fs::set_permissions(to, fs::metadata(from)?.permissions())
}
