//! `amaima ask`: one question in the terminal, answered as it streams.
//!
//! It is a client like any other: it signs in over REST as a local user, whose password lies in
//! the data directory, submits over the query socket, and resumes by `seq` when the socket drops.

use futures_util::{SinkExt, StreamExt};
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};
use tokio_tungstenite::{connect_async, tungstenite::Message};

/// Pauses before the socket is opened again, as all clients have them.
const RECONNECT: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
];
/// The server pings every 30 s; a socket that is silent for longer is dead.
const SILENCE: Duration = Duration::from_secs(75);

/// The question was not answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens there.
    #[error("no gateway answers at {url}; start one with `cargo up`")]
    NoGateway {
        /// Where it was looked for.
        url: String,
        /// What came instead.
        source: reqwest::Error,
    },
    /// The gateway refuses.
    #[error("{message} ({code})")]
    Refused {
        /// The stable code.
        code: String,
        /// In words.
        message: String,
    },
    /// The query ended without an answer.
    #[error("the query ended as {status}")]
    Ended {
        /// How.
        status: String,
    },
    /// The socket dropped again and again.
    #[error("the connection to {url} dropped and did not come back")]
    Dropped {
        /// Where to.
        url: String,
    },
    /// The local user's file, or the terminal.
    #[error("{what} cannot be read or written")]
    Io {
        /// Which.
        what: String,
        /// Why.
        source: io::Error,
    },
}

#[derive(Serialize, Deserialize)]
struct LocalUser {
    email: String,
    password: String,
}

/// Asks, writes the answer to `out` as it arrives, and returns the finished query's item.
///
/// `base` is the gateway's address such as `http://127.0.0.1:8000`; `user_file` holds the local
/// user and is made, readable by its owner only, when it is missing.
///
/// # Errors
/// See [`Error`].
pub async fn ask(
    question: &str,
    base: &str,
    user_file: &Path,
    out: &mut (impl Write + Send),
) -> Result<Value, Error> {
    let base = base.trim_end_matches('/');
    let http = reqwest::Client::new();
    let token = sign_in(&http, base, &local_user(user_file)?).await?;
    // The client's own id: submitting again after a drop asks nothing twice.
    let query = infra::clock::fresh_id().to_string();
    let mut seen = 0;
    let mut pauses = RECONNECT.iter();
    loop {
        let before = seen;
        if follow(base, &token, &query, question, &mut seen, out).await? {
            break;
        }
        if seen > before {
            pauses = RECONNECT.iter();
        }
        let Some(pause) = pauses.next() else {
            return Err(Error::Dropped {
                url: base.to_owned(),
            });
        };
        tokio::time::sleep(*pause).await;
    }
    writeln!(out).map_err(terminal)?;
    let url = format!("{base}/v1/queries/{query}");
    let item = http.get(&url).bearer_auth(&token).send().await;
    item.map_err(|source| no_gateway(base, source))?
        .json()
        .await
        .map_err(|source| no_gateway(base, source))
}

/// Follows the query over one socket. True when it has ended, false when the socket dropped.
async fn follow(
    base: &str,
    token: &str,
    query: &str,
    question: &str,
    seen: &mut u64,
    out: &mut (impl Write + Send),
) -> Result<bool, Error> {
    let url = format!(
        "{}/v1/ws/query?token={token}",
        base.replacen("http", "ws", 1)
    );
    let Ok((mut socket, _)) = connect_async(url).await else {
        return Ok(false);
    };
    let submit = json!({ "type": "submit_query", "query": question, "queryId": query });
    let resume = json!({ "type": "subscribe_query", "queryId": query, "fromSeq": *seen });
    let first = if *seen == 0 { submit } else { resume };
    if socket.send(Message::text(first.to_string())).await.is_err() {
        return Ok(false);
    }
    loop {
        let Ok(Some(Ok(message))) = tokio::time::timeout(SILENCE, socket.next()).await else {
            return Ok(false);
        };
        let Message::Text(text) = message else {
            continue;
        };
        let Ok(frame) = serde_json::from_str::<Value>(&text) else {
            continue;
        };
        let data = &frame["data"];
        match frame["type"].as_str() {
            Some("ping") => {
                let pong = Message::text(json!({ "type": "pong" }).to_string());
                if socket.send(pong).await.is_err() {
                    return Ok(false);
                }
            }
            Some("error") => {
                return Err(Error::Refused {
                    code: data["code"].as_str().unwrap_or_default().to_owned(),
                    message: data["message"].as_str().unwrap_or_default().to_owned(),
                });
            }
            Some("query_update") if data["queryId"] == query => {
                *seen = frame["seq"].as_u64().unwrap_or(*seen);
                if let Some(chunk) = data["chunk"].as_str() {
                    out.write_all(chunk.as_bytes())
                        .and_then(|()| out.flush())
                        .map_err(terminal)?;
                }
                if data["complete"] == true {
                    return match data["status"].as_str() {
                        Some("completed") => Ok(true),
                        status => Err(Error::Ended {
                            status: status.unwrap_or("unknown").to_owned(),
                        }),
                    };
                }
            }
            _ => {}
        }
    }
}

async fn sign_in(http: &reqwest::Client, base: &str, user: &LocalUser) -> Result<String, Error> {
    let body = json!({ "email": user.email, "password": user.password, "name": "Local user" });
    for path in ["/v1/auth/login", "/v1/auth/register"] {
        let response = http.post(format!("{base}{path}")).json(&body).send().await;
        let response = response.map_err(|source| no_gateway(base, source))?;
        let status = response.status();
        let answer: Value = response
            .json()
            .await
            .map_err(|source| no_gateway(base, source))?;
        if let Some(token) = answer["access_token"].as_str() {
            return Ok(token.to_owned());
        }
        // Nobody of that name: the data directory is fresh.
        if status != StatusCode::UNAUTHORIZED {
            return Err(refused(&answer));
        }
    }
    Err(Error::Refused {
        code: "AUTH_INVALID_CREDENTIALS".to_owned(),
        message: "The local user cannot sign in".to_owned(),
    })
}

fn local_user(file: &Path) -> Result<LocalUser, Error> {
    let io = |source| Error::Io {
        what: file.display().to_string(),
        source,
    };
    match fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| io(error.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let user = LocalUser {
                email: "local@amaima.localhost".to_owned(),
                password: format!(
                    "{}{}",
                    uuid::Uuid::new_v4().simple(),
                    uuid::Uuid::new_v4().simple()
                ),
            };
            if let Some(dir) = file.parent() {
                fs::create_dir_all(dir).map_err(io)?;
            }
            let mut new = fs::File::options();
            let mut new = new
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(file)
                .map_err(io)?;
            let json = serde_json::to_vec(&user).map_err(|error| io(error.into()))?;
            new.write_all(&json).map_err(io)?;
            Ok(user)
        }
        Err(error) => Err(io(error)),
    }
}

fn refused(answer: &Value) -> Error {
    Error::Refused {
        code: answer["error"]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        message: answer["error"]["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
    }
}

fn no_gateway(url: &str, source: reqwest::Error) -> Error {
    Error::NoGateway {
        url: url.to_owned(),
        source,
    }
}

fn terminal(source: io::Error) -> Error {
    Error::Io {
        what: "the terminal".to_owned(),
        source,
    }
}
