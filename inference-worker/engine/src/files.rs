//! Reading the files of a model directory, with their names in the errors.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::Error;

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Read {
        path: path.into(),
        source,
    })
}

pub(crate) fn read_text(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::Read {
        path: path.into(),
        source,
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
