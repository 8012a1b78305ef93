//! What each id of a vocabulary writes, in bytes, as grammars see it.

use std::sync::Arc;

use llguidance::toktrie::{ApproximateTokEnv, INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie};

use crate::tokenizer::Tokenizer;

/// Ids without text are never part of an answer in a format: special ones, those that the
/// tokenizer does not know, and those that end a sequence, whatever they are spelled like.
pub(super) fn environment(tokenizer: &Tokenizer, vocabulary: usize) -> TokEnv {
    let size = u32::try_from(vocabulary).unwrap_or(u32::MAX);
    let bytes = |id: u32| match tokenizer.is_eos(id) {
        true => Vec::new(),
        false => tokenizer
            .bytes(id)
            // The trie takes this byte, which is none of UTF-8, for the mark of a special token.
            .filter(|bytes| bytes.first() != Some(&TokTrie::SPECIAL_TOKEN_MARKER))
            .unwrap_or_default(),
    };
    let words: Vec<Vec<u8>> = (0..size).map(bytes).collect();
    let trie = TokTrie::from(&TokRxInfo::new(size, INVALID_TOKEN), &words);
    let trie = match tokenizer.eos() {
        [] => trie,
        eos => trie.with_eos_tokens(eos),
    };
    Arc::new(ApproximateTokEnv::new(trie))
}
