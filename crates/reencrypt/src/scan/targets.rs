//! Writes a targets.toml that registers what was found.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use keys::value::Encoding;

use super::{ColumnState, ScanReport};
use crate::Targets;
use crate::targets::{ColumnTarget, TableTarget};

/// The text of a targets.toml: what `before` registers and excludes stays, and every column that was found and can be
/// registered is added. What cannot be, and what was not looked into, stands in comments with the reason.
pub fn targets_file(report: &ScanReport, before: &Targets) -> String {
    let mut text = String::from(
        "# Written by `keyturn db scan`. Read it before it is used: additional authenticated data cannot be seen from\n\
         # outside, so add `aad` to the columns for which the application gives any (docs/database.md).\n\
         version = 1\n",
    );
    let mut tables: BTreeMap<String, TableTarget> =
        before.tables().iter().map(|table| (table.label(), table.clone())).collect();
    let mut left = Vec::new();
    for found in &report.found {
        match (found.state, &found.obstacle, found.encoding) {
            (ColumnState::Registered | ColumnState::Excluded, _, _) => {}
            (ColumnState::Unregistered, None, Some(encoding)) => {
                let table = tables.entry(found.table.clone()).or_insert_with(|| TableTarget {
                    schema: found.schema.clone(),
                    name: found.name.clone(),
                    key: found.key.clone(),
                    columns: Vec::new(),
                });
                table.columns.push(ColumnTarget { encoding, ..ColumnTarget::raw(&found.column) });
                if let Some(rights) = &found.missing_rights {
                    left.push(format!("{}.{} is registered, but {rights}.", found.table, found.column));
                }
            }
            (ColumnState::Unregistered, obstacle, _) => {
                let why = obstacle.as_deref().unwrap_or("its encoding is not known");
                left.push(format!(
                    "{}.{} CANNOT BE REGISTERED: {why}. Mend that, or add an [[exclude]] with the reason.",
                    found.table, found.column
                ));
            }
            (ColumnState::Unaffected, _, _) => {
                let what: Vec<String> =
                    found.values.iter().map(|group| format!("{} × {}", group.values, group.kind)).collect();
                left.push(format!(
                    "{}.{} is left out: the farm's key opens none of its values ({}).",
                    found.table,
                    found.column,
                    what.join(", ")
                ));
            }
        }
    }
    left.extend(report.registered_problems.iter().map(|problem| format!("{problem}.")));
    for unseen in &report.not_looked_into {
        let column = unseen.column.as_ref().map_or(String::new(), |column| format!(".{column}"));
        left.push(format!("{}{column} was not looked into: {}.", unseen.table, unseen.reason));
    }
    if tables.is_empty() {
        left.insert(0, "Nothing was found that can be registered, so this file is refused as it is.".to_owned());
    }
    for line in &left {
        // One line whatever a name holds: a line end would begin something else.
        let _ = writeln!(text, "# {}", line.replace(char::is_control, " "));
    }
    for table in tables.values() {
        write_table(&mut text, table);
    }
    write_excludes(&mut text, before);
    text
}

fn write_table(text: &mut String, table: &TableTarget) {
    text.push_str("\n[[table]]\n");
    if let Some(schema) = &table.schema {
        let _ = writeln!(text, "schema = {}", quoted(schema));
    }
    let _ = writeln!(text, "name = {}\nkey = [{}]", quoted(&table.name), list(&table.key));
    for column in &table.columns {
        let encoding = match column.encoding {
            Encoding::Raw => "raw",
            Encoding::Base64 => "base64",
        };
        let _ = writeln!(text, "\n[[table.column]]\nname = {}\nencoding = \"{encoding}\"", quoted(&column.name));
        if !column.aad.as_bytes().is_empty() {
            let _ = writeln!(text, "aad = {}", quoted(&String::from(column.aad.clone())));
        }
    }
}

fn write_excludes(text: &mut String, before: &Targets) {
    for exclude in before.excludes() {
        text.push_str("\n[[exclude]]\n");
        if let Some(schema) = &exclude.schema {
            let _ = writeln!(text, "schema = {}", quoted(schema));
        }
        let _ = writeln!(text, "table = {}\ncolumns = [{}]", quoted(&exclude.table), list(&exclude.columns));
        let _ = writeln!(text, "reason = {}", quoted(&exclude.reason));
    }
}

fn list(names: &[String]) -> String {
    names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
}

/// A string of TOML, with everything escaped that must be.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use keys::value::ValueKind;
    use rotation::NotLookedInto;

    use super::*;
    use crate::scan::{ScannedColumn, ValueGroup};

    fn column(table: &str, column: &str, state: ColumnState, obstacle: Option<&str>) -> ScannedColumn {
        let kind =
            if state == ColumnState::Unaffected { ValueKind::PasswordHash } else { ValueKind::SymmetricCiphertext };
        ScannedColumn {
            table: table.to_owned(),
            schema: None,
            name: table.to_owned(),
            key: vec!["id".to_owned()],
            column: column.to_owned(),
            data_type: "text".to_owned(),
            state,
            encoding: Some(Encoding::Base64),
            obstacle: obstacle.map(str::to_owned),
            missing_rights: None,
            values: vec![ValueGroup { kind, version: 2, encoding: "base64", values: 7 }],
        }
    }

    #[test]
    fn what_is_written_can_be_read_and_keeps_what_was_there() {
        let before = Targets::parse(
            "version = 1\n[[table]]\nname = \"t\"\nkey = [\"id\"]\n[[table.column]]\nname = \"c\"\naad = \"x\"\n\
             [[exclude]]\ntable = \"mail\"\ncolumns = [\"body\"]\nreason = \"a \\\"quoted\\\" one\"",
        )
        .unwrap();
        let report = ScanReport {
            database: "postgres".to_owned(),
            tables: 4,
            columns: 9,
            found: vec![
                column("t", "c", ColumnState::Registered, None),
                column("t", "new \"one\"\n", ColumnState::Unregistered, None),
                column("u", "d", ColumnState::Unregistered, None),
                column("keyless", "e", ColumnState::Unregistered, Some("its table has no primary key")),
                column("users", "hash", ColumnState::Unaffected, None),
            ],
            registered_problems: vec!["table t is\nno table".to_owned()],
            not_looked_into: vec![NotLookedInto {
                table: "evil\nversion = 2".to_owned(),
                column: None,
                reason: "no USAGE".to_owned(),
            }],
            own_tables: Vec::new(),
        };
        let text = targets_file(&report, &before);
        let read = Targets::parse(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert_eq!(read.excludes(), before.excludes());
        let table = read.table("t").unwrap();
        assert_eq!(table.columns[0], before.tables()[0].columns[0]);
        assert_eq!(table.columns[1].name, "new \"one\"\n");
        assert_eq!(read.table("u").unwrap().columns[0].encoding, Encoding::Base64);
        assert!(read.table("keyless").is_none());
        for said in [
            "# keyless.e CANNOT BE REGISTERED: its table has no primary key",
            "7 × password hash",
            "# table t is no table.",
            "# evil version",
        ] {
            assert!(text.contains(said), "{said}: {text}");
        }
    }
}
