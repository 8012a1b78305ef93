//! Rows that begin, written by one `COPY` in its binary form. PostgreSQL takes them as they come,
//! where a bulk `INSERT` would have it take arrays of columns apart first.

use sqlx::{Encode, PgConnection, Postgres, encode::IsNull, postgres::PgArgumentBuffer};

/// What a binary copy begins with: its signature, no flags, no extension (PostgreSQL's
/// documentation of `COPY`, "Binary Format").
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What it ends with, where a row would have the number of its values.
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();
/// In place of a value's length.
const NULL: [u8; 4] = (-1_i32).to_be_bytes();

/// Rows of one table.
pub(super) struct Rows<const COLUMNS: usize> {
    statement: String,
    copy: PgArgumentBuffer,
}

impl<const COLUMNS: usize> Rows<COLUMNS> {
    /// None yet, of these columns.
    pub(super) fn of(table: &str, columns: [&str; COLUMNS]) -> Self {
        let columns = columns.join(", ");
        let mut copy = PgArgumentBuffer::default();
        copy.extend_from_slice(HEADER);
        Self {
            statement: format!("COPY {table} ({columns}) FROM STDIN (FORMAT binary)"),
            copy,
        }
    }

    /// One more row. Each value must be of its column's very type: there is no conversion.
    pub(super) fn push(
        &mut self,
        values: [&dyn Encode<'_, Postgres>; COLUMNS],
    ) -> Result<(), sqlx::Error> {
        let count = i16::try_from(COLUMNS).map_err(|error| sqlx::Error::Encode(error.into()))?;
        self.copy.extend_from_slice(&count.to_be_bytes());
        for value in values {
            let length = self.copy.len();
            self.copy.extend_from_slice(&NULL);
            let begin = self.copy.len();
            let is_null = value.encode_by_ref(&mut self.copy);
            if let IsNull::No = is_null.map_err(sqlx::Error::Encode)? {
                let bytes = i32::try_from(self.copy.len() - begin)
                    .map_err(|error| sqlx::Error::Encode(error.into()))?;
                self.copy[length..begin].copy_from_slice(&bytes.to_be_bytes());
            }
        }
        Ok(())
    }

    /// Writes them, within the caller's transaction.
    pub(super) async fn write(mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        self.copy.extend_from_slice(&TRAILER);
        let mut copy = connection.copy_in_raw(&self.statement).await?;
        copy.send(self.copy.as_slice()).await?;
        copy.finish().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_the_binary_form() {
        let mut rows = Rows::of("t", ["id", "name", "note"]);
        rows.push([&7_i64, &"Mia", &None::<&str>]).unwrap();
        assert_eq!(
            rows.statement,
            "COPY t (id, name, note) FROM STDIN (FORMAT binary)"
        );
        let row = b"\0\x03\0\0\0\x08\0\0\0\0\0\0\0\x07\0\0\0\x03Mia\xff\xff\xff\xff";
        assert_eq!(rows.copy[HEADER.len()..], row[..]);
    }
}
