//! The sample vault's four tables: their keys, their encrypted columns, and how both are written in SQL and in paths.

use std::fmt;

use keys::value::Encoding;
use uuid::Uuid;

/// One table of the vault.
#[derive(Debug)]
pub(crate) struct Table {
    /// Its name in SQL, in targets.toml and in the application's paths.
    pub(crate) name: &'static str,
    /// The columns of its primary key, in order.
    pub(crate) key: &'static [KeyColumn],
    /// Its encrypted columns. The application serves the first.
    pub(crate) columns: &'static [SecretColumn],
}

/// A column of a primary key.
#[derive(Debug)]
pub(crate) struct KeyColumn {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its type.
    pub(crate) kind: KeyKind,
}

/// The type of a key column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyKind {
    /// A 64-bit integer.
    Integer,
    /// A UUID; text where the database has no such type.
    Uuid,
    /// A text.
    Text,
}

/// A column whose values are ciphertexts.
#[derive(Debug)]
pub(crate) struct SecretColumn {
    /// Its name.
    pub(crate) name: &'static str,
    /// How the ciphertext is stored.
    pub(crate) encoding: Encoding,
    /// What the application binds its ciphertexts to; empty for nothing.
    pub(crate) aad: &'static str,
}

/// All tables.
pub(crate) static TABLES: [Table; 4] = [
    Table {
        name: "connections",
        key: &[KeyColumn { name: "id", kind: KeyKind::Integer }],
        columns: &[SecretColumn { name: "credentials", encoding: Encoding::Raw, aad: "" }],
    },
    Table {
        name: "user_vault_entries",
        key: &[KeyColumn { name: "id", kind: KeyKind::Uuid }],
        columns: &[
            SecretColumn { name: "password", encoding: Encoding::Base64, aad: "user_vault_entries.password" },
            SecretColumn { name: "notes", encoding: Encoding::Base64, aad: "" },
        ],
    },
    Table {
        name: "documentation",
        key: &[KeyColumn { name: "slug", kind: KeyKind::Text }],
        columns: &[SecretColumn { name: "body", encoding: Encoding::Base64, aad: "" }],
    },
    Table {
        name: "attachments",
        key: &[
            KeyColumn { name: "entry_id", kind: KeyKind::Integer },
            KeyColumn { name: "file_name", kind: KeyKind::Text },
        ],
        columns: &[SecretColumn { name: "content", encoding: Encoding::Raw, aad: "" }],
    },
];

/// Number of [`CONNECTIONS`] and so on in [`TABLES`].
pub(crate) const CONNECTIONS: usize = 0;
/// See [`CONNECTIONS`].
pub(crate) const USER_VAULT_ENTRIES: usize = 1;
/// See [`CONNECTIONS`].
pub(crate) const DOCUMENTATION: usize = 2;
/// See [`CONNECTIONS`].
pub(crate) const ATTACHMENTS: usize = 3;

impl Table {
    /// The table of that name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        TABLES.iter().find(|table| table.name == name)
    }

    /// The column whose values the application serves.
    pub(crate) fn served(&self) -> &'static SecretColumn {
        &self.columns[0]
    }

    /// Reads a key from the end of a path, `17` or `17:notes.txt`; `None` when it is not one.
    pub(crate) fn parse_key(&self, text: &str) -> Option<RowKey> {
        let parts: Vec<&str> = text.splitn(self.key.len(), KEY_SEPARATOR).collect();
        if parts.len() != self.key.len() {
            return None;
        }
        let parts = self.key.iter().zip(parts).map(|(column, part)| match column.kind {
            KeyKind::Integer => part.parse().ok().map(KeyPart::Integer),
            KeyKind::Uuid => part.parse().ok().map(KeyPart::Uuid),
            KeyKind::Text => Some(KeyPart::Text(part.to_owned())),
        });
        parts.collect::<Option<_>>().map(RowKey)
    }
}

/// Stands between the parts of a composite key in a path.
const KEY_SEPARATOR: char = ':';

/// The primary key of one row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RowKey(pub(crate) Vec<KeyPart>);

/// One column's value of a primary key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum KeyPart {
    /// See [`KeyKind::Integer`].
    Integer(i64),
    /// See [`KeyKind::Uuid`].
    Uuid(Uuid),
    /// See [`KeyKind::Text`].
    Text(String),
}

impl fmt::Display for KeyPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => number.fmt(f),
            Self::Uuid(id) => id.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, part) in self.0.iter().enumerate() {
            if number > 0 {
                write!(f, "{KEY_SEPARATOR}")?;
            }
            part.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_the_way_through_a_path() {
        let keys = [
            (CONNECTIONS, RowKey(vec![KeyPart::Integer(-17)])),
            (USER_VAULT_ENTRIES, RowKey(vec![KeyPart::Uuid(Uuid::from_u128(17))])),
            (DOCUMENTATION, RowKey(vec![KeyPart::Text("how-to:reboot".to_owned())])),
            (ATTACHMENTS, RowKey(vec![KeyPart::Integer(17), KeyPart::Text("a:b.txt".to_owned())])),
        ];
        for (table, key) in keys {
            assert_eq!(TABLES[table].parse_key(&key.to_string()), Some(key));
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert_eq!(TABLES[CONNECTIONS].parse_key("seventeen"), None);
        assert_eq!(TABLES[USER_VAULT_ENTRIES].parse_key("17"), None);
        assert_eq!(TABLES[ATTACHMENTS].parse_key("17"), None);
    }

    #[test]
    fn tables_are_found_by_name_and_stand_at_their_numbers() {
        assert_eq!(TABLES[CONNECTIONS].name, "connections");
        assert_eq!(TABLES[USER_VAULT_ENTRIES].name, "user_vault_entries");
        assert_eq!(TABLES[DOCUMENTATION].name, "documentation");
        assert_eq!(TABLES[ATTACHMENTS].name, "attachments");
        assert!(TABLES.iter().all(|table| Table::named(table.name).is_some()));
        assert!(Table::named("pg_authid").is_none());
    }
}
