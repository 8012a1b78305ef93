//! The file: written beside its place under another name, and put there when it is whole.

use super::{
    super::{Error, Progress},
    column::Column,
    view::View,
};
use futures_util::TryStreamExt;
use parquet::{
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::{metadata::KeyValue, properties::WriterProperties, writer::SerializedFileWriter},
    schema::types::Type,
};
use sqlx::{AssertSqlSafe, PgConnection, Row, ValueRef};
use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};
use tempfile::NamedTempFile;

/// Rows of a row group: so many are held in memory.
const GROUP: u64 = 65_536;

pub(super) struct Writer {
    path: PathBuf,
    part: NamedTempFile,
    parquet: SerializedFileWriter<File>,
    columns: Vec<Column>,
    rows: u64,
}

impl Writer {
    /// Begins the file beside `path`.
    pub(super) fn create(
        path: &Path,
        view: &View,
        metadata: Vec<(&'static str, String)>,
    ) -> Result<Self, Error> {
        let columns: Vec<Column> = view
            .columns
            .iter()
            .map(|column| {
                Column::new(&column.name, &column.sql_type).ok_or_else(|| {
                    Error::Unknown(format!(
                        "column {} is of type {}, which cannot be exported",
                        column.name, column.sql_type
                    ))
                })
            })
            .collect::<Result<_, _>>()?;
        let begin = || {
            let part = part_of(path)?;
            let fields: Result<Vec<_>, ParquetError> = columns
                .iter()
                .map(|column| Ok(Arc::new(column.describe()?)))
                .collect();
            let schema = Type::group_type_builder("view")
                .with_fields(fields?)
                .build()?;
            let metadata = metadata
                .into_iter()
                .map(|(key, value)| KeyValue::new(key.to_owned(), value))
                .collect();
            let properties = WriterProperties::builder()
                .set_created_by(concat!("amaima ", env!("CARGO_PKG_VERSION")).into())
                .set_compression(Compression::ZSTD(ZstdLevel::default()))
                .set_key_value_metadata(Some(metadata));
            let file = part.reopen()?;
            let parquet =
                SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties.build()))?;
            Ok((part, parquet))
        };
        let (part, parquet) = begin().map_err(Error::unwritable(path))?;
        Ok(Self {
            path: path.to_owned(),
            part,
            parquet,
            columns,
            rows: 0,
        })
    }

    /// Fetches the next row group and writes it; `false` when there are no more rows.
    pub(super) async fn fetch_group(
        &mut self,
        connection: &mut PgConnection,
        progress: &mut Progress,
    ) -> Result<bool, Error> {
        let mut fetched = 0;
        let fetch = format!("FETCH {GROUP} FROM rows");
        let mut rows = sqlx::query(AssertSqlSafe(fetch))
            .persistent(false)
            .fetch(connection);
        while let Some(row) = rows.try_next().await.map_err(Error::failed("the rows"))? {
            for (index, column) in self.columns.iter_mut().enumerate() {
                let value = row.try_get_raw(index).map_err(Error::failed("a value"))?;
                let bytes = match value.is_null() {
                    true => None,
                    false => Some(value.as_bytes().map_err(Error::failed("a value"))?),
                };
                column.take(bytes).ok_or_else(|| {
                    let name = column.name();
                    Error::Unknown(format!("{name} has a value that Parquet cannot hold"))
                })?;
            }
            fetched += 1;
            progress.at(self.rows + fetched);
        }
        if fetched > 0 {
            self.write_group().map_err(Error::unwritable(&self.path))?;
            self.rows += fetched;
        }
        Ok(fetched == GROUP)
    }

    fn write_group(&mut self) -> Result<(), ParquetError> {
        let mut group = self.parquet.next_row_group()?;
        for column in &mut self.columns {
            let writer = group.next_column()?;
            let mut writer = writer.ok_or_else(|| ParquetError::EOF("no column left".into()))?;
            column.write(&mut writer)?;
            writer.close()?;
        }
        group.close()?;
        Ok(())
    }

    /// Puts the file in its place; its rows, row groups and bytes.
    pub(super) fn finish(self) -> Result<(u64, usize, u64), Error> {
        let (rows, part, path) = (self.rows, self.part, self.path);
        let finish = || {
            let groups = self.parquet.close()?.num_row_groups();
            part.as_file().sync_all()?;
            let file = part.persist(&path).map_err(|error| error.error)?;
            Ok((rows, groups, file.metadata()?.len()))
        };
        finish().map_err(Error::unwritable(&path))
    }
}

/// A file in the same directory, so that it can take the other's place in one step. Its name begins
/// with a dot and ends with `.part`: what a killed export leaves is seen to be that.
fn part_of(path: &Path) -> std::io::Result<NamedTempFile> {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    tempfile::Builder::new()
        .prefix(&format!(".{name}."))
        .suffix(".part")
        .tempfile_in(directory.unwrap_or(Path::new(".")))
}
