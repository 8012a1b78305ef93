//! Why a socket is closed (contract §6).

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use domain::wire::error::Code;
use std::time::Duration;

/// How long the close frame may take to be written, and then the client's to arrive.
const PATIENCE: Duration = Duration::from_secs(2);

/// A close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Close {
    pub(super) code: u16,
    pub(super) reason: &'static str,
}

impl Close {
    pub(super) const SHUTDOWN: Self = Self::new(1001, "shutting down");
    pub(super) const PROTOCOL: Self = Self::new(1002, "protocol error");
    pub(super) const NOT_TEXT: Self = Self::new(1007, "not UTF-8");
    pub(super) const ORIGIN: Self = Self::new(1008, "origin not allowed");
    pub(super) const TOO_LARGE: Self = Self::new(1009, "frame too large");
    pub(super) const INTERNAL: Self = Self::new(1011, "internal error");
    pub(super) const SLOW: Self = Self::new(1013, "too many messages waiting");
    pub(super) const INACTIVE: Self = Self::new(4403, "AUTH_USER_NOT_FOUND");
    pub(super) const DEAD: Self = Self::new(4408, "heartbeat missing");
    pub(super) const CROWDED: Self = Self::new(4429, "too many sockets");
    pub(super) const HASTY: Self = Self::new(4429, "too many messages");

    const fn new(code: u16, reason: &'static str) -> Self {
        Self { code, reason }
    }

    /// A token that is not accepted. That nobody can tell now is no reason for the client to give
    /// its token up: it should try again.
    pub(super) const fn unauthorised(code: Code) -> Self {
        match code {
            Code::SystemUnavailable => Self::new(1013, code.as_str()),
            _ => Self::new(4401, code.as_str()),
        }
    }

    /// Writes the frame and waits for the client's, so that the connection ends in order: closing
    /// it with unread input would take the frame back from the client.
    pub(super) async fn send(self, mut socket: WebSocket) {
        let frame = CloseFrame {
            code: self.code,
            reason: self.reason.into(),
        };
        let written = tokio::time::timeout(PATIENCE, socket.send(Message::Close(Some(frame))));
        if !matches!(written.await, Ok(Ok(()))) {
            return;
        }
        let answered = async {
            // After a frame that could not be read, the rest of it comes as errors.
            let mut errors = 0;
            while let Some(message) = socket.recv().await {
                match message {
                    Ok(Message::Close(_)) => break,
                    Ok(_) => {}
                    Err(_) if errors < 64 => errors += 1,
                    Err(_) => break,
                }
            }
        };
        tokio::time::timeout(PATIENCE, answered).await.ok();
    }
}
