//! Writing the commands of one group: rows, parked commits and the lanes' checkpoints in one
//! transaction.
//!
//! Where the database does not take the rows because of what the events say, the group is halved
//! until the command at fault stands alone and can be parked. A parked commit takes the rest of its
//! command with it, so that no command is shown by half, and later commits of the same aggregates.

use crate::{
    chunk::{Chunk, Group},
    commit::{Commit, Events},
    view::{self, Batch, signed},
};
use domain::text::storable;
use infra::telemetry::chain;
use sqlx::{Connection, PgConnection};
use std::{collections::HashSet, ops::Range, time::Duration};
use tracing::{error, warn};

/// Longest wait for one transaction; an answer later than this counts as none.
const ANSWER: Duration = Duration::from_secs(30);
/// Why later commits of a parked aggregate are parked.
const AFTER_PARKED: &str = "an earlier commit of this aggregate is parked";
/// Why the rest of a command is parked.
const SAME_COMMAND: &str = "another commit of the same command is parked";

/// The rows cannot be written now, or no longer by us.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The database does not answer.
    #[error("the database has not answered in time")]
    Silent,
    /// Checkpoints or parked commits cannot be read or written.
    #[error("the checkpoint cannot be read or written")]
    Checkpoint(#[from] sqlx::Error),
    /// The rows cannot be written.
    #[error(transparent)]
    Rows(#[from] view::Error),
    /// The checkpoints are not where we left them: the generation is no longer what it was, or
    /// somebody else writes.
    #[error("the checkpoints of generation {generation} are no longer ours")]
    Fenced {
        /// Ours.
        generation: i64,
    },
}

/// How far a lane is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Position {
    /// The lane.
    pub(crate) lane: usize,
    /// Its checkpoint.
    pub(crate) seq: u64,
}

/// A group to be written.
pub(crate) struct Writing<'a> {
    /// The generation that the checkpoints must be of.
    pub(crate) generation: i64,
    /// Where the group's commits are.
    pub(crate) chunk: &'a Chunk,
    /// The commands.
    pub(crate) group: &'a Group,
    /// Where its lanes are; moved along.
    pub(crate) positions: Vec<Position>,
    /// Whether there are parked commits, which later ones may have to join.
    pub(crate) look_for_parked: bool,
}

impl Writing<'_> {
    /// Writes all of it; answers how many commits were parked.
    pub(crate) async fn write(mut self, connection: &mut PgConnection) -> Result<usize, Error> {
        let all: &[Range<usize>] = &self.group.commands;
        let mut stack = vec![all];
        let mut parked = 0;
        while let Some(commands) = stack.pop() {
            let last = stack.is_empty();
            let to = match commands.last() {
                Some(command) if !last => self.chunk.command(command).last().map(|c| c.seq),
                _ => None,
            };
            let to = to.unwrap_or(self.chunk.last());
            match self.attempt(connection, commands, to, None).await {
                Ok(more) => parked += more,
                Err(Error::Rows(error)) if error.is_poison() && commands.len() > 1 => {
                    let (first, rest) = commands.split_at(commands.len() / 2);
                    stack.extend([rest, first]);
                }
                Err(Error::Rows(error)) if error.is_poison() => {
                    let reason = chain(&error);
                    parked += self
                        .attempt(connection, commands, to, Some(&reason))
                        .await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(parked)
    }

    /// One transaction. With `poison` the only command is parked for that reason.
    async fn attempt(
        &mut self,
        connection: &mut PgConnection,
        commands: &[Range<usize>],
        to: u64,
        poison: Option<&str>,
    ) -> Result<usize, Error> {
        tokio::time::timeout(ANSWER, self.transact(connection, commands, to, poison))
            .await
            .unwrap_or(Err(Error::Silent))
    }

    async fn transact(
        &mut self,
        connection: &mut PgConnection,
        commands: &[Range<usize>],
        to: u64,
        poison: Option<&str>,
    ) -> Result<usize, Error> {
        let mut transaction = connection.begin().await?;
        let commands: Vec<&[Commit]> = commands.iter().map(|c| self.chunk.command(c)).collect();
        let faults = Faults::look(&mut transaction, &commands, poison, self.look_for_parked);
        let mut faults = faults.await?;
        let mut batch = Batch::new();
        for command in &commands {
            if let Some(events) = faults.judge(command) {
                for (commit, events) in events {
                    batch
                        .apply(events, commit.seq, &commit.seal)
                        .map_err(view::Error::Contradiction)?;
                }
            }
        }
        batch.write(&mut transaction).await?;
        park(&faults.parked, &mut transaction).await?;
        // The last statement: see [`crate::generation`].
        let moved: Vec<Position> = self
            .positions
            .iter()
            .map(|position| Position {
                lane: position.lane,
                seq: position.seq.max(to),
            })
            .collect();
        if !self.advance(&moved, &mut transaction).await? {
            return Err(Error::Fenced {
                generation: self.generation,
            });
        }
        transaction.commit().await?;
        self.positions = moved;
        for Parked { commit, reason } in &faults.parked {
            error!(
                seq = commit.seq,
                subject = commit.subject,
                reason,
                "a commit cannot be projected and is parked"
            );
        }
        self.look_for_parked |= !faults.parked.is_empty();
        Ok(faults.parked.len())
    }

    async fn advance(
        &self,
        moved: &[Position],
        connection: &mut PgConnection,
    ) -> Result<bool, sqlx::Error> {
        let seqs = |positions: &[Position]| -> Vec<i64> {
            positions.iter().map(|each| signed(each.seq)).collect()
        };
        let lanes: Vec<i32> = moved
            .iter()
            .map(|each| i32::try_from(each.lane).unwrap_or(i32::MAX))
            .collect();
        let done = sqlx::query(
            "UPDATE checkpoint SET seq = moved.new, updated_at = clock_timestamp()
             FROM UNNEST($1::int[], $2::bigint[], $3::bigint[]) AS moved (lane, old, new)
             WHERE checkpoint.lane = moved.lane AND checkpoint.seq = moved.old
               AND checkpoint.generation = $4",
        )
        .bind(lanes)
        .bind(seqs(&self.positions))
        .bind(seqs(moved))
        .bind(self.generation)
        .execute(connection)
        .await?;
        Ok(done.rows_affected() == moved.len() as u64)
    }
}

/// A commit that cannot be projected.
struct Parked<'a> {
    commit: &'a Commit,
    reason: String,
}

/// Which commits cannot be projected.
struct Faults<'a> {
    poison: Option<&'a str>,
    /// Aggregates with parked commits.
    aggregates: HashSet<String>,
    /// Commits that somebody decided to leave out.
    skipped: HashSet<u64>,
    parked: Vec<Parked<'a>>,
}

impl<'a> Faults<'a> {
    async fn look(
        connection: &mut PgConnection,
        commands: &[&'a [Commit]],
        poison: Option<&'a str>,
        look_for_parked: bool,
    ) -> Result<Self, sqlx::Error> {
        let commits = || commands.iter().copied().flatten();
        let mut aggregates = HashSet::new();
        if look_for_parked {
            let subjects: Vec<&str> = commits().map(|commit| commit.subject.as_str()).collect();
            let parked: Vec<String> =
                sqlx::query_scalar("SELECT DISTINCT subject FROM parked WHERE subject = ANY($1)")
                    .bind(subjects)
                    .fetch_all(&mut *connection)
                    .await?;
            aggregates.extend(parked);
        }
        let suspects: Vec<i64> = commits()
            .filter(|commit| poison.is_some() || commit.events.is_err())
            .map(|commit| signed(commit.seq))
            .collect();
        let mut skipped = HashSet::new();
        if !suspects.is_empty() {
            let decided: Vec<i64> =
                sqlx::query_scalar("SELECT seq FROM skipped WHERE seq = ANY($1)")
                    .bind(suspects)
                    .fetch_all(connection)
                    .await?;
            skipped.extend(
                decided
                    .into_iter()
                    .filter_map(|seq| u64::try_from(seq).ok()),
            );
        }
        Ok(Self {
            poison,
            aggregates,
            skipped,
            parked: Vec::new(),
        })
    }

    /// The events of a command, or `None` where it is parked.
    fn judge(&mut self, command: &'a [Commit]) -> Option<Vec<(&'a Commit, &'a Events)>> {
        let reasons: Vec<Option<&str>> = command.iter().map(|commit| self.fault(commit)).collect();
        if reasons.iter().all(Option::is_none) {
            let events = command.iter().filter_map(|commit| {
                if self.skipped.contains(&commit.seq) {
                    warn!(seq = commit.seq, "a commit is left out, as was decided");
                    return None;
                }
                Some((commit, commit.events.as_ref().ok()?))
            });
            return Some(events.collect());
        }
        let parked: Vec<_> = command
            .iter()
            .zip(reasons)
            .filter(|(commit, _)| !self.skipped.contains(&commit.seq))
            .map(|(commit, reason)| Parked {
                commit,
                reason: reason.unwrap_or(SAME_COMMAND).to_owned(),
            })
            .collect();
        self.aggregates
            .extend(parked.iter().map(|each| each.commit.subject.clone()));
        self.parked.extend(parked);
        None
    }

    fn fault<'b>(&'b self, commit: &'b Commit) -> Option<&'b str> {
        if self.skipped.contains(&commit.seq) {
            None
        } else if self.aggregates.contains(&commit.subject) {
            Some(AFTER_PARKED)
        } else if let Err(reason) = &commit.events {
            Some(reason)
        } else {
            self.poison
        }
    }
}

async fn park(parked: &[Parked<'_>], connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    if parked.is_empty() {
        return Ok(());
    }
    let seqs: Vec<i64> = parked.iter().map(|each| signed(each.commit.seq)).collect();
    let subjects: Vec<&str> = parked
        .iter()
        .map(|each| each.commit.subject.as_str())
        .collect();
    let commands: Vec<_> = parked.iter().map(|each| each.commit.command).collect();
    let reasons: Vec<String> = parked
        .iter()
        .map(|each| storable(&each.reason).into_owned())
        .collect();
    sqlx::query(
        "INSERT INTO parked (seq, subject, command, reason)
         SELECT * FROM UNNEST($1::bigint[], $2::text[], $3::uuid[], $4::text[])",
    )
    .bind(seqs)
    .bind(subjects)
    .bind(commands)
    .bind(reasons)
    .execute(connection)
    .await?;
    Ok(())
}
