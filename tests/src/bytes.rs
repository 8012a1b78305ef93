//! Looking for texts in files, whatever these are.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

/// Those of these texts that are in a file somewhere under this path.
///
/// # Errors
/// When a file cannot be read, other than one that went away meanwhile.
pub fn found<'a>(under: &Path, texts: &'a [String]) -> io::Result<BTreeSet<&'a str>> {
    let mut found = BTreeSet::new();
    for file in files(under)? {
        let bytes = match fs::read(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            bytes => bytes?,
        };
        let is_in = |text: &&String| is_within(&bytes, text.as_bytes());
        found.extend(texts.iter().filter(is_in).map(String::as_str));
    }
    Ok(found)
}

fn is_within(bytes: &[u8], text: &[u8]) -> bool {
    let Some((first, rest)) = text.split_first() else {
        return true;
    };
    let mut bytes = bytes;
    while let Some(at) = bytes.iter().position(|byte| byte == first) {
        bytes = &bytes[at + 1..];
        if bytes.starts_with(rest) {
            return true;
        }
    }
    false
}

/// All files under this path, which may be one itself.
fn files(under: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut left = vec![under.to_owned()];
    while let Some(path) = left.pop() {
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {
                for entry in fs::read_dir(&path)? {
                    left.push(entry?.path());
                }
            }
            Ok(metadata) if metadata.is_file() => found.push(path),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_wherever_it_is() {
        let place = tempfile::TempDir::new().unwrap();
        fs::create_dir(place.path().join("a")).unwrap();
        fs::write(place.path().join("a/b"), b"\x00MMia\xff").unwrap();
        let texts = ["Mia", "Mi", "Mio", "\u{0}MM"].map(str::to_owned);
        let there = found(place.path(), &texts).unwrap();
        assert_eq!(there, BTreeSet::from(["Mia", "Mi", "\u{0}MM"]));
        assert!(found(&place.path().join("c"), &texts).unwrap().is_empty());
    }
}
