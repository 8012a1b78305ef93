//! The words of persons in rows: sealed with the person's key, so that whoever destroys the key has
//! erased them from tables, write-ahead logs and backups alike.
//!
//! A cell is a `bytea`: [`SEALED`] and the sealed text, or [`PLAIN`] and the text where the commit
//! that it comes from was not sealed. The same text in the same cell always looks the same, so that
//! generations of the read models can be compared.

use domain::id::AccountId;
use infra::sealing::{
    PersonKey,
    keyring::{self, Found, Keyring},
};
use std::sync::Arc;
use uuid::Uuid;

const PLAIN: u8 = 0;
const SEALED: u8 = 1;

/// What rows are sealed with.
#[derive(Clone, Debug)]
pub(crate) enum Seal {
    /// Nothing.
    Plain,
    /// The key of the person whom they concern.
    With(Arc<PersonKey>),
}

/// A cell's name within its table, such as `queries.query`.
pub type Column = &'static str;

impl Seal {
    /// The cell of this column in the row of this id.
    pub(crate) fn cell(&self, column: Column, id: Uuid, text: &str) -> Vec<u8> {
        let (kind, text) = match self {
            Self::Plain => (PLAIN, text.as_bytes().to_vec()),
            Self::With(key) => {
                let place = place(column, id);
                let sealed = key.rows.seal_alike(&place, text.as_bytes());
                (SEALED, sealed.expect("it takes less than 64 GiB"))
            }
        };
        let mut cell = Vec::with_capacity(text.len() + 1);
        cell.push(kind);
        cell.extend_from_slice(&text);
        cell
    }
}

fn place(column: Column, id: Uuid) -> Vec<u8> {
    [column.as_bytes(), id.as_bytes()].concat()
}

/// Opens the cells of one person's rows.
#[derive(Debug)]
pub struct Opener(Found);

impl Opener {
    /// With the key of this person; `None` for a person who was erased.
    ///
    /// # Errors
    /// When the keys cannot be read.
    pub async fn of(keys: &Keyring, person: AccountId) -> Result<Option<Self>, keyring::Error> {
        match keys.find(person).await? {
            Found::Erased => Ok(None),
            found => Ok(Some(Self(found))),
        }
    }

    /// The text of a cell.
    ///
    /// # Errors
    /// When it is not what was written there.
    pub fn text(&self, column: Column, id: Uuid, cell: &[u8]) -> Result<String, sqlx::Error> {
        let unreadable = |why: &str| sqlx::Error::Decode(format!("{column} of {id} {why}").into());
        let (kind, bytes) = cell.split_first().ok_or_else(|| unreadable("is empty"))?;
        let text = match (*kind, &self.0) {
            (PLAIN, _) => bytes.to_vec(),
            (SEALED, Found::Key(key)) => key
                .rows
                .open(&place(column, id), bytes)
                .map_err(|_| unreadable("is not what was sealed"))?,
            (SEALED, Found::Absent | Found::Erased) => return Err(unreadable("has no key")),
            _ => return Err(unreadable("is of no known kind")),
        };
        String::from_utf8(text).map_err(|_| unreadable("is no text"))
    }

    /// The text of a cell that may be null.
    ///
    /// # Errors
    /// As for [`Self::text`].
    pub fn optional(
        &self,
        column: Column,
        id: Uuid,
        cell: Option<&[u8]>,
    ) -> Result<Option<String>, sqlx::Error> {
        cell.map(|cell| self.text(column, id, cell)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_cell_is_read_and_what_is_none_is_told() {
        let opener = Opener(Found::Absent);
        let id = Uuid::from_u128(1);
        let cell = Seal::Plain.cell("t.c", id, "Mia");
        assert_eq!(opener.text("t.c", id, &cell).unwrap(), "Mia");
        assert_eq!(opener.optional("t.c", id, None).unwrap(), None);
        for wrong in [&b""[..], b"\x01Mia", b"\x07Mia", b"\0\xff"] {
            let error = opener.text("t.c", id, wrong).unwrap_err().to_string();
            assert!(error.contains("t.c of 0000"), "{error}");
        }
    }
}
