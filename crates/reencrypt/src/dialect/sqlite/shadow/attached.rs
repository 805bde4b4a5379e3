//! A table with everything that decides how its rows and indexes are stored, as SQLite's own schema tells it.

use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::super::catalog::ROWID_NAMES;
use super::index_name;
use crate::EngineError;
use crate::error::Doing;

const COLUMNS: &str = "
    SELECT format('%s %s notnull %d default %Q key %d hidden %d', name, type, \"notnull\", dflt_value, pk, hidden), name
    FROM pragma_table_xinfo(?) ORDER BY cid";

const INDEXES: &str = "
    SELECT l.name, l.\"unique\", l.origin, l.partial, m.sql, m.rootpage,
           (SELECT group_concat(format('%d %d %s %d %s %d', x.seqno, x.cid, x.name, x.desc, x.coll, x.key), ';')
            FROM (SELECT * FROM pragma_index_xinfo(l.name) ORDER BY seqno) AS x)
    FROM pragma_index_list(?1) AS l
    LEFT JOIN main.sqlite_schema AS m ON m.type = 'index' AND m.name = l.name
    ORDER BY l.name";

/// A table and its indexes.
#[derive(Debug, Clone)]
pub(super) struct Attached {
    pub(super) name: String,
    pub(super) sql: String,
    pub(super) without_rowid: bool,
    strict: bool,
    root_page: i64,
    columns: Vec<String>,
    column_names: Vec<String>,
    indexes: Vec<Index>,
}

#[derive(Debug, Clone)]
pub(super) struct Index {
    pub(super) name: String,
    /// Its definition; none for one that a constraint brought.
    pub(super) sql: String,
    unique: bool,
    origin: String,
    partial: bool,
    /// None for the key of a table without rowid, which is the table itself.
    root_page: Option<i64>,
    parts: Option<String>,
}

impl Attached {
    pub(super) async fn read(connection: &mut SqliteConnection, name: &str) -> Result<Self, EngineError> {
        let doing = || format!("reading the definition of {name}");
        let row = sqlx::query(
            "SELECT m.sql, m.rootpage, l.wr, l.strict FROM main.sqlite_schema m
             JOIN pragma_table_list AS l ON l.schema = 'main' AND l.name = m.name
             WHERE m.type = 'table' AND m.name = ?",
        )
        .bind(name)
        .fetch_optional(&mut *connection)
        .await
        .doing(doing)?;
        let Some(row) = row else {
            let problem = format!("table {name} is not there any more");
            return Err(EngineError::Targets(vec![problem]));
        };
        let columns = sqlx::query(COLUMNS).bind(name).fetch_all(&mut *connection).await.doing(doing)?;
        let indexes = sqlx::query(INDEXES).bind(name).fetch_all(connection).await.doing(doing)?;
        let read = || {
            Ok(Self {
                name: name.to_owned(),
                sql: row.try_get(0)?,
                root_page: row.try_get(1)?,
                without_rowid: row.try_get(2)?,
                strict: row.try_get(3)?,
                columns: columns.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?,
                column_names: columns.iter().map(|row| row.try_get(1)).collect::<Result<_, _>>()?,
                indexes: indexes.iter().map(index).collect::<Result<_, _>>()?,
            })
        };
        read().doing(doing)
    }

    /// Those with a definition of their own, by name.
    pub(super) fn own_indexes(&self) -> impl Iterator<Item = &Index> {
        self.indexes.iter().filter(|index| index.origin == "c")
    }

    /// Whether a name is left under which the rowid can be read.
    pub(super) fn has_readable_rowid(&self) -> bool {
        ROWID_NAMES.iter().any(|name| !self.column_names.iter().any(|column| column.eq_ignore_ascii_case(name)))
    }

    /// The index that has this one's place in the copy.
    fn twin<'c>(&self, index: &Index, copy: &'c Self, copy_name: &str) -> Option<&'c Index> {
        let name = match index.name.strip_prefix("sqlite_autoindex_") {
            // Numbered behind the table's name.
            Some(_) => {
                let number = index.name.rsplit('_').next()?;
                format!("sqlite_autoindex_{copy_name}_{number}")
            }
            None => index_name(copy_name, self.own_indexes().position(|own| own.name == index.name)?),
        };
        copy.indexes.iter().find(|twin| twin.name == name)
    }

    /// What is not the same, if anything.
    pub(super) fn difference(&self, copy: &Self, copy_name: &str) -> Option<String> {
        if (self.without_rowid, self.strict) != (copy.without_rowid, copy.strict) {
            return Some("its options differ".to_owned());
        }
        if self.columns != copy.columns {
            return Some("its columns differ".to_owned());
        }
        if self.indexes.len() != copy.indexes.len() {
            return Some(format!("it has {} indexes instead of {}", copy.indexes.len(), self.indexes.len()));
        }
        for index in &self.indexes {
            let same = |twin: &Index| {
                twin.unique == index.unique
                    && twin.origin == index.origin
                    && twin.partial == index.partial
                    && twin.parts == index.parts
                    && twin.root_page.is_some() == index.root_page.is_some()
            };
            if !self.twin(index, copy, copy_name).is_some_and(same) {
                return Some(format!("it has nothing like index {}", index.name));
            }
        }
        None
    }

    /// Where the trees of table and indexes begin, here and in the copy: (type, name, page) of each.
    pub(super) fn root_pages<'a>(&'a self, copy: &'a Self) -> Vec<[(&'static str, &'a str, i64); 2]> {
        let mut pages = vec![[("table", self.name.as_str(), self.root_page), ("table", &copy.name, copy.root_page)]];
        for index in &self.indexes {
            let twin = self.twin(index, copy, &copy.name);
            if let (Some(page), Some((twin, twin_page))) =
                (index.root_page, twin.and_then(|twin| Some((twin, twin.root_page?))))
            {
                pages.push([("index", index.name.as_str(), page), ("index", &twin.name, twin_page)]);
            }
        }
        pages
    }
}

fn index(row: &SqliteRow) -> Result<Index, sqlx::Error> {
    Ok(Index {
        name: row.try_get(0)?,
        unique: row.try_get(1)?,
        origin: row.try_get(2)?,
        partial: row.try_get(3)?,
        sql: row.try_get::<Option<String>, _>(4)?.unwrap_or_default(),
        root_page: row.try_get(5)?,
        parts: row.try_get(6)?,
    })
}
