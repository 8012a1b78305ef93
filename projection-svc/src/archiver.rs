//! Copies the log to the object store, as a projection whose checkpoint is the copy itself.
//!
//! There is no lock and no owner. Whoever extends the copy goes on; an instance that finds that
//! somebody else has extended it stands by, and takes over when the copy does not move although the
//! log does. Two that write at the same time cost work and nothing else, since the object store
//! takes one of them only ([`infra::archive`]): so the copy needs neither PostgreSQL nor a lease,
//! and an instance that hung and comes back is refused.
//!
//! While the object store is away, the copier waits, holds nothing in memory, and afterwards goes
//! on where the copy ends. What it does not do is mend: when the copy's end is damaged, or the log
//! is not the one that was copied, it says so again and again, and leaves both as they are.

use async_nats::Client;
use infra::{
    archive::{Archive, Error as CopyError, Log, LogError, Record, Writer},
    config, epoch,
    erasures::{self, Erasure},
    lifecycle::Lifecycle,
    objects::{Bucket, Store, ensure_bucket},
    retry::Backoff,
    telemetry::chain,
};
use std::time::{Duration, Instant};
use tracing::{debug, error, info, warn};

/// How often what is new is copied, where nothing else is said.
const EVERY_MILLIS: u64 = 2000;
/// A standby takes over when the copy has not moved for so many intervals.
const PATIENCE: u32 = 4;
/// How often a cause that stays is told.
const REMIND: Duration = Duration::from_secs(30);

/// Where the copy goes, and how far it may lag.
#[derive(Clone, Debug)]
pub struct Config {
    /// The bucket.
    pub store: config::ObjectStore,
    /// How often what is new is copied.
    pub every: Duration,
}

impl Config {
    /// Reads the environment: [`config::ObjectStore::from_env`] and [`every_from_env`]. Without an
    /// endpoint there is no copy.
    ///
    /// # Errors
    /// When a variable cannot be read.
    pub fn from_env() -> Result<Option<Self>, config::Error> {
        let every = every_from_env()?;
        let store = config::ObjectStore::from_env()?;
        Ok(store.map(|store| Self { store, every }))
    }
}

/// `ARCHIVE_EVERY_MS`, or two seconds.
///
/// # Errors
/// When it is no such time.
pub fn every_from_env() -> Result<Duration, config::Error> {
    let millis: u64 = config::parsed("ARCHIVE_EVERY_MS", EVERY_MILLIS)?;
    if millis == 0 {
        return Err(config::Error {
            name: "ARCHIVE_EVERY_MS",
            reason: "it is a time in milliseconds, at least 1".to_owned(),
        });
    }
    Ok(Duration::from_millis(millis))
}

/// The copy cannot be extended.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Epoch(#[from] epoch::Error),
    #[error("the log cannot be named")]
    Name(#[from] async_nats::jetstream::context::GetStreamError),
    #[error(transparent)]
    Objects(#[from] infra::objects::Error),
    #[error("an erasure cannot be noted")]
    Erasures(#[from] erasures::Error),
    #[error("the log ends at {head}, and the copy of it at {copied}")]
    Shorter { head: u64, copied: u64 },
    #[error("the log has another message at {0} than its copy")]
    Another(u64),
}

impl Error {
    /// Whether somebody has to look at it; everything else passes by itself.
    const fn is_grave(&self) -> bool {
        match self {
            Self::Shorter { .. } | Self::Another(_) => true,
            Self::Log(LogError::Unreadable { .. } | LogError::Absent) => true,
            Self::Copy(CopyError::Objects(_) | CopyError::Overtaken) => false,
            Self::Copy(_) => true,
            Self::Log(_)
            | Self::Epoch(_)
            | Self::Name(_)
            | Self::Objects(_)
            | Self::Erasures(_) => false,
        }
    }
}

/// Copies until the life ends.
pub(crate) async fn run(config: Config, client: Client, lifecycle: Lifecycle) {
    let archiver = Archiver {
        bucket: Bucket::new(&config.store),
        config,
        client,
    };
    let mut backoff = fresh_backoff();
    let mut told: Option<(String, Instant)> = None;
    loop {
        let mut copied = false;
        let ended = tokio::select! {
            () = lifecycle.stopping() => return,
            ended = archiver.copy(&mut copied) => ended,
        };
        if copied {
            backoff = fresh_backoff();
            told = None;
        }
        match ended {
            Ok(()) => {}
            Err(Error::Copy(CopyError::Overtaken)) => {
                debug!("another instance extends the copy: standing by");
                tokio::select! {
                    () = lifecycle.stopping() => return,
                    () = archiver.stand_by() => {}
                }
                continue;
            }
            Err(cause) => tell(&mut told, &cause),
        }
        tokio::select! {
            () = lifecycle.stopping() => return,
            () = backoff.wait() => {}
        }
    }
}

fn fresh_backoff() -> Backoff {
    Backoff::new(Duration::from_millis(100), Duration::from_secs(5))
}

/// The same cause is told now and then only.
fn tell(told: &mut Option<(String, Instant)>, cause: &Error) {
    let text = chain(cause);
    let is_known = told
        .as_ref()
        .is_some_and(|(known, at)| *known == text && at.elapsed() < REMIND);
    if is_known {
        return;
    }
    if cause.is_grave() {
        error!(error = text, "the log is not copied: somebody has to look");
    } else {
        warn!(error = text, "the log is not copied for the moment");
    }
    *told = Some((text, Instant::now()));
}

struct Archiver {
    config: Config,
    bucket: Bucket,
    client: Client,
}

impl Archiver {
    /// Copies what there is and what comes, until something is in the way; `copied` tells whether
    /// it got so far as to write.
    async fn copy(&self, copied: &mut bool) -> Result<(), Error> {
        ensure_bucket(&self.config.store).await?;
        let log = Log::new(&self.client).await?;
        let epoch = epoch::of_log(&self.client).await?;
        let state = log.state().await?;
        let store = Store::Bucket(self.bucket.clone());
        let mut writer = Writer::open(self.bucket.clone(), epoch, state.first).await?;
        info!(%epoch, seq = writer.last(), head = state.last, "copying the log");
        let mut tick = tokio::time::interval(self.config.every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            loop {
                let mut erasures = Vec::new();
                let full = gather(&log, &mut writer, &mut erasures).await?;
                // Whoever has this copy has its ledger of erasures.
                for erasure in erasures {
                    erasure.note(&store).await?;
                }
                self.flush(&mut writer, copied).await?;
                if !full {
                    break;
                }
            }
            if epoch::of_log(&self.client).await? != epoch {
                warn!(%epoch, "the log was made anew: its copy begins anew beside the old one");
                return Ok(());
            }
        }
    }

    async fn flush(&self, writer: &mut Writer, copied: &mut bool) -> Result<(), Error> {
        let before = writer.written();
        writer.flush().await?;
        if writer.written() != before {
            *copied = true;
            debug!(seq = writer.written(), "copied");
        }
        Ok(())
    }

    /// Until the copy does not move although the log does.
    async fn stand_by(&self) {
        let mut seen = None;
        let mut still = 0;
        while still < PATIENCE {
            tokio::time::sleep(self.config.every).await;
            match self.look().await {
                Ok((end, head)) => {
                    still = if end == seen && end.unwrap_or(0) < head {
                        still + 1
                    } else {
                        0
                    };
                    seen = end;
                }
                // Whoever extends it has the same trouble, and tells.
                Err(error) => debug!(error = chain(&error), "no look at the copy"),
            }
        }
        info!(
            seq = seen.unwrap_or(0),
            "the copy stands still: taking over"
        );
    }

    /// The end of the copy and that of the log.
    async fn look(&self) -> Result<(Option<u64>, u64), Error> {
        let epoch = epoch::of_log(&self.client).await?;
        let archive = Archive::new(Store::Bucket(self.bucket.clone()), epoch);
        let end = archive.tail().await?.map(|entry| entry.last);
        let head = Log::new(&self.client).await?.state().await?.last;
        Ok((end, head))
    }
}

/// Reads into the writer what the log has, until the segment is full, which it answers with `true`,
/// or the log ends, and the erasures that are asked for in it. It stops between commands: what follows inside of an atomic batch is there.
async fn gather(
    log: &Log,
    writer: &mut Writer,
    erasures: &mut Vec<Erasure>,
) -> Result<bool, Error> {
    loop {
        let last = writer.last();
        // The last one is read again. That it is the same shows that the log is: a server that
        // lost its end gives the same sequences away once more.
        let compares = writer.can_compare();
        let mut records = log.read(last + u64::from(!compares)).await?.into_iter();
        if compares {
            match records.next() {
                Some(record) if writer.is_last(&record) => {}
                Some(_) => return Err(Error::Another(last)),
                None => {
                    let head = log.state().await?.last;
                    return Err(Error::Shorter { head, copied: last });
                }
            }
        }
        let mut is_empty = true;
        for record in records {
            is_empty = false;
            let goes_on = match &record {
                Record::Message(message) => {
                    erasures.extend(Erasure::asked_for(message));
                    message.goes_on()
                }
                Record::Gap { first, last } => {
                    error!(
                        first,
                        last, "the log has lost messages before they were copied"
                    );
                    false
                }
            };
            writer.push(&record);
            if writer.is_full() && !goes_on {
                return Ok(true);
            }
        }
        // All of an atomic batch is there when its first message is, also where the message that
        // ended it was not meant to be stored.
        if is_empty {
            return Ok(false);
        }
    }
}
