//! The lanes of a generation: each a task with a connection of its own, so that they fold and write
//! side by side.

use crate::{
    chunk::{Chunk, Group},
    generation::{self, Slot},
    owner::{self, Ownership},
    parked,
    write::{self, Position, Writing},
};
use futures_util::future::join_all;
use infra::lifecycle::Lifecycle;
use sqlx::PgConnection;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// What a lane is told to do. One thing at a time: the projector waits for the answer.
enum Order {
    Write {
        chunk: Arc<Chunk>,
        group: Group,
        positions: Vec<Position>,
        look_for_parked: bool,
        done: oneshot::Sender<Result<usize, write::Error>>,
    },
    Index {
        done: oneshot::Sender<Result<(), sqlx::Error>>,
    },
    Parked {
        order: parked::Order,
        done: oneshot::Sender<Result<(), write::Error>>,
    },
}

/// All lanes of a generation. They end when this is dropped.
pub(crate) struct Lanes {
    orders: Vec<mpsc::Sender<Order>>,
    positions: Vec<u64>,
    has_parked: bool,
}

impl Lanes {
    /// Opens a connection for each lane of the generation in `slot`, which must be of our version.
    pub(crate) async fn open(
        owner: &mut Ownership,
        slot: Slot,
        meta: &generation::Meta,
        lifecycle: &Lifecycle,
        log: &parked::Log,
    ) -> Result<Self, owner::Error> {
        let mut orders = Vec::with_capacity(meta.positions.len());
        for lane in 0..meta.positions.len() {
            let connection = owner.lane(lane, slot.schema()).await?;
            let (sender, receiver) = mpsc::channel(1);
            let log = log.clone();
            lifecycle.spawn("lane", serve(connection, meta.generation, receiver, log));
            orders.push(sender);
        }
        // The owner before may have written until its lanes were free.
        let again = generation::look(owner.control(), slot).await?;
        let positions = match again {
            Some(again) if again.generation == meta.generation => again.positions,
            // It was flipped away meanwhile: the first write will find that out.
            Some(_) | None => meta.positions.clone(),
        };
        Ok(Self {
            orders,
            positions,
            // Looked for once, in vain if there is none.
            has_parked: true,
        })
    }

    /// What all lanes have.
    pub(crate) fn reached(&self) -> u64 {
        self.positions.iter().copied().min().unwrap_or(0)
    }

    /// Whether all lanes have the same.
    pub(crate) fn are_level(&self) -> bool {
        self.positions.iter().all(|seq| *seq == self.reached())
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.positions.len()
    }

    /// Writes a chunk. The future must be driven to its end.
    pub(crate) fn write(
        &self,
        chunk: Chunk,
    ) -> impl Future<Output = Result<Written, write::Error>> + use<> {
        let chunk = Arc::new(chunk);
        let groups = chunk.groups(&self.positions);
        let last = chunk.last();
        let commits = chunk.len();
        let works: Vec<_> = groups
            .into_iter()
            .map(|group| {
                let positions: Vec<Position> = group
                    .lanes
                    .iter()
                    .map(|lane| Position {
                        lane: *lane,
                        seq: self.positions[*lane],
                    })
                    .collect();
                let (done, answer) = oneshot::channel();
                let sender = self.orders[group.lanes[0]].clone();
                let order = Order::Write {
                    chunk: Arc::clone(&chunk),
                    group,
                    positions,
                    look_for_parked: self.has_parked,
                    done,
                };
                async move {
                    sender.send(order).await.map_err(|_| write::Error::Silent)?;
                    answer.await.unwrap_or(Err(write::Error::Silent))
                }
            })
            .collect();
        async move {
            // All of them end before the first error is told, so that nobody writes unseen.
            let mut parked = 0;
            for done in join_all(works).await {
                parked += done?;
            }
            Ok(Written {
                last,
                commits,
                parked,
            })
        }
    }

    /// Notes what has been written.
    pub(crate) fn wrote(&mut self, written: &Written) {
        for position in &mut self.positions {
            *position = (*position).max(written.last);
        }
        self.has_parked |= written.parked > 0;
    }

    /// Makes the readers' indexes.
    pub(crate) fn index(&self) -> impl Future<Output = Result<(), write::Error>> + use<> {
        let (done, answer) = oneshot::channel();
        let sender = self.orders[0].clone();
        async move {
            let order = Order::Index { done };
            sender.send(order).await.map_err(|_| write::Error::Silent)?;
            Ok(answer.await.map_err(|_| write::Error::Silent)??)
        }
    }

    /// Does something about parked commits; the lanes must be level.
    pub(crate) fn settle(
        &self,
        order: parked::Order,
    ) -> impl Future<Output = Result<(), write::Error>> + use<> {
        let (done, answer) = oneshot::channel();
        let sender = self.orders[0].clone();
        async move {
            let order = Order::Parked { order, done };
            sender.send(order).await.map_err(|_| write::Error::Silent)?;
            answer.await.unwrap_or(Err(write::Error::Silent))
        }
    }
}

/// What came of a chunk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    /// Sequence of its last commit.
    pub(crate) last: u64,
    /// Number of its commits.
    pub(crate) commits: usize,
    /// How many of them are parked.
    pub(crate) parked: usize,
}

async fn serve(
    mut connection: PgConnection,
    generation: i64,
    mut orders: mpsc::Receiver<Order>,
    log: parked::Log,
) {
    while let Some(order) = orders.recv().await {
        // Whoever does not listen to the answer has given the lanes up.
        match order {
            Order::Write {
                chunk,
                group,
                positions,
                look_for_parked,
                done,
            } => {
                let writing = Writing {
                    generation,
                    chunk: &chunk,
                    group: &group,
                    positions,
                    look_for_parked,
                };
                done.send(writing.write(&mut connection).await).ok();
            }
            Order::Index { done } => {
                done.send(generation::index(&mut connection).await).ok();
            }
            Order::Parked { order, done } => {
                let settled = parked::settle(order, generation, &mut connection, &log).await;
                done.send(settled).ok();
            }
        }
    }
}
