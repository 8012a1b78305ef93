//! Token ids to text, one id at a time.
//!
//! Two stages: a decoder turns tokens into characters and keeps back bytes that do not make
//! one yet; then stop strings are looked for, and a suffix that could still become one is kept
//! back too. What comes out is final. Both stages depend on the ids alone, so replaying the ids of
//! an interrupted generation restores their state.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::tokenizer::Tokenizer;

/// How a vocabulary spells text: the `decoder` of tokenizer.json, as far as it can run
/// incrementally and give what decoding all at once would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoding {
    /// Each character of a token stands for a byte (GPT-2, Llama 3, Qwen).
    ByteLevel,
    /// Tokens are text, and `<0xNN>` is a byte (SentencePiece: Llama 2, Mistral).
    ByteFallback {
        /// What stands for what in tokens: usually `▁` for a space.
        replace: Option<(String, String)>,
        /// A character, and how many of it to drop at the text's beginning.
        strip: Option<(char, usize)>,
    },
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Decoder {
    ByteLevel,
    Sequence {
        decoders: Vec<Decoder>,
    },
    Replace {
        pattern: Pattern,
        content: String,
    },
    ByteFallback,
    Fuse,
    Strip {
        content: char,
        start: usize,
        stop: usize,
    },
}

#[derive(Deserialize)]
enum Pattern {
    String(String),
}

impl Decoding {
    /// The bytes of a token in the middle of a text.
    pub(crate) fn bytes(&self, token: &str) -> Vec<u8> {
        match self {
            Self::ByteLevel => byte_level_bytes(token),
            Self::ByteFallback { replace, .. } => match fallback_byte(token) {
                Some(byte) => vec![byte],
                None => replaced(token, replace.as_ref()).into_bytes(),
            },
        }
    }

    pub(crate) fn parse(decoder: &Value) -> Result<Self, String> {
        let refuse = || format!("decoder {decoder} is not supported");
        let decoders = match Decoder::deserialize(decoder).map_err(|_| refuse())? {
            Decoder::Sequence { decoders } => decoders,
            single => vec![single],
        };
        if let [Decoder::ByteLevel] = decoders.as_slice() {
            return Ok(Self::ByteLevel);
        }
        let (mut replace, mut strip) = (None, None);
        let mut rest = decoders.into_iter().peekable();
        if let Some(Decoder::Replace {
            pattern: Pattern::String(from),
            content,
        }) = rest.next_if(|decoder| matches!(decoder, Decoder::Replace { .. }))
        {
            replace = Some((from, content));
        }
        // Without Fuse each token would be stripped for itself.
        for expected in [Decoder::ByteFallback, Decoder::Fuse] {
            rest.next_if(|next| std::mem::discriminant(next) == std::mem::discriminant(&expected))
                .ok_or_else(refuse)?;
        }
        if let Some(Decoder::Strip { content, start, .. }) =
            rest.next_if(|decoder| matches!(decoder, Decoder::Strip { stop: 0, .. }))
        {
            strip = Some((content, start));
        }
        match rest.next() {
            None => Ok(Self::ByteFallback { replace, strip }),
            Some(_) => Err(refuse()),
        }
    }
}

/// Joins the text of tokens, whole characters at a time.
#[derive(Debug)]
pub(crate) struct TextDecoder {
    decoding: Decoding,
    /// ByteLevel: an unfinished character. ByteFallback: the byte tokens since the last other one.
    bytes: Vec<u8>,
    begun: usize,
}

impl TextDecoder {
    pub(crate) fn new(decoding: Decoding) -> Self {
        Self {
            decoding,
            bytes: Vec::new(),
            begun: 0,
        }
    }

    /// The characters that are whole with this token.
    pub(crate) fn push(&mut self, token: &str) -> String {
        match &self.decoding {
            Decoding::ByteLevel => {
                self.bytes.extend(byte_level_bytes(token));
                self.take_characters()
            }
            Decoding::ByteFallback { replace, .. } => {
                if let Some(byte) = fallback_byte(token) {
                    self.bytes.push(byte);
                    return String::new();
                }
                let token = replaced(token, replace.as_ref());
                let run = self.take_run();
                self.strip(run + &token)
            }
        }
    }

    /// The rest, with U+FFFD for what never became a character.
    pub(crate) fn finish(&mut self) -> String {
        match self.decoding {
            Decoding::ByteLevel => {
                String::from_utf8_lossy(&std::mem::take(&mut self.bytes)).into_owned()
            }
            Decoding::ByteFallback { .. } => {
                let run = self.take_run();
                self.strip(run)
            }
        }
    }

    /// All but an unfinished character at the end, which is at most three bytes.
    fn take_characters(&mut self) -> String {
        let mut text = String::new();
        let mut rest = self.bytes.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, other) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = other;
                    let Some(invalid) = error.error_len() else {
                        break;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[invalid..];
                }
            }
        }
        self.bytes = rest.to_vec();
        text
    }

    /// A run of byte tokens is valid as a whole or not at all, as in the reference; so it is kept
    /// back until another token ends it.
    fn take_run(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.bytes)).unwrap_or_else(|error| {
            std::iter::repeat_n(char::REPLACEMENT_CHARACTER, error.as_bytes().len()).collect()
        })
    }

    fn strip(&mut self, text: String) -> String {
        let Decoding::ByteFallback {
            strip: Some((dropped, count)),
            ..
        } = self.decoding
        else {
            return text;
        };
        let kept = text.trim_start_matches(|c| {
            let strip = c == dropped && self.begun < count;
            self.begun = if strip { self.begun + 1 } else { count };
            strip
        });
        kept.to_owned()
    }
}

fn byte_level_bytes(token: &str) -> Vec<u8> {
    let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
    // An added token is spelled as it is.
    bytes.unwrap_or_else(|| token.as_bytes().to_vec())
}

fn replaced(token: &str, replace: Option<&(String, String)>) -> String {
    match replace {
        Some((from, to)) => token.replace(from, to),
        None => token.to_owned(),
    }
}

/// GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes follow from U+0100 on.
fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u8::try_from(code).ok(),
        0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// The same the other way round.
pub(crate) fn character_of(byte: u8) -> char {
    let code = u32::from(byte);
    let shown = match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        0..=0x20 => code + 0x100,
        0x7f..=0xa0 => code - 0x7f + 0x121,
        0xad => 0x143,
    };
    char::from_u32(shown).unwrap_or(char::REPLACEMENT_CHARACTER)
}

fn fallback_byte(token: &str) -> Option<u8> {
    match token.strip_prefix("<0x")?.strip_suffix('>')? {
        digits if digits.len() == 2 => u8::from_str_radix(digits, 16).ok(),
        _ => None,
    }
}

/// The text that became final with a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Often empty.
    pub text: String,
    /// Whether a stop string is complete; nothing comes after it.
    pub stopped: bool,
}

/// The text of one generation. It is given generated ids only, so prompt text cannot appear.
#[derive(Debug)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    decoder: TextDecoder,
    stops: Stops,
}

impl Detokenizer {
    /// A fresh one; `stops` must not hold empty strings.
    pub fn new(tokenizer: Arc<Tokenizer>, stops: Vec<String>) -> Self {
        let decoder = TextDecoder::new(tokenizer.decoding().clone());
        Self {
            tokenizer,
            decoder,
            stops: Stops::new(stops),
        }
    }

    /// The text that is final with this id.
    pub fn push(&mut self, id: u32) -> Piece {
        let text = self
            .tokenizer
            .token(id)
            .map(|token| self.decoder.push(&token));
        self.stops.push(&text.unwrap_or_default())
    }

    /// The text that was kept back, when no more ids come. Empty after a stop string.
    pub fn finish(&mut self) -> String {
        let text = self.decoder.finish();
        let Piece { mut text, stopped } = self.stops.push(&text);
        if !stopped {
            text.push_str(&std::mem::take(&mut self.stops.held));
        }
        text
    }
}

/// Looks for stop strings. Of several, the one that is complete first wins, whatever the pieces
/// in which the text arrives.
#[derive(Debug)]
struct Stops {
    stops: Vec<String>,
    held: String,
    stopped: bool,
}

impl Stops {
    fn new(stops: Vec<String>) -> Self {
        Self {
            stops,
            held: String::new(),
            stopped: false,
        }
    }

    fn push(&mut self, text: &str) -> Piece {
        if self.stopped {
            return Piece {
                text: String::new(),
                stopped: true,
            };
        }
        self.held.push_str(text);
        let ends = self.stops.iter().filter_map(|stop| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start))
        });
        if let Some((_, start)) = ends.min() {
            self.stopped = true;
            self.held.truncate(start);
            return Piece {
                text: std::mem::take(&mut self.held),
                stopped: true,
            };
        }
        let kept = self.held.split_off(self.undecided());
        Piece {
            text: std::mem::replace(&mut self.held, kept),
            stopped: false,
        }
    }

    /// Where the longest suffix begins that a stop string begins with.
    fn undecided(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest);
        (from..self.held.len())
            .filter(|start| self.held.is_char_boundary(*start))
            .find(|start| {
                self.stops
                    .iter()
                    .any(|stop| stop.starts_with(&self.held[*start..]))
            })
            .unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::tokenizer::tests::{byte_characters, byte_fallback, byte_level, tokenizer};

    fn texts(detokenizer: &mut Detokenizer, ids: &[u32]) -> Vec<String> {
        let mut pieces = Vec::new();
        for id in ids {
            let piece = detokenizer.push(*id);
            pieces.push(piece.text);
            if piece.stopped {
                break;
            }
        }
        pieces.push(detokenizer.finish());
        pieces
    }

    #[test]
    fn the_alphabet_of_bytes_is_gpt2s() {
        for (byte, character) in (0..=255).zip(byte_characters()) {
            assert_eq!(byte_of(character), Some(byte));
            assert_eq!(character_of(byte), character);
        }
        assert_eq!(byte_of('日'), None);
    }

    #[test]
    fn a_character_comes_out_whole() {
        for (json, late) in [(byte_level(), false), (byte_fallback(), true)] {
            let ids: Vec<u32> = "🦀".bytes().map(u32::from).collect();
            let mut detokenizer = Detokenizer::new(tokenizer(json), vec![]);
            let pieces = texts(&mut detokenizer, &ids);
            let crab = if late {
                ["", "", "", "", "🦀"]
            } else {
                ["", "", "", "🦀", ""]
            };
            assert_eq!(pieces, crab);
        }
    }

    #[test]
    fn only_a_possible_beginning_of_a_stop_string_is_held_back() {
        let tokenizer = tokenizer(byte_level());
        let ids: Vec<u32> = "a<b</s>c".bytes().map(u32::from).collect();
        let mut detokenizer = Detokenizer::new(tokenizer, vec!["</s>".into(), "\n\n".into()]);
        assert_eq!(
            texts(&mut detokenizer, &ids),
            ["a", "", "<b", "", "", "", "", ""]
        );
    }

    #[test]
    fn held_back_text_is_given_at_the_end() {
        let tokenizer = tokenizer(byte_level());
        let ids: Vec<u32> = "a</".bytes().map(u32::from).collect();
        let mut detokenizer = Detokenizer::new(tokenizer, vec!["</s>".into()]);
        assert_eq!(texts(&mut detokenizer, &ids), ["a", "", "", "</"]);
    }

    #[test]
    fn the_stop_string_complete_first_wins_in_any_pieces() {
        for pieces in [&["abcd"][..], &["a", "b", "c", "d"]] {
            let mut stops = Stops::new(vec!["abcd".into(), "bc".into()]);
            let text: String = pieces.iter().map(|piece| stops.push(piece).text).collect();
            assert_eq!((text.as_str(), stops.stopped), ("a", true));
        }
    }

    #[test]
    fn decoders_that_cannot_run_incrementally_are_refused() {
        for decoder in [
            serde_json::json!(null),
            serde_json::json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
            serde_json::json!({"type": "Sequence", "decoders": [{"type": "ByteFallback"}]}),
            serde_json::json!({"type": "Sequence", "decoders": [{"type": "ByteFallback"},
                {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 1}]}),
        ] {
            assert!(Decoding::parse(&decoder).is_err(), "{decoder}");
        }
    }

    /// Loaded once for all cases.
    static TOKENIZERS: LazyLock<[Arc<Tokenizer>; 2]> =
        LazyLock::new(|| [byte_level(), byte_fallback()].map(tokenizer));

    proptest! {
        #[test]
        fn pieces_join_to_the_decoding_of_the_whole(
            ids in proptest::collection::vec(
                prop_oneof![0u32..270, 0xc0u32..0x100, 0x80u32..0xc0],
                0..40,
            ),
        ) {
            for tokenizer in &*TOKENIZERS {
                let pieces = texts(&mut Detokenizer::new(Arc::clone(tokenizer), vec![]), &ids);
                prop_assert_eq!(pieces.concat(), tokenizer.reference_decode(&ids));
                prop_assert_eq!(tokenizer.decode(&ids), tokenizer.reference_decode(&ids));
            }
        }

        /// Every byte, characters in pieces, special and unknown ids; stop strings that begin and
        /// end inside tokens, may overlap and may hold U+FFFD.
        #[test]
        fn nothing_of_a_stop_string_comes_out_and_all_before_it_does(
            ids in proptest::collection::vec(
                prop_oneof![4 => 0u32..270, 2 => 0x61u32..0x64, 1 => 0xc0u32..0x100,
                    1 => Just(256u32), 1 => Just(262u32)],
                0..40,
            ),
            stops in proptest::collection::vec(
                prop_oneof![4 => "[abcHi]{1,3}", 1 => "[é\u{fffd}日本🦀]{1,2}", 1 => Just(" Hi".to_owned())],
                0..4,
            ),
            cut in 0usize..40,
        ) {
            for tokenizer in &*TOKENIZERS {
                let mut detokenizer = Detokenizer::new(Arc::clone(tokenizer), stops.clone());
                let whole = tokenizer.reference_decode(&ids);
                let expected = &whole[..first_stop(&whole, &stops)];
                let pieces = texts(&mut detokenizer, &ids);
                let mut said = String::new();
                for piece in &pieces {
                    said.push_str(piece);
                    prop_assert!(expected.starts_with(&said), "{said:?} of {expected:?}");
                }
                prop_assert_eq!(&said, expected);

                // Fed with what was published before, another one goes on with the same pieces.
                let cut = cut.min(pieces.len().saturating_sub(2));
                let mut resumed = Detokenizer::new(Arc::clone(tokenizer), stops.clone());
                for (id, piece) in ids[..cut].iter().zip(&pieces) {
                    prop_assert_eq!(&resumed.push(*id).text, piece);
                }
                prop_assert_eq!(texts(&mut resumed, &ids[cut..]), &pieces[cut..]);
            }
        }

        #[test]
        fn every_sequence_of_bytes_reads_as_the_standard_says(
            bytes in proptest::collection::vec(
                prop_oneof![0u8..=255, 0x80u8..0xc0, 0xe0u8..0xf8], 0..60),
        ) {
            let ids: Vec<u32> = bytes.iter().copied().map(u32::from).collect();
            let mut detokenizer = Detokenizer::new(Arc::clone(&TOKENIZERS[0]), vec![]);
            let pieces = texts(&mut detokenizer, &ids);
            prop_assert_eq!(pieces.concat(), String::from_utf8_lossy(&bytes));
        }
    }

    /// Where a text ends that stops at the stop string which is complete first, the longest of
    /// several that are.
    fn first_stop(text: &str, stops: &[String]) -> usize {
        let complete = (0..=text.len())
            .filter(|end| text.is_char_boundary(*end))
            .find_map(|end| {
                let ended = stops.iter().filter(|stop| text[..end].ends_with(*stop));
                ended.map(|stop| end - stop.len()).min()
            });
        complete.unwrap_or(text.len())
    }
}
