//! What `SHOW CREATE TABLE` says of a table, taken apart as far as a copy needs it.

use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Row as _};

use super::super::quote;
use crate::EngineError;
use crate::error::Doing;

/// Words of definitions that a copy would not have, or not have alike, and what they are.
const UNFIT: [(&str, &str); 7] = [
    ("PARTITION BY ", "it is partitioned"),
    (" WITH SYSTEM VERSIONING", "it is system-versioned"),
    (" GENERATED ALWAYS AS ", "it has a generated column"),
    ("  FULLTEXT KEY ", "it has a full-text index"),
    ("  SPATIAL KEY ", "it has a spatial index"),
    (" FOREIGN KEY ", "it has a foreign key"),
    (" DIRECTORY=", "its data stand in a folder of their own"),
];

/// A table's definition without its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Definition {
    /// Without the next number of its AUTO_INCREMENT column.
    pub(super) text: String,
    /// Secondary indexes as `ALTER TABLE … ADD` takes them, in their order.
    pub(super) indexes: Vec<String>,
    /// The next number; 1 where none has been given out, and where there is no such column.
    pub(super) next_number: u64,
}

impl Definition {
    pub(super) async fn of(connection: &mut MySqlConnection, name: &str) -> Result<Self, EngineError> {
        let doing = || format!("reading the definition of {name}");
        // Reviewed: a quoted identifier only.
        let sql = format!("SHOW CREATE TABLE {}", quote(name));
        let row = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(connection).await.doing(doing)?;
        let text: String = row.try_get(1).doing(doing)?;
        Self::parse(name, &text).ok_or_else(|| EngineError::ShadowState {
            table: name.to_owned(),
            problem: "has a definition of a form that is not understood".to_owned(),
        })
    }

    fn parse(name: &str, text: &str) -> Option<Self> {
        let text = text.strip_prefix("CREATE TABLE ")?.strip_prefix(quote(name).as_str())?;
        let indexes = text
            .lines()
            .filter_map(|line| line.strip_prefix("  "))
            .filter(|line| line.starts_with("KEY ") || line.starts_with("UNIQUE KEY "))
            .map(|line| line.strip_suffix(',').unwrap_or(line).to_owned())
            .collect();
        let (columns, options) = text.rsplit_once("\n) ENGINE=InnoDB")?;
        let (next_number, options) = match options.strip_prefix(" AUTO_INCREMENT=") {
            None => (1, options),
            Some(numbered) => {
                let end = numbered.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(numbered.len());
                (numbered[..end].parse().ok()?, &numbered[end..])
            }
        };
        Some(Self { text: format!("{columns}\n) ENGINE=InnoDB{options}"), indexes, next_number })
    }

    /// Why a table that is defined like this cannot be copied exactly.
    pub(super) fn unfit(&self) -> Option<&'static str> {
        // The server shows a backslash as two, also to sessions in which it means nothing, and takes two as two.
        if self.indexes.iter().any(|index| index.contains('\\')) {
            return Some("an index has a backslash in its name or comment");
        }
        let text = without_quoted(&self.text);
        UNFIT.iter().find(|(word, _)| text.contains(word)).map(|(_, problem)| *problem)
    }

    /// What makes a copy what the original is; nothing when it has all indexes and gives out no number twice.
    pub(super) fn completion(&self, copy: &Self) -> Vec<String> {
        let missing = self.indexes.iter().filter(|index| !copy.indexes.contains(index));
        let mut changes: Vec<String> = missing.map(|index| format!("ADD {index}")).collect();
        if copy.next_number < self.next_number {
            changes.push(format!("AUTO_INCREMENT = {}", self.next_number));
        }
        changes
    }

    /// The first line in which they differ. The copy may be ahead in its numbers: rows that were given theirs by
    /// hand count when they are inserted.
    pub(super) fn difference(&self, copy: &Self) -> Option<String> {
        if copy.next_number < self.next_number {
            return Some(format!("its next number is {}, and not {}", copy.next_number, self.next_number));
        }
        if self.text == copy.text {
            return None;
        }
        let (mut lines, mut others) = (self.text.lines(), copy.text.lines());
        loop {
            match (lines.next(), others.next()) {
                (None, None) => return Some("their ends of lines".to_owned()),
                (line, other) if line == other => {}
                (line, other) => {
                    let text =
                        |line: Option<&str>| line.map_or_else(|| "nothing".to_owned(), |line| format!("{line:?}"));
                    return Some(format!("{} has become {}", text(line), text(other)));
                }
            }
        }
    }
}

/// Without what stands within quotes, as the server writes them: doubled inside, or after a backslash in a text.
fn without_quoted(text: &str) -> String {
    let mut bare = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        bare.push(letter);
        if !matches!(letter, '\'' | '`') {
            continue;
        }
        while let Some(inner) = letters.next() {
            if inner == letter {
                break;
            }
            if inner == '\\' && letter == '\'' {
                letters.next();
            }
        }
        bare.push(letter);
    }
    bare
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGINAL: &str = "CREATE TABLE `a``b` (\n  `id` int(11) NOT NULL AUTO_INCREMENT,\n  `c` longblob DEFAULT NULL,\n  \
        PRIMARY KEY (`id`),\n  UNIQUE KEY `u` (`c`(9)),\n  KEY `k` (`id` DESC,`c`(3)) COMMENT 'x, y'\n\
        ) ENGINE=InnoDB AUTO_INCREMENT=77 DEFAULT CHARSET=utf8mb4 COMMENT='AUTO_INCREMENT=5'";

    #[test]
    fn a_bare_copy_is_completed_with_all_indexes_in_their_order() {
        let original = Definition::parse("a`b", ORIGINAL).unwrap();
        assert_eq!(original.next_number, 77);
        let bare = Definition { indexes: Vec::new(), next_number: 1, ..original.clone() };
        let changes = original.completion(&bare);
        assert_eq!(
            changes,
            ["ADD UNIQUE KEY `u` (`c`(9))", "ADD KEY `k` (`id` DESC,`c`(3)) COMMENT 'x, y'", "AUTO_INCREMENT = 77"]
        );
        assert_eq!(original.completion(&original), Vec::<String>::new());
        assert!(original.difference(&bare).is_some());
        let ahead = Definition { next_number: 78, ..original.clone() };
        assert_eq!(original.difference(&ahead), None);
    }

    #[test]
    fn an_index_that_the_server_would_not_read_as_it_shows_it_is_not_copied() {
        let fit = Definition::parse("a`b", ORIGINAL).unwrap();
        assert_eq!(fit.unfit(), None);
        let unfit = Definition::parse("a`b", &ORIGINAL.replace("x, y", "x\\\\y")).unwrap();
        assert!(unfit.unfit().is_some_and(|problem| problem.contains("backslash")));
    }

    #[test]
    fn a_line_that_differs_is_named() {
        let original = Definition::parse("a`b", ORIGINAL).unwrap();
        let other = Definition::parse("a`b", &ORIGINAL.replace("longblob", "blob")).unwrap();
        assert!(original.difference(&other).is_some_and(|what| what.contains("longblob")));
        assert_eq!(Definition::parse("b", ORIGINAL), None, "another name");
    }

    #[test]
    fn words_within_quotes_say_nothing_of_the_table() {
        let column = |text: &str| {
            format!("CREATE TABLE `a` (\n  `id` int NOT NULL {text}\n) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4")
        };
        let unfit = |text: &str| Definition::parse("a", &column(text)).expect("is understood").unfit();
        for text in
            ["COMMENT 'a FOREIGN KEY to users'", r"DEFAULT 'it''s \' FOREIGN KEY '", "COMMENT ' FOREIGN KEY \\\\'"]
        {
            assert_eq!(unfit(text), None, "{text}");
        }
        for text in [
            "COMMENT 'one',\n  CONSTRAINT `k` FOREIGN KEY (`id`)",
            "COMMENT '\\\\',\n  CONSTRAINT `k` FOREIGN KEY (`id`)",
        ] {
            assert_eq!(unfit(text), Some("it has a foreign key"), "{text}");
        }
    }
}
