//! What has left the log on purpose is no difference, as long as the ledger is what was written.

use super::{Check, Found, What, difference::copy};
use crate::archive::{Error, Hash};

impl Check<'_> {
    /// All of it, whatever the range is: pages are chained.
    pub(super) async fn read_ledger(&mut self) -> Result<(), Found> {
        let damaged = |key: String, detail: String| copy(What::DamagedLedger, (0, 0), key, detail);
        match self.ledger.follow(self.archive).await {
            Ok(_) => {}
            Err(error @ Error::Ledger { .. }) => {
                let key = self.archive.ledger_key(self.ledger.tail().pages);
                return Err(damaged(key, error.to_string()).into());
            }
            Err(error) => return Err(error.into()),
        }
        let (read, there) = (self.ledger.tail().pages, self.archive.ledger_pages().await?);
        if there.iter().any(|number| *number > read) {
            let key = self.archive.ledger_key(read);
            let detail = format!("{key} is missing, although later pages of the ledger are there");
            return Err(damaged(key, detail).into());
        }
        Ok(())
    }

    /// The part of the copy that is the only place of what has left must be what it was then.
    pub(super) fn compare_anchor(
        &self,
        seq: u64,
        chain: Hash,
        (range, key): ((u64, u64), &str),
    ) -> Result<(), Found> {
        if self.ledger.anchor(seq).is_none_or(|noted| noted == chain) {
            return Ok(());
        }
        let detail = format!(
            "{key} is not what it was when messages were purged from the log: the chain at {seq} is \
             another one than the ledger says"
        );
        Err(copy(What::BrokenChain, range, key.to_owned(), detail).into())
    }
}
