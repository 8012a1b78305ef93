//! Text to token ids and back, by the tokenizer.json of the model directory.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::detokenizer::{Decoding, TextDecoder};
use crate::error::Error;
use crate::files::{read_json, read_json_if_any};

/// The part of tokenizer_config.json that decides something here.
#[derive(Debug, Default, Deserialize)]
pub struct TokenizerConfig {
    bos_token: Option<SpecialToken>,
    eos_token: Option<SpecialToken>,
    chat_template: Option<ChatTemplates>,
}

/// A special token as text, or as an object with flags.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum SpecialToken {
    Text(String),
    Object { content: String },
}

/// One template, or several by name.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ChatTemplates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Debug, Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

impl SpecialToken {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Object { content: text } => text,
        }
    }
}

impl TokenizerConfig {
    /// The token that begins a sequence, as text.
    pub fn bos_token(&self) -> Option<&str> {
        self.bos_token.as_ref().map(SpecialToken::text)
    }

    /// The token that ends a sequence, as text.
    pub fn eos_token(&self) -> Option<&str> {
        self.eos_token.as_ref().map(SpecialToken::text)
    }

    /// The chat template's source; the one named `default` where there are several.
    pub fn chat_template(&self) -> Option<&str> {
        match self.chat_template.as_ref()? {
            ChatTemplates::One(source) => Some(source),
            ChatTemplates::Named(list) => list
                .iter()
                .find(|named| named.name == "default")
                .map(|named| &*named.template),
        }
    }
}

/// `eos_token_id` of config.json and generation_config.json: one id, or several.
#[derive(Debug, Default, Deserialize)]
struct EosField {
    eos_token_id: Option<EosIds>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum EosIds {
    One(u32),
    Several(Vec<u32>),
}

/// A loaded tokenizer.
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
    config: TokenizerConfig,
    decoding: Decoding,
    eos: Vec<u32>,
    special: Vec<String>,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Loads tokenizer.json, tokenizer_config.json (optional) and the end-of-sequence ids: from
    /// generation_config.json, else config.json, else the `eos_token` of tokenizer_config.json.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Json`], [`Error::Tokenizer`] when the file does not parse, its
    /// decoder is none that can run incrementally, or an id is not below `vocabulary`.
    pub fn load(dir: &Path, vocabulary: usize) -> Result<Self, Error> {
        let path = dir.join("tokenizer.json");
        let json: Value = read_json(&path)?;
        let decoding = Decoding::parse(json.get("decoder").unwrap_or(&Value::Null))
            .map_err(|reason| Error::tokenizer(&path, reason))?;
        let mut inner: tokenizers::Tokenizer =
            serde_json::from_value(json).map_err(|source| Error::Json {
                path: path.clone(),
                source,
            })?;
        // Left over from training; a prompt is never cut or filled up silently.
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|error| Error::tokenizer(&path, error))?;
        let vocab = inner.get_vocab(true);
        if let Some((token, id)) = vocab.iter().max_by_key(|(_, id)| **id)
            && *id as usize >= vocabulary
        {
            let reason = format!("token {token:?} has id {id}, the model scores {vocabulary} ids");
            return Err(Error::tokenizer(&path, reason));
        }
        let config: TokenizerConfig = read_json_if_any(&dir.join("tokenizer_config.json"))?;
        let special = inner
            .get_added_tokens_decoder()
            .into_values()
            .filter(|token| token.special && !token.content.is_empty())
            .map(|token| token.content)
            .collect();
        let eos = eos_ids(dir, vocabulary)?;
        let mut tokenizer = Self {
            path,
            inner,
            config,
            decoding,
            eos,
            special,
        };
        if tokenizer.eos.is_empty() {
            let eos = tokenizer
                .config
                .eos_token()
                .and_then(|eos| tokenizer.inner.token_to_id(eos));
            tokenizer.eos.extend(eos);
        }
        Ok(tokenizer)
    }

    /// What tokenizer_config.json says.
    pub fn config(&self) -> &TokenizerConfig {
        &self.config
    }

    /// Whether an id ends a generation.
    pub fn is_eos(&self, id: u32) -> bool {
        self.eos.contains(&id)
    }

    /// Whether any id ends a generation.
    pub fn ends(&self) -> bool {
        !self.eos.is_empty()
    }

    /// The ids that end a generation.
    pub(crate) fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// The ids of a text, nothing added at its ends.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where no token, not even an unknown one, covers a part of the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        self.encode_with(text, false)
    }

    /// The ids of a text as a whole sequence: with what the tokenizer adds at its ends, such as a
    /// token for its beginning.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_whole(&self, text: &str) -> Result<Vec<u32>, Error> {
        self.encode_with(text, true)
    }

    fn encode_with(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, Error> {
        self.inner
            .encode_fast(text, add_special_tokens)
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|error| Error::tokenizer(&self.path, error))
    }

    /// The text of a sequence of ids; special tokens and unknown ids have none, and incomplete
    /// UTF-8 shows as U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut decoder = TextDecoder::new(self.decoding.clone());
        let mut text: String = ids
            .iter()
            .filter_map(|id| self.token(*id))
            .map(|token| decoder.push(&token))
            .collect();
        text.push_str(&decoder.finish());
        text
    }

    /// A text without any special token in it, so that it cannot end its turn in a conversation.
    pub fn without_special_tokens(&self, text: &str) -> String {
        let mut text = text.to_owned();
        // Removing one may join the halves of another.
        while let Some(token) = self.special.iter().find(|token| text.contains(*token)) {
            text = text.replace(token, "");
        }
        text
    }

    /// The vocabulary's entry for an id that has text.
    pub(crate) fn token(&self, id: u32) -> Option<String> {
        let added = self.inner.get_added_vocabulary();
        self.inner
            .id_to_token(id)
            .filter(|token| !added.is_special_token(token))
    }

    /// What an id that has text writes in the middle of a text.
    pub(crate) fn bytes(&self, id: u32) -> Option<Vec<u8>> {
        self.token(id).map(|token| self.decoding.bytes(&token))
    }

    pub(crate) fn decoding(&self) -> &Decoding {
        &self.decoding
    }
}

fn eos_ids(dir: &Path, vocabulary: usize) -> Result<Vec<u32>, Error> {
    for file in ["generation_config.json", "config.json"] {
        let path = dir.join(file);
        let ids = match read_json_if_any::<EosField>(&path)?.eos_token_id {
            None => continue,
            Some(EosIds::One(id)) => vec![id],
            Some(EosIds::Several(ids)) => ids,
        };
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
            return Err(Error::Field {
                path,
                field: "eos_token_id",
                value: id.to_string(),
                reason: format!("the model scores {vocabulary} ids"),
            });
        }
        return Ok(ids);
    }
    Ok(Vec::new())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    /// GPT-2's alphabet: a printable character for each byte.
    pub(crate) fn byte_characters() -> Vec<char> {
        let printable = |b: &u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let mut next = 256;
        (0..=255u8)
            .map(|byte| match printable(&byte) {
                true => char::from(byte),
                false => {
                    next += 1;
                    char::from_u32(next - 1).expect("a character")
                }
            })
            .collect()
    }

    /// One token per byte (ids 0 to 255), the word "Hi" (256), a special `<end>` (257) and an
    /// added token that is not special (258).
    pub(crate) fn byte_level() -> Value {
        let mut vocab: serde_json::Map<String, Value> = (0..)
            .zip(byte_characters())
            .map(|(id, c)| (c.to_string(), json!(id)))
            .collect();
        vocab.insert("Hi".into(), json!(256));
        tokenizer_json(
            json!({"type": "BPE", "vocab": vocab, "merges": ["H i"]}),
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                "use_regex": false}),
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                "use_regex": false}),
            257,
        )
    }

    /// Llama 2's arrangement: `▁` for spaces and a token for each byte that has no other.
    pub(crate) fn byte_fallback() -> Value {
        let mut vocab: serde_json::Map<String, Value> = (0..256)
            .map(|byte| (format!("<0x{byte:02X}>"), json!(byte)))
            .collect();
        for (id, token) in (256..).zip(["▁", "H", "i", "▁H", "▁Hi", "é", "Hi"]) {
            vocab.insert(token.into(), json!(id));
        }
        tokenizer_json(
            json!({"type": "BPE", "vocab": vocab, "merges": ["▁ H", "H i", "▁H i"],
                "byte_fallback": true, "fuse_unk": true}),
            json!(null),
            json!({"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}),
            263,
        )
    }

    fn tokenizer_json(model: Value, pre_tokenizer: Value, decoder: Value, added: u32) -> Value {
        let token = |id: u32, content: &str, special: bool| {
            json!({"id": id, "content": content, "special": special, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false})
        };
        json!({"version": "1.0", "truncation": null, "padding": null, "normalizer": null,
            "added_tokens": [token(added, "<end>", true), token(added + 1, "日本", false)],
            "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": decoder,
            "model": model})
    }

    fn directory(files: &[(&str, Value)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, value) in files {
            std::fs::write(dir.path().join(name), value.to_string()).expect("a file");
        }
        dir
    }

    /// Loaded, with 257 as the end of a sequence and room for 512 ids.
    pub(crate) fn tokenizer(json: Value) -> Arc<Tokenizer> {
        let config = json!({"eos_token_id": 257});
        let dir = directory(&[("tokenizer.json", json), ("config.json", config)]);
        Arc::new(Tokenizer::load(dir.path(), 512).expect("a tokenizer"))
    }

    impl Tokenizer {
        pub(crate) fn reference_decode(&self, ids: &[u32]) -> String {
            self.inner.decode(ids, true).expect("a text")
        }
    }

    #[test]
    fn a_text_survives_the_way_there_and_back() {
        for json in [byte_level(), byte_fallback()] {
            let tokenizer = tokenizer(json);
            for text in ["Hi Hi", "naïve 日本 🦀\n"] {
                let ids = tokenizer.encode(&text.replace(' ', "▁")).expect("ids");
                assert_eq!(tokenizer.decode(&ids).replace('▁', " "), text);
            }
        }
    }

    #[test]
    fn eos_ids_come_from_the_generation_config_first() {
        let cases = [
            (
                json!({"eos_token_id": [1, 2]}),
                json!({"eos_token_id": 3}),
                vec![1, 2],
            ),
            (json!({}), json!({"eos_token_id": 3}), vec![3]),
            (json!({}), json!({}), vec![257]),
        ];
        for (generation, config, expected) in cases {
            let dir = directory(&[
                ("tokenizer.json", byte_level()),
                (
                    "tokenizer_config.json",
                    json!({"eos_token": {"content": "<end>"}}),
                ),
                ("generation_config.json", generation),
                ("config.json", config),
            ]);
            let tokenizer = Tokenizer::load(dir.path(), 512).expect("a tokenizer");
            assert_eq!(tokenizer.eos, expected);
        }
    }

    #[test]
    fn special_tokens_cannot_be_smuggled_in_by_splitting_one() {
        let tokenizer = tokenizer(byte_level());
        assert_eq!(tokenizer.without_special_tokens("a<en<end>d>b<end>"), "ab");
    }

    #[test]
    fn a_tokenizer_that_does_not_fit_is_refused() {
        let mut without_decoder = byte_level();
        without_decoder["decoder"] = Value::Null;
        let cases = [
            (without_decoder, 512, json!({}), "decoder"),
            (byte_level(), 257, json!({}), "the model scores 257 ids"),
            (
                byte_level(),
                512,
                json!({"eos_token_id": 600}),
                "eos_token_id",
            ),
        ];
        for (json, vocabulary, config, expected) in cases {
            let dir = directory(&[("tokenizer.json", json), ("config.json", config)]);
            let error = Tokenizer::load(dir.path(), vocabulary).expect_err("a refusal");
            assert!(error.to_string().contains(expected), "{error}");
        }
        let dir = directory(&[("tokenizer.json", json!({"model": 1}))]);
        assert!(Tokenizer::load(dir.path(), 1).is_err());
    }

    #[test]
    fn the_default_of_several_chat_templates_is_taken() {
        let config: TokenizerConfig = serde_json::from_value(json!({"chat_template": [
            {"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]}))
        .expect("a config");
        assert_eq!(config.chat_template(), Some("b"));
    }
}
