//! Reading the files of a model directory, with their names in the errors and never more than a
//! file of its kind can need.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::Error;

/// Bytes of a JSON file or a template at most; the largest are tokenizers of some ten million.
const LIMIT: u64 = 128 << 20;

/// Opens a file and tells its length. A pipe or a device, which may never end, is none.
pub(crate) fn open(path: &Path) -> Result<(File, u64), Error> {
    let opened = || {
        let metadata = std::fs::metadata(path)?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        Ok((File::open(path)?, metadata.len()))
    };
    opened().map_err(|source| Error::Read {
        path: path.into(),
        source,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let (file, length) = open(path)?;
    let mut bytes = Vec::new();
    let read = match length <= LIMIT {
        true => file.take(LIMIT).read_to_end(&mut bytes).map(|_| bytes),
        false => Err(io::Error::other(format!(
            "it has {length} bytes, at most {LIMIT} are read"
        ))),
    };
    read.map_err(|source| Error::Read {
        path: path.into(),
        source,
    })
}

pub(crate) fn read_text(path: &Path) -> Result<String, Error> {
    String::from_utf8(read(path)?).map_err(|error| Error::Read {
        path: path.into(),
        source: io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()),
    })
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    serde_json::from_slice(&read(path)?).map_err(|source| Error::Json {
        path: path.into(),
        source,
    })
}

/// As [`read_json`]; the type's default where the file does not exist.
pub(crate) fn read_json_if_any<T: DeserializeOwned + Default>(path: &Path) -> Result<T, Error> {
    match path.exists() {
        true => read_json(path),
        false => Ok(T::default()),
    }
}
