//! Looks through a whole database for values of devolutions-crypto, registered or not: what a rotation would leave behind
//! is found before it begins.

mod targets;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keys::value::{Encoding, ValueHeader, ValueKind};
use rotation::{NotLookedInto, Unseen};
use serde::Serialize;

use crate::dialect::found::{Form, Seen, SeenColumn, SeenTable, UnseenPlace};
use crate::dialect::{Dialect, Session};
use crate::engine::Progress;
use crate::targets::{COLUMNS_MAX, ColumnTarget, TableTarget, label};
use crate::{EngineError, Targets};

pub use targets::targets_file;

/// How often a survey says that it is still alive while the database counts: several times within the time after which
/// it would be given up.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// What every problem with a table says that is one of rights.
const OF_RIGHTS: [&str; 4] = [
    "the agent's role may not",
    "the agent's role has no USAGE",
    "let the agent's role turn triggers off",
    "give the agent's role BYPASSRLS",
];

/// What was found in a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScanReport {
    /// `postgres`, `mariadb` or `sqlite`.
    pub database: String,
    /// Tables that were looked into.
    pub tables: u64,
    /// Columns that were looked into.
    pub columns: u64,
    /// Columns that hold values of devolutions-crypto, by table and column.
    pub found: Vec<ScannedColumn>,
    /// Why registered tables cannot be turned as they are registered, such as one that does not exist. Rights that the role
    /// lacks are not among it: it may be another one than the agent's.
    pub registered_problems: Vec<String>,
    /// What was not looked into.
    pub not_looked_into: Vec<NotLookedInto>,
    /// Keyturn's own tables, passed over.
    pub own_tables: Vec<String>,
}

/// A column that holds values of devolutions-crypto.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScannedColumn {
    /// As plan and messages call the table.
    pub table: String,
    /// The schema, unless it is the one that targets.toml leaves out.
    pub schema: Option<String>,
    /// The table.
    pub name: String,
    /// The columns of its primary key, in order.
    pub key: Vec<String>,
    /// The column.
    pub column: String,
    /// Its type, as the database calls it.
    pub data_type: String,
    /// Whether a rotation turns it.
    pub state: ColumnState,
    /// The encoding with which it is or would be registered.
    pub encoding: Option<Encoding>,
    /// Why it cannot be registered.
    pub obstacle: Option<String>,
    /// Rights that the role lacks to turn it; a reason to grant them, and none not to register it.
    pub missing_rights: Option<String>,
    /// What it holds.
    pub values: Vec<ValueGroup>,
}

/// What a rotation makes of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ColumnState {
    /// targets.toml registers it: it is turned.
    Registered,
    /// targets.toml excludes it: it stays as it is, on purpose.
    Excluded,
    /// It holds values that the farm's key may open, and would be left behind: no rotation begins.
    Unregistered,
    /// It holds nothing that the farm's key opens.
    Unaffected,
}

impl ColumnState {
    /// In a word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Excluded => "excluded",
            Self::Unregistered => "unregistered",
            Self::Unaffected => "unaffected",
        }
    }
}

/// Values of one column that are alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ValueGroup {
    /// What they are.
    pub kind: ValueKind,
    /// Their version; 0 for those that are cut short before it.
    pub version: u16,
    /// How they stand in the column: `raw`, `base64`, `base64 unpadded`, `base64url`, `base64url unpadded`, `hex`,
    /// `within other text`, `array elements`, `part of a composite`, or `bound of a range`.
    pub encoding: &'static str,
    /// How many.
    pub values: u64,
}

/// Looks through everything that the role may read.
pub(crate) async fn scan(
    dialect: &dyn Dialect,
    registered: &Targets,
    progress: Progress<'_>,
) -> Result<ScanReport, EngineError> {
    check_excludes(dialect, registered).await?;
    let seen = see(dialect, progress).await?;
    let mut session = dialect.open().await?;
    let mut report = ScanReport {
        database: dialect.kind().to_string(),
        tables: seen.tables.len() as u64,
        columns: seen.tables.iter().map(|table| table.columns.len() as u64).sum(),
        found: Vec::new(),
        registered_problems: Vec::new(),
        not_looked_into: Vec::new(),
        own_tables: seen.own.clone(),
    };
    for (table, column, values) in holders(&seen) {
        let mut scanned = scanned(&seen, registered, table, column, values);
        if scanned.state != ColumnState::Unaffected && scanned.state != ColumnState::Registered {
            (scanned.obstacle, scanned.missing_rights) = obstacle(session.as_mut(), &scanned).await?;
        }
        report.found.push(scanned);
    }
    too_many(&mut report.found, registered);
    for target in registered.tables() {
        match problems(session.as_mut(), target.clone()).await {
            Ok((_, problems)) => report.registered_problems.extend(problems),
            // Damaged perhaps: the others are told all the same.
            Err(EngineError::Database { source: sqlx::Error::Database(error), .. }) => {
                report.registered_problems.push(format!("table {}: {}", target.label(), error.message()));
            }
            Err(error) => return Err(error),
        }
    }
    report.not_looked_into = not_looked_into(&seen);
    session.end().await;
    Ok(report)
}

/// What a table holds beyond as many columns as it may register cannot be.
fn too_many(found: &mut [ScannedColumn], registered: &Targets) {
    let mut columns: BTreeMap<String, usize> =
        registered.tables().iter().map(|table| (table.label(), table.columns.len())).collect();
    for scanned in found.iter_mut().filter(|found| found.state == ColumnState::Unregistered && found.obstacle.is_none())
    {
        let count = columns.entry(scanned.table.clone()).or_default();
        *count += 1;
        if *count > COLUMNS_MAX {
            scanned.obstacle = Some(format!("a table may register {COLUMNS_MAX} columns, and no more"));
        }
    }
}

fn not_looked_into(seen: &Seen) -> Vec<NotLookedInto> {
    let of = |unseen: &UnseenPlace| NotLookedInto {
        table: label(unseen.schema.as_deref(), &unseen.table),
        column: unseen.column.clone(),
        reason: unseen.reason.clone(),
    };
    seen.unseen.iter().map(of).collect()
}

/// Refuses a database that holds what a rotation would leave behind without anybody having said so, and excluded columns
/// that there are not. Answers what was not looked into.
pub(crate) async fn check(
    dialect: &dyn Dialect,
    registered: &Targets,
    progress: Progress<'_>,
) -> Result<Unseen, EngineError> {
    check_excludes(dialect, registered).await?;
    let seen = match see(dialect, progress).await {
        // A database that cannot be looked through is no reason not to turn what is registered.
        Err(EngineError::Unsupported(reason)) => {
            let all = NotLookedInto { table: "every table".to_owned(), column: None, reason };
            return Ok(Unseen::of(vec![all]));
        }
        seen => seen?,
    };
    let mut unregistered = Vec::new();
    for (table, column, values) in holders(&seen) {
        let scanned = scanned(&seen, registered, table, column, values);
        if scanned.state == ColumnState::Unregistered {
            let count: u64 =
                scanned.values.iter().filter(|group| group.kind.concerns_farm_key()).map(|group| group.values).sum();
            unregistered.push(format!("{}.{} ({count} values)", scanned.table, scanned.column));
        }
    }
    if unregistered.is_empty() {
        Ok(Unseen::of(not_looked_into(&seen)))
    } else {
        Err(EngineError::Unregistered(unregistered))
    }
}

/// Refuses excluded columns that there are not. One of which the role is shown nothing may be there.
pub(crate) async fn check_excludes(dialect: &dyn Dialect, registered: &Targets) -> Result<(), EngineError> {
    let missing = dialect.missing(registered.excludes()).await?;
    if missing.is_empty() {
        return Ok(());
    }
    let problem = |place: String| {
        format!(
            "the excluded column {place} does not exist (case counts): correct its name in [[exclude]], or take it out there"
        )
    };
    Err(EngineError::Targets(missing.into_iter().map(problem).collect()))
}

async fn see(dialect: &dyn Dialect, progress: Progress<'_>) -> Result<Seen, EngineError> {
    let seeing = dialect.see();
    tokio::pin!(seeing);
    loop {
        match tokio::time::timeout(HEARTBEAT, seeing.as_mut()).await {
            Ok(seen) => return seen,
            Err(_) => progress(0),
        }
    }
}

/// Every column that holds something, with what it holds.
fn holders(seen: &Seen) -> impl Iterator<Item = (&SeenTable, &SeenColumn, Vec<ValueGroup>)> {
    seen.tables.iter().flat_map(|table| {
        table.columns.iter().filter_map(move |column| {
            let values = groups(column);
            (!values.is_empty()).then_some((table, column, values))
        })
    })
}

fn groups(column: &SeenColumn) -> Vec<ValueGroup> {
    let mut groups: BTreeMap<(Form, ValueHeader), u64> = BTreeMap::new();
    for tagged in &column.tagged {
        let mut letters = tagged.tag.chars();
        let Some(form) = letters.next().and_then(Form::of_letter) else { continue };
        let mut inner = Some(form);
        while matches!(inner, Some(Form::Element | Form::Composite | Form::Range)) {
            inner = letters.next().and_then(Form::of_letter);
        }
        let header = match inner {
            Some(Form::Raw | Form::Hex) => ValueHeader::of_hex(&even(letters.as_str())),
            Some(Form::Base64 | Form::Base64Unpadded | Form::UrlSafe | Form::UrlSafeUnpadded | Form::Embedded) => {
                ValueHeader::of_base64(letters.as_str())
            }
            Some(Form::Element | Form::Composite | Form::Range) | None => None,
        };
        if let Some(header) = header {
            *groups.entry((form, header)).or_default() += tagged.values;
        }
    }
    let group = |((form, header), values): ((Form, ValueHeader), u64)| ValueGroup {
        kind: header.kind,
        version: header.version,
        encoding: encoding_name(form),
        values,
    };
    groups.into_iter().map(group).collect()
}

/// A half byte at the end of what was cut says nothing.
fn even(digits: &str) -> String {
    digits.chars().take(digits.len() / 2 * 2).collect::<String>().to_lowercase()
}

const fn encoding_name(form: Form) -> &'static str {
    match form {
        Form::Raw => "raw",
        Form::Base64 => "base64",
        Form::Base64Unpadded => "base64 unpadded",
        Form::UrlSafe => "base64url",
        Form::UrlSafeUnpadded => "base64url unpadded",
        Form::Hex => "hex",
        Form::Embedded => "within other text",
        Form::Element => "array elements",
        Form::Composite => "part of a composite",
        Form::Range => "bound of a range",
    }
}

/// The encoding of targets.toml for a form; `None` for what this release does not turn.
fn registrable(encoding: &str) -> Option<Encoding> {
    match encoding {
        "raw" => Some(Encoding::Raw),
        "base64" | "base64 unpadded" | "base64url" | "base64url unpadded" => Some(Encoding::Base64),
        _ => None,
    }
}

fn scanned(
    seen: &Seen,
    registered: &Targets,
    table: &SeenTable,
    column: &SeenColumn,
    values: Vec<ValueGroup>,
) -> ScannedColumn {
    let named = |schema: &Option<String>| schema.clone().filter(|_| *schema != seen.default_schema);
    let is_it = |schema: &Option<String>, name: &str| name == table.name && named(schema) == table.schema;
    let target: Option<&TableTarget> = registered.tables().iter().find(|target| is_it(&target.schema, &target.name));
    let own: Option<&ColumnTarget> =
        target.and_then(|target| target.columns.iter().find(|own| own.name == column.name));
    let excluded = registered
        .excludes()
        .iter()
        .any(|exclude| is_it(&exclude.schema, &exclude.table) && exclude.columns.contains(&column.name));
    let concerns = values.iter().any(|group| group.kind.concerns_farm_key());
    let state = match (own, excluded, concerns) {
        (Some(_), _, _) => ColumnState::Registered,
        (None, true, _) => ColumnState::Excluded,
        (None, false, true) => ColumnState::Unregistered,
        (None, false, false) => ColumnState::Unaffected,
    };
    let encoding = own.map(|own| own.encoding).or_else(|| commonest(&values));
    ScannedColumn {
        table: target.map_or_else(|| label(table.schema.as_deref(), &table.name), TableTarget::label),
        schema: table.schema.clone(),
        name: table.name.clone(),
        key: table.key.clone(),
        column: column.name.clone(),
        data_type: column.data_type.clone(),
        state,
        encoding,
        obstacle: None,
        missing_rights: None,
        values,
    }
}

/// The encoding in which most values stand that the farm's key may open.
fn commonest(values: &[ValueGroup]) -> Option<Encoding> {
    let count = |encoding: Encoding| -> u64 {
        let of = |group: &&ValueGroup| group.kind.concerns_farm_key() && registrable(group.encoding) == Some(encoding);
        values.iter().filter(of).map(|group| group.values).sum()
    };
    match (count(Encoding::Raw), count(Encoding::Base64)) {
        (0, 0) => None,
        (raw, base64) if raw >= base64 => Some(Encoding::Raw),
        _ => Some(Encoding::Base64),
    }
}

/// What stands against turning this table: rights that the role lacks, and everything else.
async fn problems(session: &mut dyn Session, target: TableTarget) -> Result<(Vec<String>, Vec<String>), EngineError> {
    match session.tables(&Targets::only(target)).await {
        Ok(_) => Ok((Vec::new(), Vec::new())),
        Err(EngineError::Targets(problems)) => {
            Ok(problems.into_iter().partition(|problem| OF_RIGHTS.iter().any(|right| problem.contains(right))))
        }
        Err(error) => Err(error),
    }
}

/// Why the column cannot be registered, as the engine itself would say it; and the rights that the role lacks.
async fn obstacle(
    session: &mut dyn Session,
    scanned: &ScannedColumn,
) -> Result<(Option<String>, Option<String>), EngineError> {
    let Some(encoding) = scanned.encoding else {
        let forms: BTreeSet<&str> = scanned.values.iter().map(|group| group.encoding).collect();
        let forms: Vec<&str> = forms.into_iter().collect();
        return Ok((Some(format!("its values stand as {}, which is not supported", forms.join(" and "))), None));
    };
    let column = ColumnTarget { encoding, ..ColumnTarget::raw(&scanned.column) };
    let target = TableTarget {
        schema: scanned.schema.clone(),
        name: scanned.name.clone(),
        key: scanned.key.clone(),
        columns: vec![column],
    };
    // One without a key is no table, or has none, which the database knows better.
    if let Some(problem) = target.problem().filter(|_| !target.key.is_empty()) {
        return Ok((Some(format!("its table {problem}")), None));
    }
    let (rights, mut obstacles) = problems(session, target).await?;
    let is_other =
        |group: &&ValueGroup| group.kind.concerns_farm_key() && registrable(group.encoding) != Some(encoding);
    let other: u64 = scanned.values.iter().filter(is_other).map(|group| group.values).sum();
    if other > 0 {
        obstacles.push(format!("{other} of its values stand in another encoding than the rest"));
    }
    let told = |problems: Vec<String>| (!problems.is_empty()).then(|| problems.join("; "));
    Ok((told(obstacles), told(rights)))
}
