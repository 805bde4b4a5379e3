//! Statements in the making: their text and what is bound to it, always in the same order.

use sqlx::mysql::MySqlArguments;
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, MySql};

use crate::key::{Key, KeyValue};
use crate::table::{KeyColumn, KeyRange, Table};

type MySqlQuery<'q> = Query<'q, MySql, MySqlArguments>;

/// A value to bind.
#[derive(Debug)]
pub(super) enum Bind<'a> {
    Integer(i64),
    Text(&'a str),
    Bytes(Option<&'a [u8]>),
    Owned(Option<String>),
}

/// A statement.
#[derive(Debug, Default)]
pub(super) struct Statement<'a> {
    pub(super) text: String,
    binds: Vec<Bind<'a>>,
}

impl<'a> Statement<'a> {
    /// Adds SQL without placeholders.
    pub(super) fn sql(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Adds one placeholder.
    pub(super) fn bind(&mut self, value: Bind<'a>) -> &mut Self {
        self.text.push('?');
        self.binds.push(value);
        self
    }

    /// Adds the value of one key column as the column's own type.
    pub(super) fn key_value(&mut self, column: &KeyColumn, value: &'a KeyValue) -> &mut Self {
        self.text.push_str(&column.cast);
        self.binds.push(match value {
            KeyValue::Integer(number) => Bind::Integer(*number),
            KeyValue::Text(text) | KeyValue::Other(text) => Bind::Text(text),
            KeyValue::Bytes(bytes) => Bind::Bytes(Some(bytes)),
        });
        self
    }

    /// Adds `t.a = … AND t.b = …`.
    pub(super) fn key_is(&mut self, table: &Table, key: &'a Key) -> &mut Self {
        for (at, (column, value)) in table.key.iter().zip(&key.0).enumerate() {
            self.sql(if at > 0 { " AND t." } else { "t." }).sql(&column.sql).sql(" = ").key_value(column, value);
        }
        self
    }

    /// Adds ` WHERE` for the range, if it has bounds. A comparison of rows would not use the index, so each bound is
    /// written out: greater in the first column, or equal there and greater in the next, and so on.
    pub(super) fn range(&mut self, table: &Table, range: &'a KeyRange) -> &mut Self {
        let mut joint = " WHERE ";
        for (bound, after) in [(&range.after, true), (&range.through, false)] {
            if let Some(key) = bound {
                self.sql(joint);
                self.beyond(&table.key, &key.0, after);
                joint = " AND ";
            }
        }
        self
    }

    fn beyond(&mut self, columns: &[KeyColumn], values: &'a [KeyValue], after: bool) {
        let (Some((column, columns)), Some((value, values))) = (columns.split_first(), values.split_first()) else {
            return;
        };
        // Later in the index is less where the index descends.
        let operator = if after == column.descending { "<" } else { ">" };
        let or_equal = if columns.is_empty() && !after { "=" } else { "" };
        let closed = format!(" {operator}{or_equal} ");
        self.sql("(t.").sql(&column.sql).sql(&closed).key_value(column, value);
        if !columns.is_empty() {
            self.sql(" OR (t.").sql(&column.sql).sql(" = ").key_value(column, value).sql(" AND ");
            self.beyond(columns, values, after);
            self.sql(")");
        }
        self.sql(")");
    }

    /// Adds ` ORDER BY` the key as its index has it.
    pub(super) fn in_order(&mut self, table: &Table) -> &mut Self {
        for (at, column) in table.key.iter().enumerate() {
            self.sql(if at > 0 { ", t." } else { " ORDER BY t." }).sql(&column.sql);
            if column.descending {
                self.sql(" DESC");
            }
        }
        self
    }

    /// The statement for the driver. One that comes in one size only is kept prepared.
    pub(super) fn query(self, kept: bool) -> MySqlQuery<'a> {
        // Reviewed: every dynamic part is a quoted identifier, the name of a character set, collation or type from
        // the catalog, or a placeholder.
        let mut query = sqlx::query(AssertSqlSafe(self.text)).persistent(kept);
        for value in self.binds {
            query = match value {
                Bind::Integer(number) => query.bind(number),
                Bind::Text(text) => query.bind(text),
                Bind::Bytes(bytes) => query.bind(bytes),
                Bind::Owned(text) => query.bind(text),
            };
        }
        query
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::KeyKind;

    fn table(descending: [bool; 2]) -> Table {
        let column = |name: &str, descending| KeyColumn {
            sql: format!("`{name}`"),
            kind: KeyKind::Integer,
            cast: "?".to_owned(),
            collation: None,
            descending,
        };
        Table {
            label: "t".to_owned(),
            from: "`t`".to_owned(),
            key: vec![column("a", descending[0]), column("b", descending[1])],
            columns: Vec::new(),
            triggers: Vec::new(),
            others: Vec::new(),
            kept: Vec::new(),
            exact: Vec::new(),
        }
    }

    fn where_of(descending: [bool; 2], after: bool, through: bool) -> String {
        let key = Key(vec![KeyValue::Integer(1), KeyValue::Integer(2)]);
        let range = KeyRange { after: after.then(|| key.clone()), through: through.then_some(key) };
        let mut statement = Statement::default();
        statement.range(&table(descending), &range);
        assert_eq!(statement.text.matches('?').count(), statement.binds.len());
        statement.text.clone()
    }

    #[test]
    fn bounds_are_written_out_column_by_column() {
        assert_eq!(where_of([false, false], false, false), "");
        assert_eq!(where_of([false, false], true, false), " WHERE (t.`a` > ? OR (t.`a` = ? AND (t.`b` > ?)))");
        assert_eq!(where_of([false, false], false, true), " WHERE (t.`a` < ? OR (t.`a` = ? AND (t.`b` <= ?)))");
        assert_eq!(where_of([true, false], true, false), " WHERE (t.`a` < ? OR (t.`a` = ? AND (t.`b` > ?)))");
        assert_eq!(where_of([false, true], false, true), " WHERE (t.`a` < ? OR (t.`a` = ? AND (t.`b` >= ?)))");
    }
}
