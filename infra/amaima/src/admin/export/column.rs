//! A column between the two formats: what PostgreSQL sends in binary, as Parquet stores it.

use parquet::{
    basic::{LogicalType, Repetition, TimeUnit, Type as Physical},
    data_type::{
        BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FixedLenByteArray,
        FixedLenByteArrayType, Int32Type, Int64Type,
    },
    errors::Result,
    file::writer::SerializedColumnWriter,
    schema::types::Type,
};

/// PostgreSQL counts from 2000-01-01, Parquet from 1970-01-01.
const DAYS_BETWEEN: i32 = 10_957;
const MICROS_BETWEEN: i64 = 946_684_800_000_000;

/// The values of one row group, as many of them as are not null.
#[derive(Debug)]
enum Values {
    Boolean(Vec<bool>),
    Integer(Vec<i32>),
    Bigint(Vec<i64>),
    Double(Vec<f64>),
    Text(Vec<ByteArray>),
    Uuid(Vec<FixedLenByteArray>),
    Date(Vec<i32>),
    Timestamp(Vec<i64>),
}

/// One column of the row group that is being gathered.
#[derive(Debug)]
pub(super) struct Column {
    name: String,
    values: Values,
    /// For each row 1, or 0 where it is null.
    levels: Vec<i16>,
}

impl Column {
    /// A column of this type of PostgreSQL; `None` for one that no view has had so far.
    pub(super) fn new(name: &str, sql_type: &str) -> Option<Self> {
        let values = match sql_type {
            "boolean" => Values::Boolean(vec![]),
            "integer" => Values::Integer(vec![]),
            "bigint" => Values::Bigint(vec![]),
            "double precision" => Values::Double(vec![]),
            "text" => Values::Text(vec![]),
            "uuid" => Values::Uuid(vec![]),
            "date" => Values::Date(vec![]),
            "timestamp with time zone" => Values::Timestamp(vec![]),
            _ => return None,
        };
        Some(Self {
            name: name.to_owned(),
            values,
            levels: vec![],
        })
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// How Parquet describes it.
    pub(super) fn describe(&self) -> Result<Type> {
        let (physical, logical) = match self.values {
            Values::Boolean(_) => (Physical::BOOLEAN, None),
            Values::Integer(_) => (Physical::INT32, None),
            Values::Bigint(_) => (Physical::INT64, None),
            Values::Double(_) => (Physical::DOUBLE, None),
            Values::Text(_) => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
            Values::Uuid(_) => (Physical::FIXED_LEN_BYTE_ARRAY, Some(LogicalType::Uuid)),
            Values::Date(_) => (Physical::INT32, Some(LogicalType::Date)),
            Values::Timestamp(_) => {
                let instant = LogicalType::timestamp(true, TimeUnit::MICROS);
                (Physical::INT64, Some(instant))
            }
        };
        let described = Type::primitive_type_builder(&self.name, physical)
            .with_repetition(Repetition::OPTIONAL)
            .with_logical_type(logical);
        match self.values {
            Values::Uuid(_) => described.with_length(16).build(),
            _ => described.build(),
        }
    }

    /// Takes a row's value; `None` where the bytes are not of the type.
    pub(super) fn take(&mut self, value: Option<&[u8]>) -> Option<()> {
        self.levels.push(i16::from(value.is_some()));
        let Some(bytes) = value else { return Some(()) };
        match &mut self.values {
            Values::Boolean(values) => values.push(bytes != [0]),
            Values::Integer(values) => values.push(i32::from_be_bytes(bytes.try_into().ok()?)),
            Values::Bigint(values) => values.push(i64::from_be_bytes(bytes.try_into().ok()?)),
            Values::Double(values) => values.push(f64::from_be_bytes(bytes.try_into().ok()?)),
            Values::Text(values) => values.push(bytes.to_vec().into()),
            Values::Uuid(values) => values.push(bytes.to_vec().into()),
            Values::Date(values) => {
                let days = i32::from_be_bytes(bytes.try_into().ok()?);
                values.push(days.checked_add(DAYS_BETWEEN)?);
            }
            Values::Timestamp(values) => {
                let micros = i64::from_be_bytes(bytes.try_into().ok()?);
                values.push(micros.checked_add(MICROS_BETWEEN)?);
            }
        }
        Some(())
    }

    /// Writes what was gathered, and is empty again.
    pub(super) fn write(&mut self, writer: &mut SerializedColumnWriter<'_>) -> Result<()> {
        let levels = &self.levels;
        match &mut self.values {
            Values::Boolean(values) => put::<BoolType>(writer, values, levels),
            Values::Integer(values) | Values::Date(values) => {
                put::<Int32Type>(writer, values, levels)
            }
            Values::Bigint(values) | Values::Timestamp(values) => {
                put::<Int64Type>(writer, values, levels)
            }
            Values::Double(values) => put::<DoubleType>(writer, values, levels),
            Values::Text(values) => put::<ByteArrayType>(writer, values, levels),
            Values::Uuid(values) => put::<FixedLenByteArrayType>(writer, values, levels),
        }?;
        self.levels.clear();
        Ok(())
    }
}

fn put<T: DataType>(
    writer: &mut SerializedColumnWriter<'_>,
    values: &mut Vec<T::T>,
    levels: &[i16],
) -> Result<()> {
    writer
        .typed::<T>()
        .write_batch(values, Some(levels), None)?;
    values.clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_of_its_type_is_refused() {
        let mut column = Column::new("day", "date").expect("known");
        assert_eq!(column.take(Some(&[0, 0, 0])), None);
        // PostgreSQL's `infinity` is no day that Parquet knows.
        assert_eq!(column.take(Some(&i32::MAX.to_be_bytes())), None);
        assert_eq!(column.take(None), Some(()));
        assert!(Column::new("share", "numeric").is_none());
    }

    #[test]
    fn the_year_2000_is_where_parquet_has_it() {
        let mut day = Column::new("day", "date").expect("known");
        day.take(Some(&[0; 4]));
        assert!(matches!(&day.values, Values::Date(days) if days == &[10_957]));
        let mut at = Column::new("at", "timestamp with time zone").expect("known");
        at.take(Some(&[0; 8]));
        assert!(matches!(&at.values, Values::Timestamp(at) if at == &[946_684_800_000_000]));
    }
}
