//! Free ports on 127.0.0.1.
//!
//! They are taken from below the range that the kernel gives to outgoing connections: a port of
//! that range can be lost to any connection while its server is down for a moment, even to the
//! very client that tries to reach that server again.

use super::{Error, ServerKind, daemon::port_was_taken};
use std::net::{Ipv4Addr, TcpListener};
use uuid::Uuid;

const FIRST: u16 = 14_000;
const COUNT: u16 = 18_000;

/// How often a free port is looked for when another process is quicker to take it.
const ATTEMPTS: usize = 8;

/// The ports to try in this order: the given one alone, or the last one and then free ones.
pub(super) fn candidates(given: Option<u16>, last: Option<u16>) -> Vec<u16> {
    if let Some(port) = given {
        return vec![port];
    }
    let last = last.filter(|port| is_free(*port));
    last.into_iter()
        .chain((0..ATTEMPTS).map(|_| free()))
        .collect()
}

/// Launches on the first candidate that nobody else has taken meanwhile, and returns it.
pub(super) async fn launch_on_first_free<F>(
    candidates: Vec<u16>,
    launch: impl Fn(u16) -> F,
) -> Result<u16, Error>
where
    F: Future<Output = Result<(), Error>>,
{
    let mut candidates = candidates.into_iter().peekable();
    loop {
        let port = candidates.next().unwrap_or_else(free);
        match launch(port).await {
            Ok(()) => return Ok(port),
            Err(error) if port_was_taken(&error) && candidates.peek().is_some() => {}
            Err(error) => return Err(error),
        }
    }
}

/// Nothing listens on this port.
fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// The error for a port that was asked for and is taken.
pub(super) fn demand_free(server: ServerKind, given: Option<u16>) -> Result<(), Error> {
    match given {
        Some(port) if !is_free(port) => Err(Error::PortTaken { server, port }),
        _ => Ok(()),
    }
}

fn free() -> u16 {
    // Random, so that stacks that start side by side seldom choose the same one.
    let random = Uuid::new_v4().as_u128();
    let start = u16::try_from(random % u128::from(COUNT)).unwrap_or(0);
    (0..COUNT)
        .map(|step| FIRST + (start + step) % COUNT)
        .find(|port| is_free(*port))
        .unwrap_or(FIRST)
}

/// This many free ports, each another.
pub(super) fn distinct(count: usize) -> Vec<u16> {
    let mut ports = Vec::with_capacity(count);
    while ports.len() < count {
        let port = free();
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_not_offered_again() -> std::io::Result<()> {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, free()))?;
        let port = taken.local_addr()?.port();
        assert!(!candidates(None, Some(port)).contains(&port));
        assert_eq!(candidates(Some(port), None), [port]);
        assert!(demand_free(ServerKind::Nats, Some(port)).is_err());
        Ok(())
    }

    #[test]
    fn ports_stay_below_those_of_outgoing_connections() {
        let port = free();
        assert!((FIRST..FIRST + COUNT).contains(&port));
    }
}
