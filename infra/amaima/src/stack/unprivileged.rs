//! The user that PostgreSQL runs as when the stack was started by root, which PostgreSQL refuses.

use super::Error;
use rustix::process::geteuid;
use std::{
    fs,
    os::unix::{fs::MetadataExt, fs::lchown, process::CommandExt},
    path::Path,
    process::{Command, Stdio},
};

const PASSWD: &str = "/etc/passwd";

/// An unprivileged user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub name: String,
    uid: u32,
    gid: u32,
}

impl User {
    /// The user to change to: nobody else than ourselves unless we are root.
    pub fn for_postgres() -> Result<Option<Self>, Error> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        let passwd = fs::read_to_string(PASSWD).map_err(Error::io("cannot read", PASSWD))?;
        let user = ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| Self::named(name, &passwd));
        let reason = "there is neither a user postgres nor nobody, and PostgreSQL refuses root";
        user.map(Some).ok_or_else(|| Error::Data {
            path: PASSWD.into(),
            reason: reason.into(),
        })
    }

    fn named(name: &str, passwd: &str) -> Option<Self> {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let (found, _password) = (fields.next()?, fields.next()?);
            let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            (found == name && uid != 0).then(|| Self {
                name: name.into(),
                uid,
                gid,
            })
        })
    }

    /// Makes the command run as this user, with no other groups.
    pub fn run(&self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }

    /// Whether this user can pass through a directory and all above it.
    pub fn can_enter(&self, directory: &Path) -> bool {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "test -x \"$0/.\""])
            .arg(directory)
            .current_dir("/")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.run(&mut command);
        command.status().is_ok_and(|status| status.success())
    }

    /// Gives a file, or a directory without its contents, to this user.
    pub fn own(&self, path: &Path) -> Result<(), Error> {
        lchown(path, Some(self.uid), Some(self.gid)).map_err(Error::io("cannot give away", path))
    }

    /// Gives a directory with all below it to this user, unless it is its already.
    pub fn own_tree(&self, path: &Path) -> Result<(), Error> {
        let metadata = fs::symlink_metadata(path).map_err(Error::io("cannot read", path))?;
        if metadata.uid() == self.uid {
            return Ok(());
        }
        if metadata.is_dir() {
            let entries = fs::read_dir(path).map_err(Error::io("cannot read", path))?;
            for entry in entries {
                let entry = entry.map_err(Error::io("cannot read", path))?;
                self.own_tree(&entry.path())?;
            }
        }
        // The directory comes last, so that an interrupted change is done again.
        self.own(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_read_from_passwd_and_is_never_root() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\npostgres:x:101:104::/var/lib:/bin/sh\n";
        let user = User::named("postgres", passwd);
        let user = user.map(|user| (user.uid, user.gid));
        assert_eq!(user, Some((101, 104)));
        assert_eq!(User::named("root", passwd), None);
        assert_eq!(User::named("post", passwd), None);
    }
}
