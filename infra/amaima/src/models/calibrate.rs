//! `amaima models calibrate`: how often a model is right when it is how certain.

use crate::admin::Exit;
use clap::Args;
use engine::{
    Engine, Finish, Message,
    calibration::{self, Fitted, NotFitted, Rated},
    provider::{ChatRequest, Item, Local, Provider},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use std::{
    fmt, fs, io,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

/// Questions that are asked side by side.
const AT_ONCE: usize = 8;

/// What is asked.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The directory: config.json, tokenizer.json, safetensors
    dir: PathBuf,
    /// One JSON object a line: `question` or `questions`, and what makes an answer right: `answer`,
    /// the same words, or `contains`, words among them
    #[arg(long)]
    questions: PathBuf,
    /// Tokens of one answer at most
    #[arg(long, default_value = "512")]
    tokens: NonZeroUsize,
    /// Write nothing
    #[arg(long)]
    dry_run: bool,
}

/// There is no calibration.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The model cannot be loaded, or does not take a question.
    #[error("the model cannot answer")]
    Model(#[from] engine::Error),
    /// The thread that loaded it died.
    #[error("loading the model was interrupted")]
    Interrupted,
    /// The questions cannot be read.
    #[error("{} cannot be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// A line is no question.
    #[error("{}, line {line}: {reason}", path.display())]
    Line {
        path: PathBuf,
        line: usize,
        reason: String,
    },
    /// An answer did not come to its end.
    #[error("question {place} was not answered: {finish:?}")]
    Unanswered { place: usize, finish: Finish },
    /// Nothing can be learnt from the answers.
    #[error(transparent)]
    NotFitted(#[from] NotFitted),
    /// The file cannot be written.
    #[error("{} cannot be written", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// A line of the questions.
#[derive(Deserialize)]
struct Entry {
    question: Option<String>,
    #[serde(default)]
    questions: Vec<String>,
    answer: Option<String>,
    contains: Option<String>,
}

struct Question {
    text: String,
    right: Right,
}

/// What makes an answer right. Blanks do not matter.
#[derive(Clone, Debug)]
enum Right {
    Same(String),
    Contains(String),
}

#[derive(Debug, Serialize)]
pub(super) struct Found {
    model: String,
    answers: usize,
    right: usize,
    mean_certainty: f64,
    /// Expected calibration error over ten ranges, of the bare certainties.
    error_before: f64,
    /// Of calibrated ones, each rated without itself.
    error_after: f64,
    slope: f64,
    offset: f64,
    /// Where it was written to.
    written: Option<PathBuf>,
}

/// What is written beside the model.
#[derive(Serialize)]
struct File {
    slope: f64,
    offset: f64,
    answers: usize,
    right: usize,
    error_before: f64,
    error_after: f64,
}

pub(super) async fn calibrate(options: Options) -> Result<Found, Error> {
    let questions = read(&options.questions)?;
    let dir = options.dir.clone();
    let load = move || Engine::load(&dir, engine::Options::default());
    let loaded = tokio::task::spawn_blocking(load).await;
    let provider = Local::new(loaded.map_err(|_| Error::Interrupted)??);
    let asked = questions
        .iter()
        .enumerate()
        .map(|(place, question)| ask(&provider, place, question, options.tokens.get()));
    let answers: Vec<Rated> = stream::iter(asked).buffered(AT_ONCE).try_collect().await?;
    let fitted = calibration::fit(&answers)?;
    let mut found = Found::new(&provider, &answers, fitted);
    if !options.dry_run && found.helps() {
        found.written = Some(write(&options.dir, &found)?);
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<Question>, Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    let mut questions = Vec::new();
    for (place, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let wrong = |reason: String| Error::Line {
            path: path.to_owned(),
            line: place + 1,
            reason,
        };
        let entry: Entry = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
        let right = match (entry.answer, entry.contains) {
            (Some(answer), None) => Right::Same(plain(&answer)),
            (None, Some(words)) => Right::Contains(plain(&words).to_lowercase()),
            _ => return Err(wrong("either `answer` or `contains` is needed".into())),
        };
        let texts = entry.question.into_iter().chain(entry.questions);
        let before = questions.len();
        questions.extend(texts.map(|text| Question {
            text,
            right: right.clone(),
        }));
        if questions.len() == before {
            return Err(wrong("`question` or `questions` is needed".into()));
        }
    }
    Ok(questions)
}

/// With single blanks.
fn plain(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

async fn ask(
    provider: &Local,
    place: usize,
    question: &Question,
    tokens: usize,
) -> Result<Rated, Error> {
    let message = Message {
        role: "user".into(),
        content: question.text.clone(),
    };
    let mut answer = provider.answer(ChatRequest {
        // Random numbers follow from it: every run asks alike.
        id: place as u128,
        ..ChatRequest::new(vec![message], tokens)
    })?;
    let (mut text, mut logprob, mut count) = (String::new(), 0.0, 0_u32);
    let finish = loop {
        match answer.next().await {
            Some(Item::Text { text: more, tokens }) => {
                text.push_str(&more);
                for token in tokens {
                    logprob += f64::from(token.logprob);
                    count += 1;
                }
            }
            Some(Item::End(end)) => {
                text.push_str(&end.text);
                break end.finish;
            }
            None => break Finish::Error("it stopped without an end".into()),
        }
    };
    if !matches!(finish, Finish::Stop | Finish::Length) {
        return Err(Error::Unanswered {
            place: place + 1,
            finish,
        });
    }
    let text = plain(&text);
    Ok(Rated {
        certainty: (logprob / f64::from(count.max(1))).exp().clamp(0.0, 1.0),
        right: match &question.right {
            Right::Same(expected) => text == *expected,
            Right::Contains(words) => text.to_lowercase().contains(words),
        },
    })
}

fn write(dir: &Path, found: &Found) -> Result<PathBuf, Error> {
    let path = dir.join(calibration::FILE);
    let file = File {
        slope: found.slope,
        offset: found.offset,
        answers: found.answers,
        right: found.right,
        error_before: found.error_before,
        error_after: found.error_after,
    };
    let written = || {
        let text = serde_json::to_string_pretty(&file)? + "\n";
        // A worker that starts meanwhile reads the old one or the new one.
        let new = path.with_extension("new");
        fs::write(&new, text)?;
        fs::rename(&new, &path)
    };
    match written() {
        Ok(()) => Ok(path),
        Err(source) => Err(Error::Write { path, source }),
    }
}

impl Found {
    fn new(provider: &Local, answers: &[Rated], fitted: Fitted) -> Self {
        let certainties: f64 = answers.iter().map(|answer| answer.certainty).sum();
        Self {
            model: provider.card().model.clone(),
            answers: answers.len(),
            right: answers.iter().filter(|answer| answer.right).count(),
            mean_certainty: certainties / answers.len() as f64,
            error_before: fitted.before,
            error_after: fitted.after,
            slope: fitted.calibration.slope,
            offset: fitted.calibration.offset,
            written: None,
        }
    }

    fn helps(&self) -> bool {
        self.error_after < self.error_before
    }

    pub(super) fn exit(&self) -> Exit {
        Exit::well_if(self.helps())
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let right = 100.0 * self.right as f64 / self.answers as f64;
        writeln!(f, "{:16} {}", "model", self.model)?;
        writeln!(
            f,
            "{:16} {}, {} right ({right:.1} %)",
            "answers", self.answers, self.right
        )?;
        writeln!(
            f,
            "{:16} {:.4} in the mean",
            "certainty", self.mean_certainty
        )?;
        writeln!(
            f,
            "{:16} {:.4} expected calibration error",
            "before", self.error_before
        )?;
        writeln!(
            f,
            "{:16} {:.4}, each answer rated without itself",
            "after", self.error_after
        )?;
        writeln!(
            f,
            "{:16} slope {:.4}, offset {:.4}",
            "curve", self.slope, self.offset
        )?;
        match &self.written {
            Some(path) => writeln!(f, "{:16} {}", "written to", path.display()),
            None if self.helps() => writeln!(f, "{:16} no", "written"),
            None => writeln!(f, "warning: not written, since it does not lower the error"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_no_question_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("questions.jsonl");
        let good = r#"{"questions": ["a?", "b?"], "answer": "  two\nwords "}"#;
        let read = |text: &str| {
            fs::write(&path, text).expect("a file");
            super::read(&path)
        };
        let questions = read(&format!("{good}\n\n")).expect("questions");
        assert_eq!(questions.len(), 2);
        assert!(matches!(&questions[1].right, Right::Same(words) if words == "two words"));
        for (line, words) in [
            (r#"{"question": "a?"}"#, "either `answer` or `contains`"),
            (
                r#"{"question": "a?", "answer": "b", "contains": "c"}"#,
                "either `answer`",
            ),
            (r#"{"answer": "b"}"#, "`question` or `questions`"),
            ("[", "EOF"),
        ] {
            let refused = read(&format!("{good}\n{line}"))
                .err()
                .expect("refused")
                .to_string();
            assert!(
                refused.contains("line 2: ") && refused.contains(words),
                "{refused}"
            );
        }
    }
}
