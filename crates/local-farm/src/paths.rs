//! The path of an entry, `/entries/{table}/{key}`, written by clients and read by the vault.

use std::fmt::Write as _;

use crate::tables::{RowKey, Table};

/// What every entry's path begins with.
pub(crate) const ENTRIES: &str = "/entries/";

/// The path of an entry; what may not stand in a path is percent-encoded.
pub(crate) fn entry_path(table: &Table, key: &RowKey) -> String {
    let mut path = format!("{ENTRIES}{}/", table.name);
    for byte in key.to_string().bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            path.push(char::from(byte));
        } else {
            let _ = write!(path, "%{byte:02X}");
        }
    }
    path
}

/// The entry that a path names, if it names one.
pub(crate) fn parse_entry_path(path: &str) -> Option<(&'static Table, RowKey)> {
    let (table, key) = path.strip_prefix(ENTRIES)?.split_once('/')?;
    let table = Table::named(table)?;
    Some((table, table.parse_key(&decode(key)?)?))
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.extend(hex::decode(digits).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::content;
    use crate::tables::TABLES;

    #[test]
    fn every_seeded_key_survives_the_way_through_a_path() {
        for (number, table) in TABLES.iter().enumerate() {
            for row in 0..50 {
                let key = content::key(number, row);
                let path = entry_path(table, &key);
                assert!(path.is_ascii());
                let (found, parsed) = parse_entry_path(&path).unwrap();
                assert_eq!((found.name, parsed), (table.name, key));
            }
        }
    }

    #[test]
    fn other_paths_name_no_entry() {
        for path in
            ["/", "/entries", "/entries/", "/entries/connections", "/entries/pg_authid/1", "/entries/connections/%2"]
        {
            assert!(parse_entry_path(path).is_none(), "{path}");
        }
    }
}
