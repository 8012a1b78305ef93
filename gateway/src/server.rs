//! Listening, and stopping in order.

use crate::{Config, app::App, keys, router::router};
use axum::{Router, extract::State, routing::get, serve::ListenerExt};
use http::header;
use infra::{lifecycle::Lifecycle, metrics::CONTENT_TYPE};
use std::{future::IntoFuture, io, net::SocketAddr, time::Duration};
use tokio::net::TcpListener;
use tracing::info;

/// How long running calls may take once the gateway stops.
const DRAIN: Duration = Duration::from_secs(25);

/// The gateway could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The signing key is not usable.
    #[error("the signing key is not usable")]
    Key(#[from] keys::Error),
    /// The bus could not be reached.
    #[error("the bus could not be reached")]
    Nats(#[from] infra::nats::Error),
    /// An address could not be bound.
    #[error("{addr} could not be bound")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Serving ended with an error.
    #[error("serving ended")]
    Serve(#[source] io::Error),
}

/// Where the gateway listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// REST and sockets.
    pub http: SocketAddr,
    /// Prometheus.
    pub metrics: SocketAddr,
}

/// A gateway that is bound to its addresses, and connected, but does not serve yet.
pub struct Gateway {
    app: App,
    http: TcpListener,
    metrics: TcpListener,
    bound: Bound,
    lifecycle: Lifecycle,
}

/// Serves until the lifecycle stops.
///
/// # Errors
/// When it cannot start.
pub async fn run(config: Config, lifecycle: Lifecycle) -> Result<(), Error> {
    Gateway::bind(config, lifecycle).await?.serve().await
}

impl Gateway {
    /// Checks the key, connects to the bus and binds the listeners.
    ///
    /// # Errors
    /// When one of these fails.
    pub async fn bind(mut config: Config, lifecycle: Lifecycle) -> Result<Self, Error> {
        let keys = keys::Keys::from_pem(config.jwt_pem.expose())?;
        let http = bind(config.http_addr).await?;
        let metrics = bind(config.metrics_addr).await?;
        let bound = Bound {
            http: http.local_addr().map_err(Error::Serve)?,
            metrics: metrics.local_addr().map_err(Error::Serve)?,
        };
        config.http_addr = bound.http;
        let nats = infra::nats::connect(&config.nats, "gateway").await?;
        let app = App::new(&config, keys, nats, lifecycle.clone());
        info!(http.addr = %bound.http, metrics.addr = %bound.metrics, "gateway listens");
        Ok(Self {
            app,
            http,
            metrics,
            bound,
            lifecycle,
        })
    }

    /// Where it listens.
    pub const fn bound(&self) -> Bound {
        self.bound
    }

    /// Serves until the lifecycle stops, then lets running calls end within 25 s.
    ///
    /// # Errors
    /// When a listener fails.
    pub async fn serve(self) -> Result<(), Error> {
        let Self {
            app,
            http,
            metrics,
            lifecycle,
            ..
        } = self;
        let scrape = Router::new()
            .route("/metrics", get(scrape))
            .with_state(app.clone());
        tokio::try_join!(
            until_stopped(http, router(app), &lifecycle),
            until_stopped(metrics, scrape, &lifecycle),
        )?;
        Ok(())
    }
}

async fn bind(addr: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(addr)
        .await
        .map_err(|source| Error::Bind { addr, source })
}

async fn until_stopped(
    listener: TcpListener,
    router: Router,
    lifecycle: &Lifecycle,
) -> Result<(), Error> {
    let soft = lifecycle.soft();
    // Small frames must not wait for the acknowledgement of those before.
    let listener = listener.tap_io(|io| {
        io.set_nodelay(true).ok();
    });
    let serving = axum::serve(listener, router)
        .with_graceful_shutdown(soft.cancelled_owned())
        .into_future();
    let drained = async {
        lifecycle.stopping().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = serving => served.map_err(Error::Serve),
        () = drained => {
            info!("some calls did not end in time");
            Ok(())
        }
    }
}

async fn scrape(State(app): State<App>) -> ([(header::HeaderName, &'static str); 1], String) {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], app.metrics.text())
}
