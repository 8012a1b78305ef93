use super::{Error, Listed};
use bytes::Bytes;
use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Seek, SeekFrom, Write},
    ops::Range,
    path::{Path, PathBuf},
};

/// Objects of one listing.
const PAGE: usize = 1000;

/// Objects as files below a directory. An object is there whole or not at all, also after a crash.
#[derive(Clone, Debug)]
pub struct Directory {
    root: PathBuf,
}

impl Directory {
    /// This directory; it is made with the first object.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.root
    }

    pub(super) fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Option<Bytes>, Error> {
        let path = self.root.join(key);
        let read = || -> std::io::Result<Vec<u8>> {
            let mut file = File::open(&path)?;
            let mut bytes = Vec::new();
            match &range {
                None => file.read_to_end(&mut bytes)?,
                Some(range) => {
                    file.seek(SeekFrom::Start(range.start))?;
                    file.take(range.end - range.start).read_to_end(&mut bytes)?
                }
            };
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => {
                let wanted = range.map_or(0, |range| range.end - range.start);
                Ok((bytes.len() as u64 >= wanted).then(|| bytes.into()))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::File { path, source }),
        }
    }

    pub(super) fn put(&self, key: &str, bytes: &[u8]) -> Result<(), Error> {
        let path = self.root.join(key);
        let fresh = path.with_extension("new");
        let write = || {
            let parent = path.parent().unwrap_or(&self.root);
            fs::create_dir_all(parent)?;
            let mut file = File::create(&fresh)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&fresh, &path)?;
            File::open(parent)?.sync_all()
        };
        write().map_err(|source| Error::File {
            path: path.clone(),
            source,
        })
    }

    pub(super) fn list(&self, prefix: &str, after: &str) -> Result<Vec<Listed>, Error> {
        let mut found = Vec::new();
        let top = prefix.rsplit_once('/').map_or("", |(top, _)| top);
        self.walk(&self.root.join(top), &mut |key, bytes| {
            if key.starts_with(prefix) && key.as_str() > after {
                found.push(Listed { key, bytes });
            }
        })?;
        found.sort_by(|a, b| a.key.cmp(&b.key));
        found.truncate(PAGE);
        Ok(found)
    }

    fn walk(&self, directory: &Path, each: &mut dyn FnMut(String, u64)) -> Result<(), Error> {
        let failed = |source| Error::File {
            path: directory.to_owned(),
            source,
        };
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let metadata = entry.metadata().map_err(failed)?;
            let path = entry.path();
            if metadata.is_dir() {
                self.walk(&path, each)?;
            } else if path.extension().is_none_or(|extension| extension != "new")
                && let Ok(key) = path.strip_prefix(&self.root)
            {
                each(key.to_string_lossy().into_owned(), metadata.len());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_written_listed_and_read_in_parts() {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::new(root.path().join("made"));
        assert_eq!(directory.list("a/", "").unwrap(), []);
        for key in ["a/2", "a/1", "b/1"] {
            directory.put(key, key.as_bytes()).unwrap();
        }
        directory.put("a/1", b"anew").unwrap();
        let keys = |prefix, after| -> Vec<_> {
            let listed = directory.list(prefix, after).unwrap();
            listed.into_iter().map(|each| each.key).collect()
        };
        assert_eq!(keys("a/", ""), ["a/1", "a/2"]);
        assert_eq!(keys("", "a/1"), ["a/2", "b/1"]);
        assert_eq!(
            directory.get("a/1", None).unwrap().as_deref(),
            Some(&b"anew"[..])
        );
        assert_eq!(
            directory.get("a/1", Some(1..3)).unwrap().as_deref(),
            Some(&b"ne"[..])
        );
        assert_eq!(directory.get("a/1", Some(1..9)).unwrap(), None);
        assert_eq!(directory.get("a/3", None).unwrap(), None);
    }
}
