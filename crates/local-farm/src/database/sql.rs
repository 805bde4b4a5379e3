//! The SQL of the vault's tables. Every name in it is a constant of [`crate::tables`].

use std::fmt::Write as _;

use crate::tables::{SecretColumn, Table};

/// The tables in SQLite.
pub(crate) const CREATE_SQLITE: &str = "
CREATE TABLE connections (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    credentials BLOB
);
CREATE TABLE user_vault_entries (
    id TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    password TEXT,
    notes TEXT
);
CREATE TABLE documentation (
    slug TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    body TEXT
);
CREATE TABLE attachments (
    entry_id INTEGER NOT NULL,
    file_name TEXT NOT NULL,
    name TEXT NOT NULL,
    content BLOB,
    PRIMARY KEY (entry_id, file_name)
);
";

/// The tables in PostgreSQL.
pub(crate) const CREATE_POSTGRES: &str = "
CREATE TABLE connections (
    id bigint PRIMARY KEY,
    name text NOT NULL,
    credentials bytea
);
CREATE TABLE user_vault_entries (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    password text,
    notes text
);
CREATE TABLE documentation (
    slug text PRIMARY KEY,
    name text NOT NULL,
    body text
);
CREATE TABLE attachments (
    entry_id bigint NOT NULL,
    file_name text NOT NULL,
    name text NOT NULL,
    content bytea,
    PRIMARY KEY (entry_id, file_name)
);
";

/// The tables in MariaDB. Texts compare byte by byte there too, as the database's own collation says.
pub(crate) const CREATE_MARIADB: &str = "
CREATE TABLE connections (
    id bigint NOT NULL PRIMARY KEY,
    name varchar(500) NOT NULL,
    credentials longblob
) ENGINE = InnoDB;
CREATE TABLE user_vault_entries (
    id char(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    name varchar(500) NOT NULL,
    password longtext,
    notes longtext
) ENGINE = InnoDB;
CREATE TABLE documentation (
    slug varchar(190) NOT NULL PRIMARY KEY,
    name varchar(500) NOT NULL,
    body longtext
) ENGINE = InnoDB;
CREATE TABLE attachments (
    entry_id bigint NOT NULL,
    file_name varchar(190) NOT NULL,
    name varchar(500) NOT NULL,
    content longblob,
    PRIMARY KEY (entry_id, file_name)
) ENGINE = InnoDB;
";

/// The statement with MariaDB's placeholders, which have no numbers: the values stand in the order of their numbers.
pub(super) fn unnumbered(sql: &str) -> String {
    let mut unnumbered = String::with_capacity(sql.len());
    let mut letters = sql.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == '$' && letters.peek().is_some_and(char::is_ascii_digit) {
            while letters.next_if(char::is_ascii_digit).is_some() {}
            unnumbered.push('?');
        } else {
            unnumbered.push(letter);
        }
    }
    unnumbered
}

/// The column that is not encrypted: what a person sees in a list. A rotation must leave it alone.
pub(super) const NAME_COLUMN: &str = "name";

/// `INSERT INTO …` up to the values: key columns, name, encrypted columns.
pub(super) fn insert_head(table: &Table) -> String {
    let mut sql = format!("INSERT INTO {} (", table.name);
    for column in table.key {
        let _ = write!(sql, "{}, ", column.name);
    }
    sql.push_str(NAME_COLUMN);
    for column in table.columns {
        let _ = write!(sql, ", {}", column.name);
    }
    sql.push_str(") ");
    sql
}

/// One column of one row; the key is bound from `$1`.
pub(super) fn select_value(table: &Table, column: &SecretColumn) -> String {
    format!("SELECT {} FROM {} WHERE {}", column.name, table.name, key_is(table, 1))
}

/// Sets one column of one row; the value is `$1`, the key bound from `$2`.
pub(super) fn update_value(table: &Table, column: &SecretColumn) -> String {
    format!("UPDATE {} SET {} = $1 WHERE {}", table.name, column.name, key_is(table, 2))
}

/// Every row: key columns, then encrypted columns.
pub(super) fn select_rows(table: &Table) -> String {
    let names: Vec<&str> =
        table.key.iter().map(|column| column.name).chain(table.columns.iter().map(|column| column.name)).collect();
    format!("SELECT {} FROM {}", names.join(", "), table.name)
}

fn key_is(table: &Table, first: usize) -> String {
    let conditions: Vec<String> =
        table.key.iter().enumerate().map(|(number, column)| format!("{} = ${}", column.name, first + number)).collect();
    conditions.join(" AND ")
}
