//! What the gateway can be told from outside.

use infra::config::{self, Nats, Secret};
use serde::Deserialize;
use std::{net::SocketAddr, time::Duration};

/// Configuration of the gateway.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where REST and sockets are served.
    #[serde(default = "http_addr")]
    pub http_addr: SocketAddr,
    /// Where Prometheus scrapes.
    #[serde(default = "metrics_addr")]
    pub metrics_addr: SocketAddr,
    /// PEM of the RSA private key that signs tokens, PKCS#8 or PKCS#1, at least 2048 bits.
    pub jwt_pem: Secret,
    /// Origins that browsers may call from, as in the `Origin` header.
    #[serde(default = "allowed_origins")]
    pub allowed_origins: Vec<String>,
    /// Adds the origins that development uses.
    #[serde(default)]
    pub development: bool,
    /// Clients older than this are told so; compared with `X-Client-Version`.
    #[serde(default = "min_client_version")]
    pub min_client_version: String,
    /// The bus.
    pub nats: Nats,
    /// Sockets.
    #[serde(default)]
    pub sockets: Sockets,
    /// Most commands under way at once; more are turned away at once.
    #[serde(default = "in_flight")]
    pub commands_in_flight: usize,
    /// Most questions to read models under way at once; more are turned away at once.
    #[serde(default = "in_flight")]
    pub questions_in_flight: usize,
}

/// Configuration of sockets.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sockets {
    /// Time between two pings.
    pub ping_interval: Duration,
    /// How long after the second unanswered ping the socket is closed.
    pub pong_wait: Duration,
    /// Most sockets of one user.
    pub per_user: usize,
    /// Most messages per second from one socket.
    pub messages_per_second: u32,
}

impl Default for Sockets {
    fn default() -> Self {
        Self {
            ping_interval: Duration::from_secs(30),
            pong_wait: Duration::from_secs(10),
            per_user: domain::limits::SOCKETS_PER_USER,
            messages_per_second: domain::limits::SOCKET_MESSAGES_PER_SECOND,
        }
    }
}

fn http_addr() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 8000))
}

fn metrics_addr() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 8001))
}

fn allowed_origins() -> Vec<String> {
    vec!["https://app.amaima.com".into()]
}

const fn in_flight() -> usize {
    1_024
}

fn min_client_version() -> String {
    "1.0.0".into()
}

impl Config {
    /// The defaults, with what has none.
    pub fn new(jwt_pem: Secret, nats: Nats) -> Self {
        Self {
            http_addr: http_addr(),
            metrics_addr: metrics_addr(),
            jwt_pem,
            allowed_origins: allowed_origins(),
            development: false,
            min_client_version: min_client_version(),
            nats,
            sockets: Sockets::default(),
            commands_in_flight: in_flight(),
            questions_in_flight: in_flight(),
        }
    }

    /// `HTTP_ADDR`, `METRICS_ADDR`, `JWT_SECRET` (the PEM itself), `CORS_ALLOWED_ORIGINS`
    /// (separated by commas), `DEVELOPMENT` (`true` or `false`), `MIN_CLIENT_VERSION`,
    /// `COMMANDS_IN_FLIGHT`, `QUESTIONS_IN_FLIGHT`, and those of [`Nats::from_env`].
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn from_env() -> Result<Self, config::Error> {
        let defaults = Self::new(
            Secret::new(config::text("JWT_SECRET", "")),
            Nats::from_env()?,
        );
        let origins = config::text("CORS_ALLOWED_ORIGINS", &defaults.allowed_origins.join(","));
        Ok(Self {
            http_addr: config::parsed("HTTP_ADDR", defaults.http_addr)?,
            metrics_addr: config::parsed("METRICS_ADDR", defaults.metrics_addr)?,
            allowed_origins: origins
                .split(',')
                .map(|origin| origin.trim().to_owned())
                .filter(|origin| !origin.is_empty())
                .collect(),
            development: config::parsed("DEVELOPMENT", defaults.development)?,
            min_client_version: config::text("MIN_CLIENT_VERSION", &defaults.min_client_version),
            commands_in_flight: config::parsed("COMMANDS_IN_FLIGHT", in_flight())?,
            questions_in_flight: config::parsed("QUESTIONS_IN_FLIGHT", in_flight())?,
            ..defaults
        })
    }

    /// Every origin that may call.
    pub(crate) fn origins(&self) -> Vec<String> {
        let mut origins = self.allowed_origins.clone();
        if self.development {
            origins.extend(["http://localhost:3000", "http://localhost:8000"].map(String::from));
            let own = self.http_addr.port();
            origins.extend([
                format!("http://127.0.0.1:{own}"),
                format!("http://localhost:{own}"),
            ]);
        }
        origins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_never_printed_and_development_adds_origins() {
        let mut config = Config::new(Secret::new("-----BEGIN"), Nats::at("nats://u:p@h:1"));
        assert!(!format!("{config:?}").contains("BEGIN"));
        assert_eq!(config.origins(), ["https://app.amaima.com"]);
        config.development = true;
        assert!(config.origins().contains(&"http://localhost:3000".into()));
    }
}
