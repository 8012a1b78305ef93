//! What every request passes before and after its endpoint.

pub(crate) mod cors;
pub(crate) mod error;
pub(crate) mod idempotency;
pub(crate) mod identity;
pub(crate) mod json;
pub(crate) mod params;
pub(crate) mod request_id;
pub(crate) mod seal;

pub(crate) use error::Error;
pub(crate) use idempotency::Key;
pub(crate) use identity::{Caller, Identity, Keyed, Purpose, Reads, Writes};
pub(crate) use json::{Body, Fields};
pub(crate) use params::Params;
pub(crate) use request_id::Call;
