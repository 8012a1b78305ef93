//! Where objects lie: a bucket of an S3 endpoint, or a directory that has the same objects as
//! files.

mod bucket;
mod directory;

pub use bucket::{Bucket, If, client, ensure_bucket};
pub use directory::Directory;

use bytes::Bytes;
use std::{ops::Range, path::PathBuf};

/// Objects could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The endpoint did not answer as it should.
    #[error("the object store at {endpoint} does not answer: {reason}")]
    Endpoint {
        /// Its base URL.
        endpoint: String,
        /// The whole chain of reasons.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{path} cannot be read or written")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// A place for objects. Clones share it.
#[derive(Clone, Debug)]
pub enum Store {
    /// At an S3 endpoint.
    Bucket(Bucket),
    /// In the file system.
    Directory(Directory),
}

impl Store {
    /// The object, or `None` where there is none.
    ///
    /// # Errors
    /// When that cannot be said now.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, Error> {
        match self {
            Self::Bucket(bucket) => Ok(bucket.get(key).await?.map(|(bytes, _)| bytes)),
            Self::Directory(directory) => directory.get(key, None),
        }
    }

    /// These bytes of the object, or `None` where it is not there or is shorter.
    ///
    /// # Errors
    /// When that cannot be said now.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Option<Bytes>, Error> {
        match self {
            Self::Bucket(bucket) => bucket.get_range(key, range).await,
            Self::Directory(directory) => directory.get(key, Some(range)),
        }
    }

    /// Writes an object, in place of one that may be there.
    ///
    /// # Errors
    /// When it may not have been written.
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<(), Error> {
        match self {
            Self::Bucket(bucket) => bucket.put(key, bytes, If::Any).await.map(|_| ()),
            Self::Directory(directory) => directory.put(key, &bytes),
        }
    }

    /// The objects whose keys begin with `prefix` and come after `after`, in the order of their
    /// keys: at most a thousand; fewer do not mean that these were the last, none does.
    ///
    /// # Errors
    /// When that cannot be said now.
    pub async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Listed>, Error> {
        match self {
            Self::Bucket(bucket) => bucket.list(prefix, after).await,
            Self::Directory(directory) => directory.list(prefix, after),
        }
    }

    /// For people.
    pub fn describe(&self) -> String {
        match self {
            Self::Bucket(bucket) => bucket.describe(),
            Self::Directory(directory) => directory.path().display().to_string(),
        }
    }
}
