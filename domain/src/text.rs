//! What a text must be so that every store shows the same.

use std::borrow::Cow;

/// A text as PostgreSQL can hold it: not even escaped may it have the character U+0000, which JSON
/// and therefore the log may have. In its place stands U+FFFD, the replacement character.
pub fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        Cow::Owned(text.replace('\0', "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_stored_without_nul() {
        assert!(matches!(storable("plain"), Cow::Borrowed("plain")));
        assert_eq!(storable("a\0b"), "a\u{fffd}b");
    }
}
