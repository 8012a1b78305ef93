//! What nats-server itself does, where our promises rest on it. Each pin runs on one server and on
//! a cluster of three, and says which promise it carries; a new release of the server that fails
//! one must not be taken before that promise has another ground.

mod answers;
mod batches;
mod conflicts;
mod duplicates;
mod failover;
mod purging;
mod reads;
mod republish;
mod writing;

use amaima::stack::{self, Cluster, wait_for};
use async_nats::{Client, jetstream};
use domain::subject::EVENTS;
use infra::config;
use std::sync::{Arc, Weak};
use tests::world::PATIENCE;
use tokio::sync::Mutex;
use uuid::Uuid;

/// Servers with our streams on them.
struct Ground {
    cluster: Arc<Cluster>,
    client: Client,
}

impl Ground {
    /// One that other pins may stand on as well: it must not be shaken. It is gone with the last.
    async fn shared(members: usize) -> Self {
        static ONE: Mutex<Weak<Cluster>> = Mutex::const_new(Weak::new());
        static THREE: Mutex<Weak<Cluster>> = Mutex::const_new(Weak::new());
        let slot = if members == 1 { &ONE } else { &THREE };
        let mut slot = slot.lock().await;
        if let Some(cluster) = slot.upgrade() {
            return Self::on(cluster).await;
        }
        let ground = Self::own(members).await;
        *slot = Arc::downgrade(&ground.cluster);
        ground
    }

    /// One whose servers the pin may kill.
    async fn own(members: usize) -> Self {
        let cluster = stack::cluster(members).await.expect("the servers start");
        let ground = Self::on(Arc::new(cluster)).await;
        let nats = config::Nats {
            replicas: members,
            ..config::Nats::at(&ground.cluster.url())
        };
        // A cluster that has just elected its leader may not place streams yet.
        wait_for("the streams", PATIENCE, || {
            infra::jetstream::prepare(&ground.client, &nats)
        })
        .await
        .expect("the streams are made");
        ground
    }

    async fn on(cluster: Arc<Cluster>) -> Self {
        let client = connect(&cluster.url()).await;
        Self { cluster, client }
    }

    fn replicated(&self) -> bool {
        self.cluster.replicas() > 1
    }

    /// A connection to one member.
    async fn member(&self, index: usize) -> Client {
        connect(&self.cluster.member_urls()[index % self.cluster.replicas()]).await
    }

    /// The member that leads the log now.
    async fn leader(&self) -> usize {
        wait_for("a leader of the log", PATIENCE, || async {
            let context = jetstream::new(self.client.clone());
            let log = context.get_stream(EVENTS).await;
            let log = log.map_err(|error| error.to_string())?;
            let cluster = log.cached_info().cluster.clone();
            let name = cluster
                .and_then(|cluster| cluster.leader)
                .ok_or("no leader")?;
            for index in 0..self.cluster.replicas() {
                if self.member(index).await.server_info().server_name == name {
                    return Ok(index);
                }
            }
            Err("an unknown leader".to_owned())
        })
        .await
        .expect("there is a leader")
    }
}

async fn connect(url: &str) -> Client {
    infra::nats::connect(&config::Nats::at(url), "pin")
        .await
        .expect("a connection")
}

/// A subject of the log that nobody else uses.
fn fresh_subject() -> String {
    format!("ev.00.pin.{}", Uuid::new_v4())
}

/// Makes of each function two tests: on one server, and on three.
macro_rules! on_one_and_on_three {
    ($($pin:ident),+ $(,)?) => {
        mod on_one {
            $(
                #[tokio::test]
                async fn $pin() {
                    super::$pin(&crate::server::Ground::shared(1).await).await;
                }
            )+
        }
        mod on_three {
            $(
                #[tokio::test]
                async fn $pin() {
                    super::$pin(&crate::server::Ground::shared(3).await).await;
                }
            )+
        }
    };
}
use on_one_and_on_three;
