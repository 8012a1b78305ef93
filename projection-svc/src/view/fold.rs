//! What a batch of commits does to the rows of one view, folded in memory, so that each row is
//! written once for each batch, whatever the number of its events.
//!
//! A row begins with one event and is overwritten, field by field, by later ones. How a log is cut
//! into batches therefore makes no difference: laying the later fields over the row here is the
//! same as letting the statement do it to the row of an earlier batch.

use sqlx::PgConnection;
use std::collections::HashMap;
use uuid::Uuid;

/// Fields that later events overwrite.
pub(crate) trait Overlay: Default {
    /// Lays what a later event says over what is known so far.
    fn overlay(&mut self, later: Self);
}

/// A row whose events do not change it after its first.
impl Overlay for () {
    fn overlay(&mut self, (): Self) {}
}

/// The events contradict the rows: something begins that is there, or goes on that is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{table}: {id} {what}")]
pub(crate) struct Contradiction {
    table: &'static str,
    id: String,
    what: &'static str,
}

/// What a batch does to one row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change<New, Later> {
    /// The row's id.
    pub(crate) id: Uuid,
    /// What it begins with, if it begins in this batch.
    pub(crate) new: Option<New>,
    /// What the batch overwrites.
    pub(crate) later: Later,
    /// Sequence of its latest commit.
    pub(crate) last_seq: u64,
}

/// What a batch does to the rows of one table.
#[derive(Clone, Debug)]
pub(crate) struct Fold<New, Later> {
    table: &'static str,
    changes: HashMap<Uuid, Change<New, Later>>,
}

impl<New, Later: Overlay> Fold<New, Later> {
    /// Nothing yet.
    pub(crate) fn new(table: &'static str) -> Self {
        Self {
            table,
            changes: HashMap::new(),
        }
    }

    /// A row begins.
    pub(crate) fn begin(&mut self, id: Uuid, new: New, seq: u64) -> Result<(), Contradiction> {
        let change = Change {
            id,
            new: Some(new),
            later: Later::default(),
            last_seq: seq,
        };
        match self.changes.insert(id, change) {
            None => Ok(()),
            Some(_) => Err(self.contradiction(id, "begins twice")),
        }
    }

    /// A row goes on.
    pub(crate) fn go_on(&mut self, id: Uuid, later: Later, seq: u64) {
        let change = self.changes.entry(id).or_insert_with(|| Change {
            id,
            new: None,
            later: Later::default(),
            last_seq: seq,
        });
        change.later.overlay(later);
        change.last_seq = seq;
    }

    /// The changes that begin a row, and those to rows of earlier batches, each by id: that of a
    /// query tells its time, so that rows and index entries that lie together are written together.
    #[expect(clippy::type_complexity, reason = "two lists of the same things")]
    pub(crate) fn split(&self) -> (Vec<&Change<New, Later>>, Vec<&Change<New, Later>>) {
        let mut changes: Vec<_> = self.changes.values().collect();
        changes.sort_unstable_by_key(|change| change.id);
        changes.into_iter().partition(|change| change.new.is_some())
    }

    /// Writes them: `insert` the rows that begin, `update` those of earlier batches, whose number it
    /// answers with.
    pub(crate) async fn write(
        &self,
        connection: &mut PgConnection,
        insert: impl AsyncFnOnce(&[&Change<New, Later>], &mut PgConnection) -> sqlx::Result<()>,
        update: impl AsyncFnOnce(&[&Change<New, Later>], &mut PgConnection) -> sqlx::Result<u64>,
    ) -> Result<(), super::Error> {
        let (begun, gone_on) = self.split();
        if !begun.is_empty() {
            insert(&begun, connection).await?;
        }
        if !gone_on.is_empty() {
            let updated = update(&gone_on, connection).await?;
            self.all_there(&gone_on, updated)?;
        }
        Ok(())
    }

    /// Checks that every row of `sent` was there to be overwritten.
    fn all_there(&self, sent: &[&Change<New, Later>], updated: u64) -> Result<(), Contradiction> {
        match sent.first() {
            Some(first) if updated != sent.len() as u64 => {
                Err(self.contradiction(first.id, "goes on without having begun"))
            }
            _ => Ok(()),
        }
    }

    fn contradiction(&self, id: Uuid, what: &'static str) -> Contradiction {
        Contradiction {
            table: self.table,
            id: id.to_string(),
            what,
        }
    }

    /// Does in memory what the statements do to a table.
    #[cfg(test)]
    pub(crate) fn write_to(self, table: &mut HashMap<Uuid, Change<New, Later>>) {
        for (id, change) in self.changes {
            match change.new {
                Some(_) => {
                    table.insert(id, change);
                }
                None => {
                    let row = table.get_mut(&id).unwrap();
                    row.later.overlay(change.later);
                    row.last_seq = change.last_seq;
                }
            }
        }
    }
}

/// One column of the rows that a bulk statement writes.
pub(crate) fn column<'a, New, Later, T>(
    changes: &[&'a Change<New, Later>],
    value: impl Fn(&'a Change<New, Later>) -> T,
) -> Vec<T> {
    changes.iter().map(|change| value(change)).collect()
}

/// One column of what rows begin with.
pub(crate) fn first<'a, New, Later, T>(
    changes: &[&'a Change<New, Later>],
    value: impl Fn(&'a New) -> T,
) -> Vec<Option<T>> {
    column(changes, |change| change.new.as_ref().map(&value))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::fmt::Debug;

    /// Cuts `events` into batches in every possible way, checks that the rows are always the same,
    /// and answers with them. The first event has the sequence 1.
    pub(in crate::view) fn rows_of_every_split<E, New, Later>(
        events: &[E],
        changes: impl Fn() -> Fold<New, Later>,
        apply: impl Fn(&mut Fold<New, Later>, &E, u64) -> Result<(), Contradiction>,
    ) -> HashMap<Uuid, Change<New, Later>>
    where
        New: PartialEq + Debug,
        Later: Overlay + PartialEq + Debug,
    {
        // Bit n of `cuts` says whether a batch ends after event n.
        let rows = |cuts: u32| {
            let mut table = HashMap::new();
            let mut batch = changes();
            for (index, event) in events.iter().enumerate() {
                apply(&mut batch, event, index as u64 + 1).unwrap();
                if cuts & (1 << index) != 0 {
                    std::mem::replace(&mut batch, changes()).write_to(&mut table);
                }
            }
            batch.write_to(&mut table);
            table
        };
        let whole = rows(0);
        for cuts in 1..1 << (events.len() - 1) {
            assert_eq!(rows(cuts), whole, "cut as {cuts:b}");
        }
        whole
    }

    #[test]
    fn a_row_begins_once() {
        let mut fold = Fold::<(), ()>::new("t");
        let id = Uuid::from_u128(1);
        fold.begin(id, (), 1).unwrap();
        let error = fold.begin(id, (), 2).unwrap_err();
        assert_eq!(error.to_string(), format!("t: {id} begins twice"));
    }

    #[test]
    fn a_row_that_goes_on_must_be_there() {
        let mut fold = Fold::<(), ()>::new("t");
        fold.go_on(Uuid::from_u128(1), (), 3);
        let (begun, gone_on) = fold.split();
        assert_eq!((begun.len(), gone_on.len()), (0, 1));
        assert!(fold.all_there(&gone_on, 1).is_ok());
        assert!(fold.all_there(&gone_on, 0).is_err());
    }
}
