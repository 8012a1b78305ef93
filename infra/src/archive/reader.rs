use super::{Archive, Error, Page, Segment, segment::Records};

/// Reads a copy in order, also while it grows. It holds one segment at a time.
#[derive(Clone, Debug)]
pub struct Reader {
    archive: Archive,
    next: u64,
    page: Option<Page>,
}

/// Records of one segment.
#[derive(Clone, Debug)]
pub struct Part {
    /// The first sequence that was wanted: records before it are to be passed over.
    pub from: u64,
    /// The last sequence in it.
    pub last: u64,
    /// The whole segment's records.
    pub records: Records,
}

impl Reader {
    /// Reads from this sequence on, or from the first that the copy has.
    pub const fn new(archive: Archive, from: u64) -> Self {
        Self {
            archive,
            next: from,
            page: None,
        }
    }

    /// What comes next; `None` at the end of the copy as it is now.
    ///
    /// # Errors
    /// When the copy is damaged there, or cannot be read now.
    pub async fn next(&mut self) -> Result<Option<Part>, Error> {
        let segment = match self.locate().await? {
            Some((first, last)) => {
                let segment = self.archive.segment(first).await?;
                segment.ok_or_else(|| Error::Missing {
                    key: self.archive.segment_key(first),
                    first,
                    last,
                })?
            }
            // The manifest lags behind by one segment where its writer was killed.
            None => match self.archive.segment(self.next).await? {
                Some(segment) => segment,
                None => return Ok(None),
            },
        };
        Ok(Some(self.part(&segment)))
    }

    fn part(&mut self, segment: &Segment) -> Part {
        let from = self.next.max(segment.trailer.first);
        self.next = segment.trailer.last + 1;
        Part {
            from,
            last: segment.trailer.last,
            records: segment.records(),
        }
    }

    /// The segment that the manifest says has the next sequence.
    async fn locate(&mut self) -> Result<Option<(u64, u64)>, Error> {
        if let Some(found) = self.on_page() {
            return Ok(Some(found));
        }
        let number = match &self.page {
            None => self.first_page().await?,
            Some(page) => page.number,
        };
        // The page may have grown meanwhile; else it goes on on the next one.
        for number in [number, number + 1] {
            let Some(page) = self.archive.page(number).await? else {
                return Ok(None);
            };
            self.page = Some(page);
            if let Some(found) = self.on_page() {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn on_page(&self) -> Option<(u64, u64)> {
        let entries = &self.page.as_ref()?.segments;
        let found = entries.iter().find(|entry| entry.last >= self.next)?;
        Some((found.first, found.last))
    }

    /// The last page that does not begin behind the next sequence.
    async fn first_page(&self) -> Result<u64, Error> {
        let pages = self.archive.pages().await?;
        let (mut low, mut high) = (0, pages.len());
        while low + 1 < high {
            let middle = low.midpoint(high);
            let page = self.archive.page(pages[middle]).await?;
            let begins = page.and_then(|page| Some(page.segments.first()?.first));
            if begins.is_some_and(|first| first <= self.next) {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(pages.get(low).copied().unwrap_or(0))
    }
}
