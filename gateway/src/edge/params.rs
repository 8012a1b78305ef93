//! Parameters of the query part of a URL.

use super::Error;
use axum::extract::{FromRequestParts, Query};
use http::request::Parts;
use std::{fmt::Display, str::FromStr};

/// The parameters, as they came. An empty value counts as absent.
#[derive(Debug, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }

    /// # Errors
    /// When there is a value that cannot be read.
    pub(crate) fn parsed<T: FromStr>(&self, name: &str) -> Result<Option<T>, Error>
    where
        T::Err: Display,
    {
        let parse = |text: &str| {
            text.parse()
                .map_err(|error: T::Err| Error::bad_parameter(name, &error.to_string()))
        };
        self.get(name).map(parse).transpose()
    }
}

impl<S: Sync + Send> FromRequestParts<S> for Params {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let Query(pairs) = Query::from_request_parts(parts, state)
            .await
            .map_err(|_| Error::bad_parameter("query string", "cannot be read"))?;
        Ok(Self(pairs))
    }
}
