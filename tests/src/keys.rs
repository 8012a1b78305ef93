//! The keys of persons, kept apart from everything else, as an operator would.

use crate::admin;
use amaima::{
    admin::Exit,
    stack::{self, Stack},
};
use std::fs;
use tempfile::TempDir;

/// Where keys are kept.
#[derive(Debug)]
pub struct Kept(TempDir);

impl Kept {
    /// The keys of this stack, and its master keys.
    ///
    /// # Panics
    /// When they cannot be written.
    pub async fn of(stack: &Stack) -> Self {
        let kept = Self(TempDir::new().expect("a directory"));
        let (exit, report) =
            admin::json_of(stack, &["keys", "backup", "--file", &kept.file()]).await;
        assert_eq!(exit, Exit::Well, "{report}");
        fs::copy(&stack.endpoints().master_keys_file, kept.masters()).expect("copied");
        kept
    }

    /// The file with the wrapped keys.
    pub fn file(&self) -> String {
        self.0.path().join("keys").display().to_string()
    }

    fn masters(&self) -> String {
        self.0.path().join("master-keys").display().to_string()
    }

    /// Servers on another machine, which has got the master keys.
    ///
    /// # Panics
    /// When they do not start.
    pub async fn other_machine(&self) -> Stack {
        self.brought_to(stack::testing().await.expect("the servers start"))
    }

    /// These servers, with the master keys.
    ///
    /// # Panics
    /// When they cannot be written.
    pub fn brought_to(&self, stack: Stack) -> Stack {
        fs::copy(self.masters(), &stack.endpoints().master_keys_file).expect("copied");
        stack
    }
}
