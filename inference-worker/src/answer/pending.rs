//! What the model has said and nobody has been told.

use domain::{
    text::storable,
    wire::token::{Alternative, Body, Chunk, Token},
};
use engine::provider;
use std::time::{Duration, Instant};

/// After the first chunk, text is collected for so long before the next one goes out.
const COLLECT: Duration = Duration::from_millis(30);

/// The model does not go on with what was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Otherwise;

/// Tokens that wait to go out together.
pub(super) struct Pending {
    /// What was shown already and comes again.
    shown: String,
    text: String,
    ids: Vec<u32>,
    logprob: f64,
    /// Who says it, as long as no chunk has told.
    model: Option<String>,
    /// One by one, where somebody asked for that.
    tokens: Option<Vec<Token>>,
    since: Instant,
    /// Nothing has gone out yet: the first text goes at once.
    first: bool,
}

impl Pending {
    /// After what was published; keeps tokens one by one if `tells`.
    ///
    /// A chunk without ids at the end of an answer is what the model had held back; who goes on
    /// after the last id says it again.
    pub(super) fn after<'a>(
        published: impl Iterator<Item = &'a Chunk>,
        model: String,
        tells: bool,
    ) -> Self {
        let mut shown = String::new();
        for chunk in published {
            match chunk.ids.is_empty() {
                true => shown.push_str(&chunk.text),
                false => shown.clear(),
            }
        }
        Self {
            first: true,
            ..Self::new(shown, Some(model), tells)
        }
    }

    fn new(shown: String, model: Option<String>, tells: bool) -> Self {
        Self {
            shown,
            text: String::new(),
            ids: vec![],
            logprob: 0.0,
            model,
            tokens: tells.then(Vec::new),
            since: Instant::now(),
            first: false,
        }
    }

    /// The model goes on. It can say what no row can hold; then the stream does not say it either.
    pub(super) fn add(
        &mut self,
        text: &str,
        tokens: Vec<provider::Token>,
    ) -> Result<(), Otherwise> {
        let text = storable(text);
        let again = self.shown.len().min(text.len());
        if self.shown.get(..again) != text.get(..again) {
            return Err(Otherwise);
        }
        self.shown.drain(..again);
        self.text.push_str(&text[again..]);
        for token in tokens {
            self.ids.extend(token.id);
            self.logprob += f64::from(token.logprob);
            if let Some(told) = &mut self.tokens {
                told.push(one(token));
            }
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.text.is_empty()
    }

    /// When what waits should go out; never while there is no text.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.text.is_empty() {
            return None;
        }
        Some(if self.first {
            self.since
        } else {
            self.since + COLLECT
        })
    }

    pub(super) fn take(&mut self) -> Body {
        let compute_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let next = Self::new(std::mem::take(&mut self.shown), None, self.tokens.is_some());
        let taken = std::mem::replace(self, next);
        Body::Chunk(Chunk {
            text: taken.text,
            ids: taken.ids,
            logprob: taken.logprob,
            compute_ms,
            model: taken.model,
            tokens: taken.tokens.unwrap_or_default(),
        })
    }
}

fn one(token: provider::Token) -> Token {
    let top = token.top.into_iter().map(|other| Alternative {
        bytes: other.bytes,
        logprob: other.logprob.into(),
    });
    Token {
        bytes: token.bytes,
        logprob: token.logprob.into(),
        top: top.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: u32) -> provider::Token {
        provider::Token {
            id: Some(id),
            logprob: -0.5,
            bytes: b"a".to_vec(),
            top: vec![provider::Alternative {
                bytes: b"b".to_vec(),
                logprob: -0.25,
            }],
        }
    }

    fn taken(pending: &mut Pending) -> Chunk {
        match pending.take() {
            Body::Chunk(chunk) => chunk,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_stream_says_what_a_row_can_hold() {
        let mut pending = Pending::after([].iter(), "m".into(), false);
        pending.add("a\0", vec![token(7)]).unwrap();
        pending.add("\0b", vec![]).unwrap();
        let chunk = taken(&mut pending);
        assert_eq!(chunk.text, "a\u{fffd}\u{fffd}b");
        assert_eq!(chunk.ids, [7]);
        assert_eq!(chunk.tokens, []);
    }

    #[test]
    fn tokens_are_told_one_by_one_where_that_is_wished() {
        let mut pending = Pending::after([].iter(), "m".into(), true);
        for ids in [vec![7, 8], vec![9]] {
            let tokens = ids.iter().copied().map(token).collect();
            pending.add("a", tokens).unwrap();
            let chunk = taken(&mut pending);
            assert_eq!(chunk.ids, ids);
            assert_eq!(chunk.tokens.len(), ids.len());
            assert_eq!(chunk.tokens[0].bytes, b"a");
            assert_eq!(chunk.tokens[0].logprob, -0.5);
            assert_eq!(chunk.tokens[0].top[0].logprob, -0.25);
            assert!(pending.is_empty());
        }
    }

    #[test]
    fn what_was_held_back_and_shown_is_not_shown_again() {
        let mut before = Pending::after([].iter(), "m".into(), false);
        before.add("one ", vec![token(1)]).unwrap();
        let first = taken(&mut before);
        before.add("t\u{f6}w", vec![]).unwrap();
        let published = [first, taken(&mut before)];
        let told = published.each_ref().map(|chunk| chunk.model.as_deref());
        assert_eq!(told, [Some("m"), None], "once is enough");

        // The first chunk has ids: only what follows it comes again.
        let mut pending = Pending::after(published.iter(), "m".into(), false);
        pending.add("t", vec![]).unwrap();
        assert_eq!(pending.due(), None);
        pending.add("\u{f6}wel", vec![token(2)]).unwrap();
        assert_eq!(taken(&mut pending).text, "el");
        pending.add("t", vec![]).unwrap();
        assert_eq!(taken(&mut pending).text, "t");

        for other in ["x", "t\u{f5}w", "t\u{101}w", "two"] {
            let mut pending = Pending::after(published.iter(), "m".into(), false);
            assert_eq!(pending.add(other, vec![]), Err(Otherwise), "{other}");
        }
        let whole = Pending::after(published[..1].iter(), "m".into(), false);
        assert_eq!(whole.shown, "");
    }
}
