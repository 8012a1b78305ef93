//! What a person may do with what is kept about them.

pub(crate) mod erase;
pub(crate) mod export;
