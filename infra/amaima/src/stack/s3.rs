//! The S3 endpoint: s3s over a directory, in this process but on a thread and runtime of its own,
//! so that it is a server like the others: it outlives the runtime of the test that started it, and
//! can be stopped, paused and started again.

use super::{
    Error, ServerKind, StackOptions,
    data_dir::{DataDir, make_private},
    own_object_store, ports,
    server::{Body, Server},
    wait::{TimedOut, wait_for},
};
use hyper::{
    Method, Request,
    body::Incoming,
    header,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::rt::TokioIo;
use infra::{config::ObjectStore, objects};
use s3s::{
    auth::SimpleAuth,
    service::{S3Service, S3ServiceBuilder},
};
use s3s_fs::FileSystem;
use std::{
    io,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The version of s3s and s3s-fs, for the progress line.
const S3S: &str = "s3s 0.14";

#[derive(Debug)]
pub(super) struct S3 {
    root: PathBuf,
    settings: ObjectStore,
    port: u16,
    patience: Duration,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    stop: CancellationToken,
    paused: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

/// Starts the endpoint, or takes the given one, and returns it with its settings.
pub(super) async fn start(
    options: &StackOptions,
    data_dir: &DataDir,
) -> Result<(Server, ObjectStore), Error> {
    let progress = &options.progress;
    if let Some(given) = &options.existing.s3 {
        objects::ensure_bucket(given)
            .await
            .map_err(|error| Error::Unusable {
                server: ServerKind::S3,
                reason: error.to_string(),
            })?;
        progress.say("S3 endpoint: the given one answers");
        return Ok((Server::new(ServerKind::S3, Body::Existing), given.clone()));
    }
    ports::demand_free(ServerKind::S3, options.ports.s3)?;
    let begun = Instant::now();
    let root = data_dir.path().join("s3");
    make_private(&root)?;
    let state = data_dir.state();
    let key = |known: Option<String>| known.unwrap_or_else(|| Uuid::new_v4().simple().to_string());
    let (access_key, secret_key) = (key(state.s3_access_key), key(state.s3_secret_key));
    let bind = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).ok();
    let candidates = ports::candidates(options.ports.s3, state.s3_port);
    let listener = candidates.iter().find_map(bind).ok_or(Error::PortTaken {
        server: ServerKind::S3,
        port: candidates[0],
    })?;
    let address = listener
        .local_addr()
        .map_err(Error::io("cannot listen for", &root))?;
    let s3 = S3 {
        root,
        settings: own_object_store(address.port(), &access_key, &secret_key),
        port: address.port(),
        patience: options.patience,
        running: Mutex::default(),
    };
    s3.serve(listener)?;
    s3.answers().await?;
    data_dir.update(|state| {
        state.s3_port = Some(s3.port);
        state.s3_access_key = Some(access_key);
        state.s3_secret_key = Some(secret_key);
    })?;
    progress.say(format!(
        "S3 endpoint ({S3S}): answering on {address} after {:.1} s",
        begun.elapsed().as_secs_f64()
    ));
    let settings = s3.settings.clone();
    Ok((Server::new(ServerKind::S3, Body::S3(s3)), settings))
}

impl S3 {
    /// Closes the port and every connection.
    pub fn stop(&self) -> Result<(), Error> {
        let running = self.slot().take().ok_or(Error::NotRunning {
            server: ServerKind::S3,
        })?;
        running.end();
        Ok(())
    }

    pub fn pause(&self) -> Result<(), Error> {
        self.set_paused(true)
    }

    pub fn resume(&self) -> Result<(), Error> {
        self.set_paused(false)
    }

    pub async fn restart(&self) -> Result<(), Error> {
        self.stop().ok();
        let listener = wait_for("the endpoint's port", self.patience, || async {
            TcpListener::bind((Ipv4Addr::LOCALHOST, self.port))
        });
        let listener = listener.await.map_err(not_ready)?;
        self.serve(listener)?;
        self.answers().await
    }

    fn set_paused(&self, paused: bool) -> Result<(), Error> {
        let slot = self.slot();
        let running = slot.as_ref().ok_or(Error::NotRunning {
            server: ServerKind::S3,
        })?;
        running.paused.send_replace(paused);
        Ok(())
    }

    async fn answers(&self) -> Result<(), Error> {
        wait_for("a signed answer", self.patience, || {
            objects::ensure_bucket(&self.settings)
        })
        .await
        .map_err(not_ready)
    }

    fn serve(&self, listener: TcpListener) -> Result<(), Error> {
        let service = service(&self.root, &self.settings)?;
        let stop = CancellationToken::new();
        let (paused, watched) = watch::channel(false);
        let (stopped, root) = (stop.clone(), self.root.clone());
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let outcome = runtime.and_then(|runtime| {
                let outcome = runtime
                    .block_on(stopped.run_until_cancelled(accept(listener, service, watched)));
                // What is being written to disk is finished; nobody waits for it.
                runtime.shutdown_background();
                outcome.unwrap_or(Ok(()))
            });
            if let Err(error) = outcome {
                tracing::error!(root = %root.display(), %error, "the S3 endpoint ended");
            }
        };
        let thread = thread::Builder::new()
            .name("s3-endpoint".into())
            .spawn(serve)
            .map_err(Error::io("cannot serve", &self.root))?;
        *self.slot() = Some(Running {
            stop,
            paused,
            thread,
        });
        Ok(())
    }

    fn slot(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.stop().ok();
    }
}

impl Running {
    fn end(self) {
        self.stop.cancel();
        self.thread.join().ok();
    }
}

/// Serves connections until it is dropped, and they with it.
async fn accept(
    listener: TcpListener,
    service: S3Service,
    paused: watch::Receiver<bool>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    // The file system behind it looks first and writes then: conditional writes go one at a time,
    // so that of two under one condition only one takes effect, as S3 promises.
    let conditional = Arc::new(tokio::sync::Mutex::new(()));
    loop {
        let (socket, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            Some(_) = connections.join_next() => continue,
        };
        let (service, paused) = (service.clone(), paused.clone());
        let conditional = conditional.clone();
        let answer = service_fn(move |request: Request<Incoming>| {
            let (service, mut paused) = (service.clone(), paused.clone());
            let conditional = conditional.clone();
            async move {
                // The sender goes only with this whole runtime.
                paused.wait_for(|paused| !paused).await.ok();
                let _turn = match is_conditional_write(&request) {
                    true => Some(conditional.lock().await),
                    false => None,
                };
                Service::call(&service, request).await
            }
        });
        connections.spawn(async move {
            // A connection that breaks is the client's affair: it sees it, and tries again.
            let connection = http1::Builder::new().serve_connection(TokioIo::new(socket), answer);
            connection.await.ok();
        });
    }
}

fn is_conditional_write(request: &Request<Incoming>) -> bool {
    let headers = request.headers();
    request.method() == Method::PUT
        && (headers.contains_key(header::IF_NONE_MATCH) || headers.contains_key(header::IF_MATCH))
}

fn service(root: &Path, settings: &ObjectStore) -> Result<S3Service, Error> {
    let files = FileSystem::new(root).map_err(|error| Error::Data {
        path: root.into(),
        reason: format!("{error:?}"),
    })?;
    let mut service = S3ServiceBuilder::new(files);
    service.set_auth(SimpleAuth::from_single(
        settings.access_key.as_str(),
        settings.secret_key.expose(),
    ));
    Ok(service.build())
}

fn not_ready(source: TimedOut) -> Error {
    Error::NotReady {
        server: ServerKind::S3,
        log: "(it has none)".into(),
        source,
    }
}
