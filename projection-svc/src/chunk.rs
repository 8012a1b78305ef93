//! Cutting the log into chunks at the boundaries of commands, and a chunk into groups of commands
//! that can be written side by side.
//!
//! Commits of one command follow each other in the log, since they were written as one atomic
//! batch. They are never parted: neither into two chunks nor into two groups, so that each command
//! is in the rows as a whole or not at all. Commits of one aggregate belong to one lane. Where a
//! command touches several lanes, these are one group for this chunk, with one transaction.

use crate::{commit::Commit, log::Slice};
use std::{
    ops::Range,
    time::{Duration, Instant},
};

/// Most commits and bytes of one chunk; the command that passes the limit is still part of it.
const COMMITS: usize = 4096;
const BYTES: usize = 8 * 1024 * 1024;
/// A chunk of fewer commands than this is one group: side by side they would win nothing.
const WORTH_PARTING: usize = 64;
/// How long the rest of an atomic batch is waited for. All of it is in the log when its first
/// message is, so that this passes only for a batch whose last message was not meant to be stored.
const PATIENCE: Duration = Duration::from_secs(1);

/// Commits that have been read and not been cut yet.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    commits: Vec<Commit>,
    bytes: usize,
    behind: u64,
    received: Option<Instant>,
}

impl Buffer {
    /// Whether more should be taken: a command that is not whole yet must be able to grow.
    pub(crate) fn has_room(&self) -> bool {
        (self.commits.len() < 2 * COMMITS && self.bytes < 2 * BYTES) || self.whole(0) == 0
    }

    /// Adds what follows.
    pub(crate) fn push(&mut self, slice: Slice) {
        self.bytes += slice
            .commits
            .iter()
            .map(|commit| commit.bytes)
            .sum::<usize>();
        self.behind = slice.behind;
        self.received = Some(Instant::now());
        if self.commits.is_empty() {
            self.commits = slice.commits;
        } else {
            self.commits.extend(slice.commits);
        }
    }

    /// How many commits of the log are not in a chunk yet.
    pub(crate) fn behind(&self) -> u64 {
        self.behind + self.commits.len() as u64
    }

    /// The next chunk, if there is a whole command.
    pub(crate) fn cut(&mut self) -> Option<Chunk> {
        let mut bytes = 0;
        let full = self.commits.iter().take(COMMITS).position(|commit| {
            bytes += commit.bytes;
            bytes >= BYTES
        });
        let end = self.whole(full.map_or(COMMITS, |last| last + 1));
        if end == 0 {
            return None;
        }
        let rest = self.commits.split_off(end);
        let commits = std::mem::replace(&mut self.commits, rest);
        self.bytes -= commits.iter().map(|commit| commit.bytes).sum::<usize>();
        Chunk::of(commits)
    }

    /// Length of the shortest run of whole commands that has at least `wanted` commits, or of the
    /// longest that there is.
    fn whole(&self, wanted: usize) -> usize {
        let len = self.commits.len();
        let ends_at = |end: usize| {
            let last = &self.commits[end - 1];
            match self.commits.get(end) {
                Some(next) => !is_same_command(last, next),
                None => !last.goes_on || self.received.is_some_and(|at| at.elapsed() > PATIENCE),
            }
        };
        let wanted = wanted.clamp(1, len.max(1));
        (wanted..=len)
            .find(|end| ends_at(*end))
            .or_else(|| (1..wanted.min(len + 1)).rev().find(|end| ends_at(*end)))
            .unwrap_or(0)
    }
}

fn is_same_command(one: &Commit, next: &Commit) -> bool {
    one.command.is_some() && one.command == next.command
}

/// Some whole commands, as they follow each other in the log.
#[derive(Debug)]
pub(crate) struct Chunk {
    commits: Vec<Commit>,
    last: u64,
}

/// Commands that are written in one transaction, together with the checkpoints of their lanes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// Whose checkpoints move.
    pub(crate) lanes: Vec<usize>,
    /// Where in the chunk each command is, in order.
    pub(crate) commands: Vec<Range<usize>>,
}

impl Chunk {
    /// Whole commands; `None` when there are none.
    pub(crate) fn of(commits: Vec<Commit>) -> Option<Self> {
        let last = commits.last()?.seq;
        Some(Self { commits, last })
    }

    /// Sequence of its last commit.
    pub(crate) const fn last(&self) -> u64 {
        self.last
    }

    /// Number of its commits.
    pub(crate) fn len(&self) -> usize {
        self.commits.len()
    }

    /// The commits of one command.
    pub(crate) fn command(&self, command: &Range<usize>) -> &[Commit] {
        &self.commits[command.clone()]
    }

    /// Where each command is, in order.
    pub(crate) fn commands(&self) -> impl Iterator<Item = Range<usize>> {
        let mut start = 0;
        self.commits.chunk_by(is_same_command).map(move |command| {
            let range = start..start + command.len();
            start = range.end;
            range
        })
    }

    /// Parts the commands that are not written yet into groups, given how far each lane is. Every
    /// lane is in one group: those without a command of their own ride along with the first.
    pub(crate) fn groups(&self, positions: &[u64]) -> Vec<Group> {
        let lanes = positions.len();
        let lane = |commit: &Commit| usize::try_from(commit.part).unwrap_or(0) % lanes;
        // After a crash some lanes are ahead. All lanes of a command moved in one transaction.
        let todo: Vec<Range<usize>> = self
            .commands()
            .filter(|command| {
                let first = &self.commits[command.start];
                first.seq > positions[lane(first)]
            })
            .collect();
        let mut leaders: Vec<usize> = (0..lanes).collect();
        // Who erases a person must come after all that was written about them before.
        let erases = || {
            self.commits
                .iter()
                .any(|each| each.erased().next().is_some())
        };
        if todo.len() < WORTH_PARTING || erases() {
            leaders.fill(0);
        }
        for command in &todo {
            let commits = self.command(command);
            let first = leader(&leaders, lane(&commits[0]));
            for commit in &commits[1..] {
                let other = leader(&leaders, lane(commit));
                let (low, high) = (first.min(other), first.max(other));
                leaders[high] = low;
            }
        }
        let mut groups: Vec<Group> = Vec::new();
        let mut group_of = vec![None; lanes];
        for command in todo {
            let leader = leader(&leaders, lane(&self.commits[command.start]));
            let index = *group_of[leader].get_or_insert_with(|| {
                groups.push(Group {
                    lanes: Vec::new(),
                    commands: Vec::new(),
                });
                groups.len() - 1
            });
            groups[index].commands.push(command);
        }
        if groups.is_empty() {
            groups.push(Group {
                lanes: Vec::new(),
                commands: Vec::new(),
            });
        }
        for index in 0..lanes {
            let group = group_of[leader(&leaders, index)].unwrap_or(0);
            groups[group].lanes.push(index);
        }
        groups
    }
}

fn leader(leaders: &[usize], mut lane: usize) -> usize {
    while leaders[lane] != lane {
        lane = leaders[lane];
    }
    lane
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{commit::Events, seal::Seal};
    use uuid::Uuid;

    fn commit(seq: u64, command: u128, part: u64) -> Commit {
        Commit {
            seq,
            subject: format!("s{part}"),
            command: Some(Uuid::from_u128(command)),
            part,
            goes_on: false,
            bytes: 10,
            events: Ok(Events::Email),
            seal: Seal::Plain,
        }
    }

    fn slice(commits: Vec<Commit>) -> Slice {
        Slice { commits, behind: 0 }
    }

    #[test]
    fn a_command_is_never_cut() {
        let mut buffer = Buffer::default();
        assert!(buffer.cut().is_none());
        // A command across the limit, which comes in two slices.
        let command = |seq: u64| {
            if (4090..4110).contains(&seq) {
                4090
            } else {
                u128::from(seq)
            }
        };
        let commits = |range: Range<u64>| range.map(|seq| commit(seq, command(seq), seq));
        buffer.push(slice(commits(1..4100).collect()));
        buffer.push(slice(commits(4100..4120).collect()));
        let first = buffer.cut().unwrap();
        assert_eq!((first.len(), first.last()), (4109, 4109));
        let second = buffer.cut().unwrap();
        assert_eq!((second.len(), second.last()), (10, 4119));
        assert!(buffer.cut().is_none());
        assert_eq!(buffer.bytes, 0);
    }

    #[test]
    fn the_rest_of_a_batch_is_waited_for() {
        let mut buffer = Buffer::default();
        let open = |seq, command| Commit {
            goes_on: true,
            ..commit(seq, command, seq)
        };
        buffer.push(slice(vec![commit(1, 1, 1), open(2, 2)]));
        assert_eq!(buffer.cut().unwrap().last(), 1);
        assert!(buffer.cut().is_none());
        assert!(buffer.has_room());
        // Another command of the same batch ends the one before.
        buffer.push(slice(vec![open(3, 2), open(4, 3)]));
        assert_eq!(buffer.cut().unwrap().last(), 3);
        assert!(buffer.cut().is_none());
        buffer.push(slice(vec![commit(5, 3, 5)]));
        assert_eq!(buffer.cut().unwrap().last(), 5);
    }

    #[test]
    fn a_large_chunk_ends_by_its_bytes() {
        let mut buffer = Buffer::default();
        let large = |seq| Commit {
            bytes: BYTES / 2,
            ..commit(seq, u128::from(seq), seq)
        };
        buffer.push(slice((1..=5).map(large).collect()));
        assert!(!buffer.has_room());
        assert_eq!(buffer.cut().unwrap().last(), 2);
    }

    #[test]
    fn lanes_that_a_command_connects_are_one_group() {
        let mut commits: Vec<Commit> = (1..=100)
            .map(|seq| commit(seq, u128::from(seq), seq % 4))
            .collect();
        commits.push(commit(101, 500, 1));
        commits.push(commit(102, 500, 3));
        let chunk = Chunk::of(commits).unwrap();
        let groups = chunk.groups(&[0; 4]);
        let lanes: Vec<_> = groups.iter().map(|group| group.lanes.clone()).collect();
        assert_eq!(lanes, [vec![1, 3], vec![2], vec![0]]);
        let commands: usize = groups.iter().map(|group| group.commands.len()).sum();
        assert_eq!(commands, 101);
        assert!(groups[0].commands.contains(&(100..102)));
    }

    #[test]
    fn what_a_lane_has_is_left_out_and_idle_lanes_ride_along() {
        let commits: Vec<Commit> = (1..=200)
            .map(|seq| commit(seq, u128::from(seq), seq % 2))
            .collect();
        let chunk = Chunk::of(commits).unwrap();
        let groups = chunk.groups(&[100, 50, 0]);
        assert_eq!(groups.len(), 2);
        let all: Vec<usize> = groups
            .iter()
            .flat_map(|group| group.lanes.clone())
            .collect();
        assert_eq!(all.len(), 3);
        for command in groups.iter().flat_map(|group| &group.commands) {
            let commit = &chunk.command(command)[0];
            let lane = usize::try_from(commit.part).unwrap() % 3;
            assert!(commit.seq > [100, 50, 0][lane]);
        }
        let nothing = chunk.groups(&[300, 300, 300]);
        assert_eq!(nothing.len(), 1);
        assert_eq!(nothing[0].lanes, [0, 1, 2]);
        assert!(nothing[0].commands.is_empty());
    }
}
