//! A server on this machine that does what a test says, however wrong that is.

use serde_json::Value;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// A step of what a server does with a request.
#[derive(Debug, Clone)]
pub enum Act {
    /// Sends these bytes at once.
    Send(Vec<u8>),
    /// Says nothing for a while.
    Pause(Duration),
    /// Says nothing until the client leaves.
    Hang,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The request line.
    pub line: String,
    /// The lines of headers, in lower case.
    pub headers: Vec<String>,
    pub body: Value,
}

/// Serves each connection one request; gone when it is dropped.
pub struct Server {
    pub url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    left: watch::Receiver<usize>,
    _accepting: JoinSet<()>,
}

impl Server {
    /// With what it does about the request with this number.
    pub async fn start(script: impl Fn(usize, &Asked) -> Vec<Act> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (leaving, left) = watch::channel(0);
        let (script, number) = (Arc::new(script), Arc::new(AtomicUsize::new(0)));
        let mut accepting = JoinSet::new();
        let heard = asked.clone();
        accepting.spawn(async move {
            let mut serving = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let (script, number) = (script.clone(), number.clone());
                let (heard, leaving) = (heard.clone(), leaving.clone());
                serving.spawn(async move {
                    let mut stream = BufReader::new(stream);
                    let Some(request) = read(&mut stream).await else {
                        return;
                    };
                    let number = number.fetch_add(1, Ordering::Relaxed);
                    let acts = script(number, &request);
                    heard.lock().expect("whole").push(request);
                    if serve(&mut stream, acts).await.is_err() {
                        leaving.send_modify(|left| *left += 1);
                    }
                });
            }
        });
        Self {
            _accepting: accepting,
            asked,
            left,
            url,
        }
    }

    /// The requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("whole").clone()
    }

    /// Comes back when so many clients have left before it was done with them.
    pub async fn left(&self, clients: usize) {
        let mut left = self.left.clone();
        let all = left.wait_for(|left| *left >= clients);
        let all = tokio::time::timeout(super::PATIENCE, all).await;
        all.expect("clients leave").expect("the server runs");
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let line = lines.remove(0);
    let headers: Vec<String> = lines.iter().map(|line| line.to_lowercase()).collect();
    let length = headers
        .iter()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length?];
    stream.read_exact(&mut body).await.ok()?;
    Some(Asked {
        body: serde_json::from_slice(&body).ok()?,
        headers,
        line,
    })
}

async fn serve(stream: &mut BufReader<TcpStream>, acts: Vec<Act>) -> std::io::Result<()> {
    stream.get_ref().set_nodelay(true)?;
    let gone = || std::io::Error::other("the client has left");
    for act in acts {
        let mut unread = [0];
        match act {
            Act::Send(bytes) => stream.write_all(&bytes).await?,
            Act::Pause(pause) => {
                if tokio::time::timeout(pause, stream.read(&mut unread))
                    .await
                    .is_ok()
                {
                    return Err(gone());
                }
            }
            Act::Hang => {
                let read = stream.read(&mut unread).await?;
                assert_eq!(read, 0, "nobody sends more than a request");
                return Err(gone());
            }
        }
    }
    stream.shutdown().await
}
