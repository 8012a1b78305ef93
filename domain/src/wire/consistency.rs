//! What a client hands on, so that it never reads something older than it has seen (contract §17).

use std::{fmt, str::FromStr};

/// Which log a sequence belongs to. A log that is made anew counts from one again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(u64);

impl Epoch {
    /// Of the log that was made at this instant, in nanoseconds since 1970.
    pub const fn of_log(created_nanos: u64) -> Self {
        Self(created_nanos)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A place in a log: `<epoch>-<sequence>`, opaque to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// Which log.
    pub epoch: Epoch,
    /// What an answer must reflect.
    pub seq: u64,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.seq)
    }
}

/// The text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Must be a token as it was returned, <epoch>-<sequence>")]
pub struct InvalidToken;

impl FromStr for Token {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let (epoch, seq) = text.split_once('-').ok_or(InvalidToken)?;
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if epoch.len() != 16 || !epoch.bytes().all(is_hex) {
            return Err(InvalidToken);
        }
        if seq.is_empty() || !seq.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(InvalidToken);
        }
        Ok(Self {
            epoch: Epoch(u64::from_str_radix(epoch, 16).map_err(|_| InvalidToken)?),
            seq: seq.parse().map_err(|_| InvalidToken)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_back_and_nothing_else_is() {
        let token = Token {
            epoch: Epoch::of_log(1_741_079_700_000_000_000),
            seq: 42,
        };
        assert_eq!(token.to_string(), "18298ec33424c800-42");
        assert_eq!(token.to_string().parse(), Ok(token));
        let long = format!("{}-{}0", token.epoch, u64::MAX);
        for bad in [
            "",
            "42",
            "-42",
            "18298ec33424c800-",
            "18298ec33424c800-+4",
            "18298ec33424c800--4",
            "18298EC33424C800-42",
            "18298ec33424c80-42",
            "+8298ec33424c800-42",
            "18298ec33424c800-42 ",
            &long,
        ] {
            assert_eq!(bad.parse::<Token>(), Err(InvalidToken), "{bad}");
        }
    }
}
