//! Places at which a test has the process die, as a crash would.

/// The process dies here if `AMAIMA_CRASH_AT` in its environment names this place. In builds with
/// debug assertions only: elsewhere this is nothing.
pub fn point(place: &str) {
    if cfg!(debug_assertions) && std::env::var_os("AMAIMA_CRASH_AT").is_some_and(|at| at == place) {
        tracing::warn!(place, "dying here, as was wanted");
        std::process::abort();
    }
}
