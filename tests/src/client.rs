//! A client as an app would be one: REST with tokens, and the query socket.

use amaima::stack::wait_for;
use futures_util::{SinkExt, StreamExt};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use std::{net::SocketAddr, time::Duration};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest, protocol::CloseFrame},
};

/// Longest wait for one answer or frame.
const WAIT: Duration = Duration::from_secs(60);

/// Speaks to one gateway, as one person once signed in.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    gateway: SocketAddr,
    /// The access token, once signed in.
    pub access: Option<String>,
    /// The refresh token, once signed in.
    pub refresh: Option<String>,
    /// The user's id, once signed in.
    pub user: Option<String>,
}

/// A status and a JSON body.
pub type Answer = (StatusCode, Value);

impl Client {
    /// Nobody yet, at this gateway.
    ///
    /// # Panics
    /// When the HTTP client cannot be made.
    pub fn new(gateway: SocketAddr) -> Self {
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(130))
            .build();
        Self {
            http: http.expect("an HTTP client"),
            gateway,
            access: None,
            refresh: None,
            user: None,
        }
    }

    /// Registers a fresh person and signs in.
    ///
    /// # Panics
    /// When that is refused.
    pub async fn registered(gateway: SocketAddr) -> Self {
        let mut client = Self::new(gateway);
        let email = format!("{}@example.com", uuid::Uuid::new_v4().simple());
        let body = json!({ "email": email, "password": "password123" });
        // On a machine that has much to do, command-svc may not be there yet.
        let registered = wait_for("a registered person", WAIT, || async {
            let request = client.request(Method::POST, "/v1/auth/register");
            let request = request.header("Idempotency-Key", &email).json(&body);
            match read(request.send().await.expect("an answer")).await {
                (StatusCode::SERVICE_UNAVAILABLE, body) => Err(body.to_string()),
                answer => Ok(answer),
            }
        });
        let (status, body) = registered.await.expect("an answer in the end");
        assert_eq!(status, StatusCode::CREATED, "{body}");
        client.adopt(&body);
        client
    }

    /// Takes the tokens of a token body.
    pub fn adopt(&mut self, body: &Value) {
        self.access = body["access_token"].as_str().map(str::to_owned);
        self.refresh = body["refresh_token"].as_str().map(str::to_owned);
        self.user = body["user"]["id"].as_str().map(str::to_owned);
    }

    /// A request with the access token, not sent yet.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self
            .http
            .request(method, format!("http://{}{path}", self.gateway));
        match &self.access {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// `GET`
    ///
    /// # Panics
    /// When the answer is no JSON.
    pub async fn get(&self, path: &str) -> Answer {
        read(
            self.request(Method::GET, path)
                .send()
                .await
                .expect("an answer"),
        )
        .await
    }

    /// `POST` with a JSON body.
    ///
    /// # Panics
    /// When the answer is no JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        read(
            self.request(Method::POST, path)
                .json(body)
                .send()
                .await
                .expect("an answer"),
        )
        .await
    }

    /// Opens the query socket and takes its first frame.
    ///
    /// # Panics
    /// When the first frame is not `connection_established`.
    pub async fn socket(&self) -> Socket {
        let mut socket = self.raw_socket(self.access.as_deref().unwrap_or("")).await;
        let first = socket.frame().await;
        assert_eq!(first["type"], "connection_established", "{first}");
        assert_eq!(first["data"]["userId"].as_str(), self.user.as_deref());
        socket
    }

    /// Opens the query socket with this token and takes no frame.
    ///
    /// # Panics
    /// When the upgrade is refused.
    pub async fn raw_socket(&self, token: &str) -> Socket {
        let url = format!("ws://{}/v1/ws/query?token={token}", self.gateway);
        let request = url.into_client_request().expect("a request");
        let (stream, _) = connect_async(request).await.expect("an upgrade");
        Socket { stream }
    }
}

/// Reads an answer as JSON.
///
/// # Panics
/// When it is none.
pub async fn read(response: Response) -> Answer {
    let status = response.status();
    let text = response.text().await.expect("a body");
    let body = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{status} without JSON ({error}): {text:?}"));
    (status, body)
}

/// What comes out of a socket.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    /// A JSON frame.
    Frame(Value),
    /// It was closed, with this code and reason.
    Closed(u16, String),
}

/// A query socket.
#[derive(Debug)]
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Socket {
    /// Sends a frame.
    ///
    /// # Panics
    /// When the socket is gone.
    pub async fn send(&mut self, frame: &Value) {
        self.send_text(&frame.to_string()).await;
    }

    /// Sends text as it is.
    ///
    /// # Panics
    /// When the socket is gone.
    pub async fn send_text(&mut self, text: &str) {
        self.stream
            .send(Message::text(text))
            .await
            .expect("a frame goes out");
    }

    /// The next thing that comes.
    ///
    /// # Panics
    /// When nothing comes in time.
    pub async fn next(&mut self) -> Incoming {
        loop {
            let next = tokio::time::timeout(WAIT, self.stream.next()).await;
            match next.expect("something comes in time") {
                Some(Ok(Message::Text(text))) => {
                    return Incoming::Frame(serde_json::from_str(&text).expect("JSON"));
                }
                Some(Ok(Message::Close(Some(CloseFrame { code, reason })))) => {
                    return Incoming::Closed(code.into(), reason.to_string());
                }
                Some(Ok(Message::Close(None))) => return Incoming::Closed(1005, String::new()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Incoming::Closed(1006, error.to_string()),
                None => return Incoming::Closed(1006, String::new()),
            }
        }
    }

    /// The next frame.
    ///
    /// # Panics
    /// When the socket is closed.
    pub async fn frame(&mut self) -> Value {
        match self.next().await {
            Incoming::Frame(frame) => frame,
            Incoming::Closed(code, reason) => panic!("closed with {code} {reason}"),
        }
    }

    /// The next frame of a type; others are passed over, but for errors.
    ///
    /// # Panics
    /// When an error or the end comes first.
    pub async fn frame_of(&mut self, wanted: &str) -> Value {
        loop {
            let frame = self.frame().await;
            if frame["type"] == wanted {
                return frame;
            }
            assert_ne!(frame["type"], "error", "{frame}");
        }
    }

    /// Waits for the close and tells its code.
    ///
    /// # Panics
    /// When it does not come.
    pub async fn close_code(&mut self) -> u16 {
        loop {
            if let Incoming::Closed(code, _) = self.next().await {
                return code;
            }
        }
    }

    /// Everything about one query up to its end, checked to be a stream as contract §6 has it.
    ///
    /// # Panics
    /// When it is none.
    pub async fn stream_of(&mut self, query: &str) -> Stream {
        let mut stream = Stream::default();
        self.follow(&mut stream, query).await;
        stream
    }

    /// Takes the first update of a query that this socket has submitted: its id and its stream.
    ///
    /// # Panics
    /// When it is the last one too.
    pub async fn begun(&mut self) -> (String, Stream) {
        let first = self.frame_of("query_update").await;
        let id = first["data"]["queryId"].as_str().unwrap_or_default();
        let mut stream = Stream::default();
        assert!(!stream.add(&first, id), "{first}");
        (id.to_owned(), stream)
    }

    /// Goes on with a stream to its end, and to the error that tells of it: its code.
    ///
    /// # Panics
    /// When it is none, see [`Stream::add`].
    pub async fn failed(&mut self, stream: &mut Stream, query: &str) -> Value {
        let mut told = Value::Null;
        while told.is_null() || stream.end.is_null() {
            let frame = self.frame().await;
            match frame["type"].as_str() {
                Some("query_update") => {
                    stream.add(&frame, query);
                }
                Some("error") => told = frame["data"]["code"].clone(),
                _ => {}
            }
        }
        told
    }

    /// Goes on with a stream to its end.
    ///
    /// # Panics
    /// When it is none, see [`Stream::add`].
    pub async fn follow(&mut self, stream: &mut Stream, query: &str) {
        while !stream.add(&self.frame_of("query_update").await, query) {}
    }
}

/// The updates of one query, as one client has got them.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// `seq` of the last update.
    pub seq: u64,
    /// The chunks joined.
    pub text: String,
    /// Their number.
    pub chunks: usize,
    /// `data` of the last update.
    pub end: Value,
}

impl Stream {
    /// Takes an update; true when it was the last.
    ///
    /// # Panics
    /// When there is a gap or a repetition, or the text is not the chunks joined.
    pub fn add(&mut self, frame: &Value, query: &str) -> bool {
        let data = &frame["data"];
        assert_eq!(data["queryId"], query, "{frame}");
        assert_eq!(
            frame["seq"].as_u64(),
            Some(self.seq + 1),
            "a gap or a repetition: {frame}"
        );
        self.seq += 1;
        if let Some(chunk) = data["chunk"].as_str() {
            assert!(data["complete"].is_null(), "{frame}");
            self.text.push_str(chunk);
            self.chunks += 1;
        }
        if data["complete"] != true {
            return false;
        }
        if data["status"] == "completed" {
            assert_eq!(
                data["responseText"].as_str(),
                Some(self.text.as_str()),
                "{frame}"
            );
        }
        self.end = data.clone();
        true
    }
}
