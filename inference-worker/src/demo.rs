//! The demo model, which the binary carries with it: trained from scratch on questions and answers
//! about this project (see `demo/README.md`), so that the system answers on any machine.

use sha2::{Digest, Sha256};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_bytes!(concat!("../demo/model/", $name)).as_slice())),*]
    };
}

const FILES: [(&str, &[u8]); 5] = files![
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// Writes the model's directory under `cache`, unless this very one is there, and says where.
///
/// # Errors
/// When the directory cannot be written.
pub fn unpack(cache: &Path) -> io::Result<PathBuf> {
    let mut hash = Sha256::new();
    for (name, bytes) in FILES {
        hash.update(name);
        hash.update(bytes);
    }
    let version: String = hash
        .finalize()
        .iter()
        .take(6)
        .map(|b| format!("{b:02x}"))
        .collect();
    let dir = cache.join(format!("amaima-demo-{version}"));
    if is_whole(&dir) {
        return Ok(dir);
    }
    // Written beside it and moved into place, since several workers may start at once.
    fs::create_dir_all(cache)?;
    let fresh = cache.join(format!(".amaima-demo-{}", infra::clock::fresh_id()));
    fs::create_dir(&fresh)?;
    for (name, bytes) in FILES {
        fs::write(fresh.join(name), bytes)?;
    }
    match fs::rename(&fresh, &dir) {
        Ok(()) => Ok(dir),
        Err(_) if is_whole(&dir) => {
            fs::remove_dir_all(&fresh)?;
            Ok(dir)
        }
        // What lies there is not whole: somebody has touched it.
        Err(_) => {
            fs::remove_dir_all(&dir)?;
            fs::rename(&fresh, &dir)?;
            Ok(dir)
        }
    }
}

fn is_whole(dir: &Path) -> bool {
    FILES
        .iter()
        .all(|(name, bytes)| fs::read(dir.join(name)).is_ok_and(|found| found == *bytes))
}
