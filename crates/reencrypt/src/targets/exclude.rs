//! Columns that hold ciphertexts and are not this farm's: named, with the reason, so that a survey that meets them knows
//! that nobody forgot them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{TableTarget, label};

/// Columns of one table that stay as they are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exclude {
    /// The schema, exactly as the database has it; `public` (PostgreSQL) or `main` (SQLite) when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// The table, exactly as the database has it; case counts.
    pub table: String,
    /// The columns.
    pub columns: Vec<String>,
    /// Why, for whoever reads the file after you.
    pub reason: String,
}

impl Exclude {
    /// The table's label, as [`TableTarget::label`].
    pub fn label(&self) -> String {
        label(self.schema.as_deref(), &self.table)
    }

    /// A column as messages call it.
    pub(crate) fn place(&self, column: &str) -> String {
        format!("{}.{column}", self.label())
    }

    /// What is wrong with it, as the end of a sentence that begins with its table. `seen` holds the places that were
    /// excluded before.
    pub(super) fn problem(&self, tables: &[TableTarget], seen: &mut BTreeSet<String>) -> Option<String> {
        let mut names = self.schema.iter().chain([&self.table]).chain(&self.columns);
        if names.any(|name| name.is_empty() || name.contains('\0')) {
            return Some("is excluded with an empty name, or one with a zero byte".to_owned());
        }
        if self.columns.is_empty() {
            return Some("is excluded without columns; list those that stay as they are".to_owned());
        }
        if self.reason.trim().is_empty() {
            return Some("is excluded without a reason; write why, for whoever reads this next".to_owned());
        }
        let registered = tables.iter().find(|table| table.label() == self.label());
        for column in &self.columns {
            if registered.is_some_and(|table| table.columns.iter().any(|own| own.name == *column)) {
                return Some(format!("has the column {column:?} both registered and excluded"));
            }
            if !seen.insert(self.place(column)) {
                return Some(format!("has the column {column:?} excluded twice"));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use crate::Targets;

    const REGISTERED: &str = "version = 1\n[[table]]\nname = \"t\"\nkey = [\"id\"]\n[[table.column]]\nname = \"c\"\n";

    fn parse(exclude: &str) -> Result<Targets, String> {
        Targets::parse(&format!("{REGISTERED}{exclude}")).map_err(|error| error.to_string())
    }

    #[test]
    fn excluded_columns_are_held_and_count_in_the_digest() {
        let with = parse("[[exclude]]\ntable = \"mail\"\ncolumns = [\"body\"]\nreason = \"another farm's\"").unwrap();
        assert_eq!((with.excludes()[0].label().as_str(), with.excludes()[0].columns.len()), ("mail", 1));
        let without = parse("").unwrap();
        assert_ne!(with.digest(), without.digest());
        let other = parse("[[exclude]]\ntable = \"mail\"\ncolumns = [\"body\"]\nreason = \"obsolete\"").unwrap();
        assert_ne!(with.digest(), other.digest());
    }

    #[test]
    fn every_refusal_says_what_is_wrong() {
        for (exclude, said) in [
            ("table = \"t\"\ncolumns = [\"c\"]\nreason = \"x\"", "table t in targets.toml has the column \"c\" both"),
            ("table = \"u\"\ncolumns = []\nreason = \"x\"", "without columns"),
            ("table = \"u\"\ncolumns = [\"d\", \"d\"]\nreason = \"x\"", "excluded twice"),
            ("table = \"u\"\ncolumns = [\"\"]\nreason = \"x\"", "empty name"),
            ("table = \"u\"\ncolumns = [\"d\"]\nreason = \" \"", "without a reason"),
            ("table = \"u\"\ncolumns = [\"d\"]", "docs/database.md"),
            ("name = \"u\"\ncolumns = [\"d\"]\nreason = \"x\"", "docs/database.md"),
        ] {
            let problem = parse(&format!("[[exclude]]\n{exclude}")).unwrap_err();
            assert!(problem.contains(said), "{exclude}: {problem}");
        }
    }
}
