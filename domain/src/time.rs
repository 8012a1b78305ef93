//! Points in time, as the wire writes them.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Cow;

/// Milliseconds since the Unix epoch, UTC. Written as ISO 8601 with milliseconds and `Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The latest whole day before the end of the range of `jiff::Timestamp`.
    const MAX_MILLIS: i64 = 253_402_207_199_999;

    /// Takes milliseconds since the epoch; what lies outside the years 1970 to 9999 is
    /// clamped.
    pub fn from_millis(millis: i64) -> Self {
        Self(millis.clamp(0, Self::MAX_MILLIS))
    }

    /// Milliseconds since the epoch.
    pub fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, as JWT claims count them.
    pub fn as_secs(self) -> i64 {
        self.0 / 1000
    }

    /// This instant, moved on by `millis`.
    pub fn plus_millis(self, millis: i64) -> Self {
        Self::from_millis(self.0.saturating_add(millis))
    }

    /// Milliseconds from `earlier` to this instant; zero if it is not earlier.
    pub fn millis_since(self, earlier: Self) -> u64 {
        u64::try_from(self.0 - earlier.0).unwrap_or(0)
    }

    /// Reads ISO 8601 with an offset.
    ///
    /// # Errors
    /// When the text is no such instant.
    pub fn parse(text: &str) -> Result<Self, InvalidTimestamp> {
        let parsed: jiff::Timestamp = text.parse().map_err(|_| InvalidTimestamp)?;
        Ok(Self::from_millis(parsed.as_millisecond()))
    }
}

/// The text is not an ISO 8601 instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an ISO 8601 instant")]
pub struct InvalidTimestamp;

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let instant = jiff::Timestamp::from_millisecond(self.0).map_err(|_| std::fmt::Error)?;
        write!(f, "{instant:.3}")
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

impl JsonSchema for Timestamp {
    fn schema_name() -> Cow<'static, str> {
        "Timestamp".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_with_milliseconds_and_z() {
        let instant = Timestamp::from_millis(1_741_079_700_000);
        assert_eq!(instant.to_string(), "2025-03-04T09:15:00.000Z");
        assert_eq!(
            Timestamp::parse("2025-03-04T10:15:00.000+01:00"),
            Ok(instant)
        );
        assert_eq!(
            Timestamp::from_millis(7).to_string(),
            "1970-01-01T00:00:00.007Z"
        );
        assert_eq!(
            Timestamp::from_millis(i64::MAX).to_string(),
            "9999-12-30T21:59:59.999Z"
        );
        assert_eq!(Timestamp::parse("yesterday"), Err(InvalidTimestamp));
    }
}
