use super::Error;
use crate::stack;
use async_nats::{Client, jetstream};
use infra::{
    config,
    sealing::{Keyring, Sealing},
};
use std::path::Path;

/// The way to the system that is looked at.
#[derive(Debug)]
pub struct Connection {
    /// The bus.
    pub client: Client,
    /// Its JetStream.
    pub context: jetstream::Context,
    /// What the services are told about the bus.
    pub nats: config::Nats,
    /// The keys of persons.
    pub keys: Keyring,
}

impl Connection {
    /// Connects to the given URL, or else to the stack that runs on the data directory.
    ///
    /// # Errors
    /// When neither is there, nobody answers, or master keys are given that are none.
    pub async fn open(data_dir: &Path, nats_url: Option<&str>) -> Result<Self, Error> {
        let url = match nats_url.filter(|url| !url.is_empty()) {
            Some(url) => url.to_owned(),
            None => stack::running_nats(data_dir)?.ok_or_else(|| Error::NothingRuns {
                data_dir: data_dir.to_owned(),
            })?,
        };
        let nats = config::Nats {
            url: config::Secret::new(&url),
            ..config::Nats::from_env()?
        };
        let client = infra::nats::connect(&nats, "amaima-admin")
            .await
            .map_err(|source| Error::Unreachable {
                address: without_secrets(&url),
                source,
            })?;
        Ok(Self {
            keys: Keyring::new(&client, sealing(data_dir)?),
            context: jetstream::new(client.clone()),
            client,
            nats,
        })
    }
}

/// The master keys of the environment, or of the data directory. Without any, what is sealed cannot
/// be looked at, and everything else can.
fn sealing(data_dir: &Path) -> Result<Sealing, Error> {
    let file = stack::master_keys_file(data_dir);
    let given = ["MASTER_KEYS", "MASTER_KEYS_FILE"].map(|name| config::text(name, ""));
    if given.iter().any(|text| !text.is_empty()) {
        Ok(Sealing::from_env()?)
    } else if file.exists() {
        Ok(Sealing::from_file(&file.display().to_string())?)
    } else {
        Ok(Sealing::Off)
    }
}

/// URLs without user and password.
pub(super) fn without_secrets(urls: &str) -> String {
    let each = urls.split(',').map(|url| {
        let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        format!("{scheme}://{host}")
    });
    each.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_tells_no_password() {
        assert_eq!(
            without_secrets("nats://mia:secret@a:4222,b:4223"),
            "nats://a:4222, nats://b:4223"
        );
    }

    #[tokio::test]
    async fn says_what_is_missing() {
        let nowhere = std::env::temp_dir().join("amaima-not-there");
        let error = Connection::open(&nowhere, None).await.unwrap_err();
        assert!(error.to_string().contains("amaima up"), "{error}");
        let error = Connection::open(&nowhere, Some("nats://u:pw@127.0.0.1:1"))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("nats://127.0.0.1:1"), "{error}");
    }
}
