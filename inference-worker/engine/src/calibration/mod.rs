//! From a model's certainty about its words to how often it is right.
//!
//! The geometric mean probability of an answer's tokens ranks answers well, and is mostly far too
//! high as a probability that the answer is right. A calibration is the logistic curve that was
//! fitted to answers whose rightness is known (Platt, 1999); it is two numbers in
//! `calibration.json` beside the model, and keeps the order of answers.

mod fit;

pub use fit::{BINS, Fitted, LEAST, NotFitted, Rated, error, fit};

use crate::{error::Error, files};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The file's name in a model's directory.
pub const FILE: &str = "calibration.json";
/// Certainties are kept off 0 and 1 by this, where the logarithms of odds have no end.
const EDGE: f64 = 1e-6;

/// What turns a certainty into a probability of being right.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Of the logarithm of odds; at least 0.
    pub slope: f64,
    /// Added to it.
    pub offset: f64,
}

impl Calibration {
    /// That of a model's directory, if it has one.
    ///
    /// # Errors
    /// [`Error::Json`] and [`Error::Field`] for a file that is none.
    pub fn load(dir: &Path) -> Result<Option<Self>, Error> {
        let path = dir.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let this: Self = files::read_json(&path)?;
        let wrong = |field, value: f64, reason: &str| {
            Err(Error::Field {
                path: path.clone(),
                field,
                value: value.to_string(),
                reason: reason.into(),
            })
        };
        if !(0.0..=1e6).contains(&this.slope) {
            return wrong("slope", this.slope, "it is between 0 and 1000000");
        }
        if !(-1e6..=1e6).contains(&this.offset) {
            return wrong("offset", this.offset, "it is between -1000000 and 1000000");
        }
        Ok(Some(this))
    }

    /// The probability that an answer of this certainty is right.
    pub fn apply(&self, certainty: f64) -> f64 {
        sigmoid(self.slope * log_odds(certainty) + self.offset)
    }
}

fn log_odds(probability: f64) -> f64 {
    let probability = probability.clamp(EDGE, 1.0 - EDGE);
    (probability / (1.0 - probability)).ln()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_or_refused_with_its_field() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Calibration::load(dir.path()).unwrap(), None);
        let load = |text: &str| {
            std::fs::write(dir.path().join(FILE), text).unwrap();
            Calibration::load(dir.path())
        };
        let read = load(r#"{"slope": 1.0, "offset": 0.0, "answers": 40}"#)
            .unwrap()
            .unwrap();
        for certainty in [0.0, 0.2, 0.9, 1.0] {
            assert!(
                (read.apply(certainty) - certainty).abs() < 1e-5,
                "{certainty}"
            );
        }
        for (text, words) in [
            (r#"{"slope": -1.0, "offset": 0.0}"#, "`slope` = -1"),
            (r#"{"slope": 1.0, "offset": 1e300}"#, "`offset` = 1"),
            (r#"{"slope": 1.0}"#, "is not the JSON"),
        ] {
            let refused = load(text).unwrap_err().to_string();
            assert!(refused.contains(words), "{refused}");
        }
    }

    #[test]
    fn more_certain_is_never_less_probable() {
        let calibration = Calibration {
            slope: 0.5,
            offset: -3.0,
        };
        let rated: Vec<f64> = (0..=100)
            .map(|n| calibration.apply(f64::from(n) / 100.0))
            .collect();
        assert!(rated.is_sorted());
        assert!(rated.iter().all(|rated| (0.0..=1.0).contains(rated)));
    }
}
