//! `/metrics` of a worker in a process of its own.

use axum::{Router, http::header, routing::get};
use infra::{
    lifecycle::Lifecycle,
    metrics::{CONTENT_TYPE, END, append},
};
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tracing::{info, warn};

/// Listens, and answers for as long as the worker lives.
pub(crate) async fn serve(addr: SocketAddr, lifecycle: &Lifecycle) -> std::io::Result<()> {
    let listener = TcpListener::bind(addr).await?;
    info!(metrics.addr = %listener.local_addr()?, "metrics are served");
    let router = Router::new().route("/metrics", get(scrape));
    let soft = lifecycle.soft();
    lifecycle.spawn("metrics", async move {
        let serving = axum::serve(listener, router).with_graceful_shutdown(soft.cancelled_owned());
        if let Err(error) = serving.await {
            warn!(%error, "metrics are not served any more");
        }
    });
    Ok(())
}

async fn scrape() -> ([(header::HeaderName, &'static str); 1], String) {
    let mut text = String::new();
    append(&mut text);
    text.push_str(END);
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text)
}
