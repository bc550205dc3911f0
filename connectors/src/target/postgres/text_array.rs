//! A `text[]` parameter that is built value by value in its wire form, so that a row costs no allocation.

use std::error::Error;

use bytes::{BufMut as _, BytesMut};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

/// One column of a run of rows.
#[derive(Debug, Default)]
pub(crate) struct TextArray {
    elements: Vec<u8>,
    len: i32,
    has_null: bool,
}

// === impl TextArray ===

impl TextArray {
    pub(crate) fn push(&mut self, value: Option<&[u8]>) {
        self.len += 1;
        match value {
            Some(text) => {
                // A value is at most 1 GiB in PostgreSQL.
                self.elements.put_i32(i32::try_from(text.len()).unwrap_or(i32::MAX));
                self.elements.put_slice(text);
            }
            None => {
                self.has_null = true;
                self.elements.put_i32(-1);
            }
        }
    }
}

impl ToSql for TextArray {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        // Dimensions, whether there are nulls, element type; then length and lower bound of the one dimension.
        out.put_i32(1);
        out.put_i32(i32::from(self.has_null));
        out.put_u32(Type::TEXT.oid());
        out.put_i32(self.len);
        out.put_i32(1);
        out.put_slice(&self.elements);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TEXT_ARRAY
    }

    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use tokio_postgres::types::FromSql as _;

    use super::*;

    #[test]
    fn the_wire_form_is_an_array_of_text() {
        let mut array = TextArray::default();
        for value in [Some("a"), None, Some(""), Some("Öl")] {
            array.push(value.map(str::as_bytes));
        }
        let mut out = BytesMut::new();
        array.to_sql(&Type::TEXT_ARRAY, &mut out).unwrap();
        let back = Vec::<Option<String>>::from_sql(&Type::TEXT_ARRAY, &out).unwrap();
        assert_eq!(back, [Some("a".to_owned()), None, Some(String::new()), Some("Öl".to_owned())]);
    }
}
