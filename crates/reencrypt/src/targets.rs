//! `targets.toml`: which tables and columns hold ciphertexts, and how they are stored.

mod exclude;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use keys::value::Encoding;
use rotation::Digest;
use serde::{Deserialize, Serialize};

pub use exclude::Exclude;

/// The version of the format that this release reads.
const VERSION: u32 = 1;

/// More columns in one table than any application encrypts; keeps a batch's parameters far below the drivers' limits.
pub(crate) const COLUMNS_MAX: usize = 32;

/// A file that registers ten thousand tables has this size; what is larger is another file, or has no end.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Longer additional data than any application binds; it is kept in memory and hashed with every value.
const AAD_BYTES_MAX: usize = 1024;

/// Which tables and columns hold ciphertexts. Tables are in the order of their labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Targets {
    tables: Vec<TableTarget>,
    excludes: Vec<Exclude>,
}

/// One registered table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableTarget {
    /// The schema, exactly as the database has it; `public` (PostgreSQL) or `main` (SQLite) when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// The table, exactly as the database has it; case counts.
    pub name: String,
    /// The columns of the primary key, in its order.
    pub key: Vec<String>,
    /// The encrypted columns.
    #[serde(rename = "column")]
    pub columns: Vec<ColumnTarget>,
}

/// One registered column.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnTarget {
    /// The column, exactly as the database has it; case counts.
    pub name: String,
    /// How ciphertexts are stored in it; `raw` when absent.
    #[serde(default = "raw")]
    pub encoding: Encoding,
    /// The additional authenticated data that the application gives with every value of this column, if any.
    #[serde(default, skip_serializing_if = "Aad::is_empty")]
    pub aad: Aad,
}

impl ColumnTarget {
    /// A column of raw ciphertexts without additional data.
    pub(crate) fn raw(name: &str) -> Self {
        Self { name: name.to_owned(), encoding: raw(), aad: Aad::default() }
    }
}

/// Additional authenticated data: plain text, or `hex:` and hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Aad(Vec<u8>);

impl Aad {
    /// The bytes as the cipher takes them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryFrom<String> for Aad {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let bytes = match text.strip_prefix("hex:") {
            Some(digits) => hex::decode(digits).map_err(|_| format!("aad {text:?} is not `hex:` and whole bytes"))?,
            None => text.into_bytes(),
        };
        if bytes.len() > AAD_BYTES_MAX {
            return Err(format!("aad has {} bytes, and at most {AAD_BYTES_MAX} are supported", bytes.len()));
        }
        Ok(Self(bytes))
    }
}

impl From<Aad> for String {
    fn from(aad: Aad) -> Self {
        // One canonical form, so that equal bytes give equal digests however they were written.
        format!("hex:{}", hex::encode(aad.0))
    }
}

/// Why targets.toml cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TargetsError {
    /// The file cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not a file, or larger than any that registers tables.
    #[error("{} is no targets.toml: it is not a file of at most {FILE_BYTES_MAX} bytes", .0.display())]
    NoFile(PathBuf),
    /// Not TOML, or not of this form.
    #[error("targets.toml is not of the form that docs/database.md describes")]
    Syntax(#[source] Box<toml::de::Error>),
    /// Written for another release.
    #[error("targets.toml has version {0}, and this release reads version {VERSION}")]
    Version(u32),
    /// It registers nothing, so that a rotation would change nothing and look complete.
    #[error("targets.toml registers no table; add a [[table]] with its key and columns")]
    NoTables,
    /// A table without what makes it usable.
    #[error("table {table} in targets.toml {problem}")]
    Table {
        /// Its label.
        table: String,
        /// What is wrong, as the end of a sentence.
        problem: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    #[serde(default, rename = "table")]
    tables: Vec<TableTarget>,
    #[serde(default, rename = "exclude")]
    excludes: Vec<Exclude>,
}

impl Targets {
    /// Reads the file's text.
    pub fn parse(text: &str) -> Result<Self, TargetsError> {
        let file: File = toml::from_str(text).map_err(|error| TargetsError::Syntax(Box::new(error)))?;
        if file.version != VERSION {
            return Err(TargetsError::Version(file.version));
        }
        if file.tables.is_empty() {
            return Err(TargetsError::NoTables);
        }
        let mut labels = BTreeSet::new();
        for table in &file.tables {
            let refuse = |problem: String| Err(TargetsError::Table { table: table.label(), problem });
            if let Some(problem) = table.problem() {
                return refuse(problem);
            }
            if !labels.insert(table.label()) {
                return refuse("is registered twice; put all its columns under one [[table]]".to_owned());
            }
        }
        let mut seen = BTreeSet::new();
        for exclude in &file.excludes {
            if let Some(problem) = exclude.problem(&file.tables, &mut seen) {
                return Err(TargetsError::Table { table: exclude.label(), problem });
            }
        }
        let (mut tables, mut excludes) = (file.tables, file.excludes);
        tables.sort_by_key(TableTarget::label);
        excludes.sort();
        Ok(Self { tables, excludes })
    }

    /// Reads the file.
    pub fn load(path: &Path) -> Result<Self, TargetsError> {
        let unread = |source| TargetsError::Read { path: path.to_owned(), source };
        // Looked at before it is opened: opening a pipe waits for who writes to it.
        if !fs::metadata(path).map_err(unread)?.is_file() {
            return Err(TargetsError::NoFile(path.to_owned()));
        }
        let mut text = String::new();
        fs::File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
            .map_err(unread)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(TargetsError::NoFile(path.to_owned()));
        }
        Self::parse(&text)
    }

    /// The registered tables, in the order of their labels.
    pub fn tables(&self) -> &[TableTarget] {
        &self.tables
    }

    /// The table of this label.
    pub fn table(&self, label: &str) -> Option<&TableTarget> {
        self.tables.iter().find(|table| table.label() == label)
    }

    /// Columns that hold ciphertexts and stay as they are.
    pub fn excludes(&self) -> &[Exclude] {
        &self.excludes
    }

    /// Nothing at all, for who only looks.
    pub const fn none() -> Self {
        Self { tables: Vec::new(), excludes: Vec::new() }
    }

    /// This table alone.
    pub(crate) fn only(table: TableTarget) -> Self {
        Self { tables: vec![table], excludes: Vec::new() }
    }

    /// The digest of what is registered; comments, spacing and the order of tables do not count.
    pub fn digest(&self) -> Digest {
        let canonical = match self.excludes.as_slice() {
            // As before there were any, so that a file that has none keeps its digest.
            [] => serde_json::to_vec(&(VERSION, &self.tables)),
            excludes => serde_json::to_vec(&(VERSION, &self.tables, excludes)),
        };
        let canonical = canonical.expect("plain strings always have a JSON form");
        Digest::new(blake3::derive_key("keyturn targets v1", &canonical))
    }
}

impl TableTarget {
    /// The name by which plan, shards and messages call the table: `schema.name`, or `name` when no schema is given.
    /// A part that holds a dot or a quote is put in double quotes, so that no two tables share a label.
    pub fn label(&self) -> String {
        label(self.schema.as_deref(), &self.name)
    }

    pub(crate) fn problem(&self) -> Option<String> {
        let mut names: Vec<&String> = self.schema.iter().chain([&self.name]).chain(&self.key).collect();
        names.extend(self.columns.iter().map(|column| &column.name));
        if names.iter().any(|name| name.is_empty() || name.contains('\0')) {
            return Some("has an empty name, or one with a zero byte".to_owned());
        }
        if self.key.is_empty() {
            return Some("has no key; list the columns of its primary key".to_owned());
        }
        if self.columns.is_empty() {
            return Some("has no column; add a [[table.column]] for every encrypted one".to_owned());
        }
        if self.columns.len() > COLUMNS_MAX || self.key.len() > COLUMNS_MAX {
            return Some(format!("has more than {COLUMNS_MAX} columns"));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = self.key.iter().find(|name| !seen.insert(*name)) {
            return Some(format!("lists {twice:?} twice in its key"));
        }
        for column in &self.columns {
            if self.key.contains(&column.name) {
                return Some(format!("has {:?} both in its key and as an encrypted column", column.name));
            }
            if !seen.insert(&column.name) {
                return Some(format!("lists the column {:?} twice", column.name));
            }
        }
        None
    }
}

const fn raw() -> Encoding {
    Encoding::Raw
}

pub(crate) fn label(schema: Option<&str>, name: &str) -> String {
    match schema {
        Some(schema) => format!("{}.{}", label_part(schema), label_part(name)),
        None => label_part(name),
    }
}

fn label_part(name: &str) -> String {
    if name.contains(['.', '"']) { format!("\"{}\"", name.replace('"', "\"\"")) } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SMALL: &str = r#"
        version = 1
        [[table]]
        name = "connections"
        key = ["id"]
        [[table.column]]
        name = "password"
    "#;

    fn problem_of(tables: &str) -> String {
        Targets::parse(&format!("version = 1\n{tables}")).unwrap_err().to_string()
    }

    #[test]
    fn columns_are_raw_and_without_aad_unless_said_otherwise() {
        let targets = Targets::parse(SMALL).unwrap();
        let column = &targets.tables()[0].columns[0];
        assert_eq!((column.encoding, column.aad.as_bytes()), (Encoding::Raw, &[][..]));
    }

    #[test]
    fn the_digest_is_of_the_content_and_not_of_the_text() {
        let commented = format!("# a comment\n{SMALL}\n\n");
        let digest = |text: &str| Targets::parse(text).unwrap().digest();
        assert_eq!(digest(SMALL), digest(&commented));
        assert_ne!(digest(SMALL), digest(&SMALL.replace("password", "secret")));
        let aad = |aad: &str| digest(&format!("{SMALL}\naad = \"{aad}\""));
        assert_eq!(aad("A"), aad("hex:41"));
        assert_ne!(aad("A"), digest(SMALL));
    }

    #[test]
    fn the_order_of_tables_does_not_count() {
        let table =
            |name: &str| format!("[[table]]\nname = \"{name}\"\nkey = [\"id\"]\n[[table.column]]\nname = \"c\"\n");
        let parse = |tables: [&str; 2]| {
            Targets::parse(&format!("version = 1\n{}{}", table(tables[0]), table(tables[1]))).unwrap()
        };
        assert_eq!(parse(["a", "b"]), parse(["b", "a"]));
        assert_eq!(parse(["a", "b"]).digest(), parse(["b", "a"]).digest());
    }

    #[test]
    fn labels_tell_every_two_tables_apart() {
        let label = |schema: Option<&str>, name: &str| {
            let schema = schema.map(str::to_owned);
            TableTarget { schema, name: name.to_owned(), key: vec![], columns: vec![] }.label()
        };
        assert_eq!(label(Some("vault"), "Entries"), "vault.Entries");
        assert_eq!(label(None, "vault.Entries"), "\"vault.Entries\"");
        assert_ne!(label(Some("a.b"), "c"), label(Some("a"), "b.c"));
        assert_ne!(label(Some("a\".\"b"), "c"), label(Some("a"), "b\".\"c"));
    }

    #[test]
    fn every_refusal_names_the_table_and_what_is_wrong_with_it() {
        let table = "[[table]]\nname = \"t\"\n";
        let column = "[[table.column]]\nname = \"c\"\n";
        for (tables, expected) in [
            (format!("{table}key = []\n{column}"), "has no key"),
            (format!("{table}key = [\"id\"]\ncolumn = []\n"), "has no column"),
            (format!("{table}key = [\"id\", \"id\"]\n{column}"), "lists \"id\" twice in its key"),
            (format!("{table}key = [\"c\"]\n{column}"), "both in its key and as an encrypted column"),
            (format!("{table}key = [\"id\"]\n{column}{column}"), "lists the column \"c\" twice"),
            (format!("{table}key = [\"\"]\n{column}"), "has an empty name"),
            (format!("{table}key=[\"id\"]\n{column}{table}key=[\"id\"]\n{column}"), "is registered twice"),
        ] {
            let problem = problem_of(&tables);
            assert!(problem.contains("table t ") && problem.contains(expected), "{problem}");
        }
    }

    #[test]
    fn another_version_an_empty_file_and_unknown_words_are_refused() {
        assert!(matches!(Targets::parse("version = 2"), Err(TargetsError::Version(2))));
        assert!(matches!(Targets::parse("version = 1"), Err(TargetsError::NoTables)));
        assert!(matches!(Targets::parse(""), Err(TargetsError::Syntax(_))));
        let unknown = SMALL.replace("name = \"password\"", "name = \"password\"\nencodign = \"base64\"");
        assert!(matches!(Targets::parse(&unknown), Err(TargetsError::Syntax(_))));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Targets::load(Path::new("/nowhere/targets.toml")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/targets.toml"));
    }

    #[test]
    fn what_is_no_file_or_has_no_end_is_refused_without_being_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("targets.toml");
        let refused = |expected: &str| {
            let error = Targets::load(&path).unwrap_err().to_string();
            assert!(error.contains(expected) && error.len() < 300, "{error}");
        };
        for device in ["/dev/zero", "/"] {
            std::os::unix::fs::symlink(device, &path).unwrap();
            refused("not a file");
            fs::remove_file(&path).unwrap();
        }
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        refused("not a file");
        fs::remove_file(&path).unwrap();
        let largest = format!("{SMALL}\n{}", "#".repeat(4 * 1024 * 1024 - SMALL.len() - 1));
        fs::write(&path, &largest).unwrap();
        assert_eq!(Targets::load(&path).unwrap(), Targets::parse(SMALL).unwrap());
        fs::write(&path, format!("{largest}#")).unwrap();
        refused("at most 4194304 bytes");
        fs::write(&path, b"version = 1 # \xff").unwrap();
        refused("cannot be read");
    }

    fn any_name() -> impl Strategy<Value = String> {
        prop_oneof!["[a-z_]{1,8}", "\\PC{1,8}"].prop_filter("names are not empty", |name| !name.is_empty())
    }

    fn any_table() -> impl Strategy<Value = TableTarget> {
        let encoding = prop_oneof![Just(Encoding::Raw), Just(Encoding::Base64)];
        let column = (any_name(), encoding, proptest::collection::vec(any::<u8>(), 0..8))
            .prop_map(|(name, encoding, aad)| ColumnTarget { name, encoding, aad: Aad(aad) });
        let key = proptest::collection::vec(any_name(), 0..4);
        let columns = proptest::collection::vec(column, 0..4);
        (proptest::option::of(any_name()), any_name(), key, columns)
            .prop_map(|(schema, name, key, columns)| TableTarget { schema, name, key, columns })
    }

    #[derive(Serialize)]
    struct Written {
        version: u32,
        table: Vec<TableTarget>,
    }

    proptest! {
        /// What the loader accepts it holds exactly, and it accepts all that breaks no rule.
        #[test]
        fn whatever_can_be_registered_is_read_back_exactly(tables in proptest::collection::vec(any_table(), 1..4)) {
            let labels: BTreeSet<String> = tables.iter().map(TableTarget::label).collect();
            let valid = labels.len() == tables.len() && tables.iter().all(|table| table.problem().is_none());
            let text = toml::to_string(&Written { version: 1, table: tables.clone() }).unwrap();
            match Targets::parse(&text) {
                Ok(targets) => {
                    prop_assert!(valid);
                    let mut sorted = tables;
                    sorted.sort_by_key(TableTarget::label);
                    prop_assert_eq!(targets.tables(), &sorted[..]);
                    for table in &sorted {
                        prop_assert_eq!(targets.table(&table.label()), Some(table));
                    }
                }
                Err(TargetsError::Table { .. }) => prop_assert!(!valid),
                Err(other) => prop_assert!(false, "{other}"),
            }
        }

        #[test]
        fn no_text_makes_the_loader_panic(text in "\\PC*") {
            let _ = Targets::parse(&text);
        }
    }
}
