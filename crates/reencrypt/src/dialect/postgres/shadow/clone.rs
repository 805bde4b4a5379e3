//! Makes a copy of a table's definition: first the bare table, which is filled, then everything that is better built
//! on rows that are there. Every statement is put together by the server's own quoting from its own catalog.

use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use super::relation::{Relation, execute};
use super::state::{Kind, Named};
use crate::EngineError;
use crate::dialect::postgres::literal;
use crate::error::Doing;
use crate::shadow::BuildStep;
use crate::table::quote;

/// Indexes, checks of rows against other tables, then what the planner must know: each needs what comes before it.
const STAGE_INDEXES: u32 = 1;
const STAGE_CONSTRAINTS: u32 = 2;
const STAGE_STATISTICS: u32 = 3;

/// What an index build may use to sort. The server's own setting, if that is more. A build of one index has at most
/// three times this, and an agent builds few at once.
const SORT_MEMORY: &str = "256MB";

/// Helpers of each build, also where several indexes are built at once: they are never as dear as each other, and the
/// dearest would have one processor where the others are done.
const HELPERS_MAX: u32 = 2;

/// What is exact in `LIKE`: names, types, type modifiers, collations, NOT NULL, defaults, checks, identity with its
/// sequence's options, storage, compression, comments of columns and checks. Everything else is set afterwards.
const INCLUDING: &str = "INCLUDING COMMENTS INCLUDING COMPRESSION INCLUDING CONSTRAINTS INCLUDING DEFAULTS \
                         INCLUDING IDENTITY INCLUDING STORAGE";

/// The database's own tablespace, wherever a statement names none.
const PLAIN: &str = "SET LOCAL default_tablespace = ''";

/// Statements for what `LIKE` leaves out of the table and its columns. $1 original, $2 copy as SQL names it.
const TABLE: &str = "
    WITH t AS (SELECT * FROM pg_class WHERE oid = $1::oid),
    options AS (
        SELECT o FROM t, unnest(t.reloptions) o
        UNION ALL SELECT 'toast.' || o FROM t JOIN pg_class x ON x.oid = t.reltoastrelid, unnest(x.reloptions) o)
    SELECT statement FROM (
        SELECT 1 AS rank, 0 AS number, format('ALTER TABLE %s SET (%s)', $2::text, string_agg(
                   CASE WHEN o LIKE 'toast.%' THEN 'toast.' || quote_ident(substr(split_part(o, '=', 1), 7))
                        ELSE quote_ident(split_part(o, '=', 1)) END
                   || '=' || quote_literal(substr(o, strpos(o, '=') + 1)), ', ')) AS statement
        FROM options HAVING count(*) > 0
        UNION ALL
        SELECT 2, a.attnum, format('ALTER TABLE %s ALTER COLUMN %I SET STATISTICS %s', $2::text, a.attname, a.attstattarget)
        FROM pg_attribute a WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attstattarget >= 0
        UNION ALL
        SELECT 3, a.attnum, format('ALTER TABLE %s ALTER COLUMN %I SET (%s)', $2::text, a.attname,
                   (SELECT string_agg(quote_ident(split_part(o, '=', 1)) || '=' || quote_literal(substr(o, strpos(o, '=') + 1)), ', ')
                    FROM unnest(a.attoptions) o))
        FROM pg_attribute a WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attoptions IS NOT NULL
        UNION ALL
        SELECT 4, 0, format('COMMENT ON TABLE %s IS %L', $2::text, obj_description($1::oid, 'pg_class'))
        WHERE obj_description($1::oid, 'pg_class') IS NOT NULL
    ) AS statements ORDER BY rank, number";

/// Rights of a relation: what stands on $2 is taken away, then what stands on $1 is given in its order. $3 is the copy as
/// SQL names it, $4 the word for its kind, $5 the letter by which the default rights of the kind go.
const RIGHTS: &str = "
    WITH old AS (SELECT relacl, relowner FROM pg_class WHERE oid = $1::oid),
    new AS (SELECT relacl, relowner FROM pg_class WHERE oid = $2::oid)
    SELECT statement FROM (
        SELECT 1 AS rank, 0::int8 AS number, format('REVOKE ALL ON %s %s FROM %s', $4::text, $3::text,
                   CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END) AS statement
        FROM new, (SELECT DISTINCT grantee FROM new, aclexplode(COALESCE(new.relacl, acldefault($5::\"char\", new.relowner)))) x
        UNION ALL
        SELECT 2, x.number, format('GRANT %s ON %s %s TO %s%s', x.privilege_type, $4::text, $3::text,
                   CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END,
                   CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
        FROM old, aclexplode(COALESCE(old.relacl, acldefault($5::\"char\", old.relowner)))
             WITH ORDINALITY AS x (grantor, grantee, privilege_type, is_grantable, number)
    ) AS statements
    WHERE (SELECT old.relacl IS NOT NULL OR new.relacl IS NOT NULL FROM old, new)
    ORDER BY rank, number";

/// Rights of columns. $1 original, $2 copy as SQL names it.
const COLUMN_RIGHTS: &str = "
    SELECT format('GRANT %s (%I) ON TABLE %s TO %s%s', x.privilege_type, a.attname, $2::text,
               CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END,
               CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
    FROM pg_attribute a, aclexplode(a.attacl) WITH ORDINALITY AS x (grantor, grantee, privilege_type, is_grantable, number)
    WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum, x.number";

/// The sequences of identity columns, original and copy by column.
const IDENTITIES: &str = "
    WITH s AS (
        SELECT d.refobjid AS relation, a.attname, c.oid, c.relname, n.nspname
        FROM pg_depend d JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S' JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'i'
          AND d.refobjid IN ($1::oid, $2::oid))
    SELECT o.oid::int8, c.oid::int8, o.nspname::text, o.relname::text, c.relname::text, obj_description(o.oid, 'pg_class'),
           format('AS %s INCREMENT BY %s MINVALUE %s MAXVALUE %s START WITH %s CACHE %s %s', q.seqtypid::regtype,
                  q.seqincrement, q.seqmin, q.seqmax, q.seqstart, q.seqcache, CASE WHEN q.seqcycle THEN 'CYCLE' ELSE 'NO CYCLE' END)
    FROM s o JOIN s c ON c.attname = o.attname AND c.relation = $2::oid JOIN pg_sequence q ON q.seqrelid = o.oid
    WHERE o.relation = $1::oid ORDER BY o.attname";

/// Indexes with the constraint that each stands for, in the order in which they were made.
const INDEXES: &str = "
    SELECT x.relname::text, n.nspname::text,
           substr(pg_get_indexdef(i.indexrelid), length('CREATE ' || CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END
               || 'INDEX ' || quote_ident(x.relname) || ' ON ' || $1::oid::regclass) + 1),
           i.indisunique, k.contype::text, pg_get_constraintdef(k.oid), COALESCE(s.spcname, '')::text,
           obj_description(x.oid, 'pg_class'), obj_description(k.oid, 'pg_constraint'), i.indisclustered, i.indisreplident,
           COALESCE((SELECT string_agg(format('ALTER COLUMN %s SET STATISTICS %s', a.attnum, a.attstattarget), ', ' ORDER BY a.attnum)
                     FROM pg_attribute a WHERE a.attrelid = x.oid AND a.attstattarget >= 0), ''),
           k.condeferrable, k.condeferred
    FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_namespace n ON n.oid = x.relnamespace
    LEFT JOIN pg_constraint k ON k.conindid = x.oid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x')
    LEFT JOIN pg_tablespace s ON s.oid = x.reltablespace
    WHERE i.indrelid = $1::oid ORDER BY x.oid";

const FOREIGN_KEYS: &str = "
    SELECT k.conname::text, pg_get_constraintdef(k.oid), obj_description(k.oid, 'pg_constraint')
    FROM pg_constraint k WHERE k.conrelid = $1::oid AND k.contype = 'f' AND k.conparentid = 0 ORDER BY k.oid";

const STATISTICS: &str = "
    SELECT s.stxname::text, n.nspname::text,
           substr(pg_get_statisticsobjdef(s.oid), length('CREATE STATISTICS ' || quote_ident(n.nspname) || '.' || quote_ident(s.stxname)) + 1,
                  length(pg_get_statisticsobjdef(s.oid))
                  - length('CREATE STATISTICS ' || quote_ident(n.nspname) || '.' || quote_ident(s.stxname))
                  - length(' FROM ' || $1::oid::regclass)),
           COALESCE(s.stxstattarget::int, -1), obj_description(s.oid, 'pg_statistic_ext')
    FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE s.stxrelid = $1::oid ORDER BY s.oid";

/// Makes the bare copy, as the owner, whom the transaction acts as already. Answers its oid, and the names of the
/// sequences that came with it.
pub(super) async fn bare(
    connection: &mut PgConnection,
    original: &Relation,
    name: &str,
    retained: &str,
) -> Result<(i64, Vec<Named>), EngineError> {
    let doing = || format!("making the copy of {}", original.label);
    execute(connection, PLAIN, doing).await?;
    let copy = format!("{}.{}", quote(&original.schema), quote(name));
    let tablespace = match &original.tablespace {
        Some(tablespace) => format!(" TABLESPACE {}", quote(tablespace)),
        None => String::new(),
    };
    let sql = format!(
        "CREATE TABLE {copy} (LIKE {} {INCLUDING}) USING {}{tablespace}",
        original.sql(),
        quote(&original.access_method)
    );
    execute(connection, &sql, doing).await?;
    let oid = super::relation::oid(connection, &copy, &original.label).await?;
    for statement in statements(sqlx::query(TABLE).bind(original.oid).bind(&copy), connection, doing).await? {
        execute(connection, &statement, doing).await?;
    }
    let rights = sqlx::query(RIGHTS).bind(original.oid).bind(oid).bind(&copy).bind("TABLE").bind("r");
    for statement in statements(rights, connection, doing).await? {
        execute(connection, &statement, doing).await?;
    }
    for statement in statements(sqlx::query(COLUMN_RIGHTS).bind(original.oid).bind(&copy), connection, doing).await? {
        execute(connection, &statement, doing).await?;
    }
    let mut named = Vec::new();
    let rows = sqlx::query(IDENTITIES).bind(original.oid).bind(oid).fetch_all(&mut *connection).await.doing(doing)?;
    for (at, row) in rows.iter().enumerate() {
        let (old_oid, new_oid): (i64, i64) = (row.try_get(0).doing(doing)?, row.try_get(1).doing(doing)?);
        let text = |at: usize| row.try_get::<String, _>(at).doing(doing);
        let (schema, sequence) = (text(2)?, text(4)?);
        let sql = format!("{}.{}", quote(&schema), quote(&sequence));
        // `LIKE` makes every one a bigint.
        execute(connection, &format!("ALTER SEQUENCE {sql} {}", text(6)?), doing).await?;
        if let Some(comment) = row.try_get::<Option<String>, _>(5).doing(doing)? {
            execute(connection, &format!("COMMENT ON SEQUENCE {sql} IS {}", literal(&comment)), doing).await?;
        }
        let rights = sqlx::query(RIGHTS).bind(old_oid).bind(new_oid).bind(&sql).bind("SEQUENCE").bind("s");
        for statement in statements(rights, connection, doing).await? {
            execute(connection, &statement, doing).await?;
        }
        let retained = format!("{retained}_s{at}");
        named.push(Named { kind: Kind::Sequence, schema, name: text(3)?, shadow: sequence, retained });
    }
    Ok((oid, named))
}

/// The names of everything that will be built and has a name of its own.
pub(super) async fn names(
    connection: &mut PgConnection,
    original: &Relation,
    name: &str,
    retained: &str,
) -> Result<Vec<Named>, EngineError> {
    let doing = || format!("naming what is attached to {}", original.label);
    let mut named = Vec::new();
    for (kind, sql, letter) in [(Kind::Index, INDEXES, 'i'), (Kind::Statistics, STATISTICS, 'e')] {
        let rows = sqlx::query(sql).bind(original.oid).fetch_all(&mut *connection).await.doing(doing)?;
        for (at, row) in rows.iter().enumerate() {
            named.push(Named {
                kind,
                schema: row.try_get(1).doing(doing)?,
                name: row.try_get(0).doing(doing)?,
                shadow: format!("{name}_{letter}{at}"),
                retained: format!("{retained}_{letter}{at}"),
            });
        }
    }
    Ok(named)
}

/// All steps that make a filled copy whole, done or not, in the order of their stages. `copy` is the copy as SQL names it.
pub(super) async fn steps(
    connection: &mut PgConnection,
    original: &Relation,
    copy: &str,
    named: &[Named],
) -> Result<Vec<Step>, EngineError> {
    let doing = || format!("reading what is attached to {}", original.label);
    let mut steps = Vec::new();
    let name_of = |kind: Kind, schema: &str, name: &str| {
        let found = named.iter().find(|object| object.kind == kind && object.schema == schema && object.name == name);
        found.map(|object| object.shadow.clone()).ok_or_else(|| changed(original, name))
    };
    let rows = sqlx::query(INDEXES).bind(original.oid).fetch_all(&mut *connection).await.doing(doing)?;
    for row in &rows {
        let index = Index::read(row).doing(doing)?;
        let own = name_of(Kind::Index, &index.schema, &index.name)?;
        index.steps(copy, &own, &mut steps);
    }
    for key in foreign_keys(connection, original).await? {
        let done = Done::ForeignKey(key.name.clone());
        steps.push(Step::new(STAGE_CONSTRAINTS, format!("foreign key {}", key.name), key.add_sql(copy), done));
    }
    if let Some(identity) = original.replica_identity() {
        let sql = format!("ALTER TABLE {copy} REPLICA IDENTITY {identity};");
        steps.push(Step::new(STAGE_CONSTRAINTS, "replica identity".to_owned(), sql, Done::ReplicaIdentity));
    }
    let rows = sqlx::query(STATISTICS).bind(original.oid).fetch_all(&mut *connection).await.doing(doing)?;
    for row in &rows {
        let read = || Ok((row.try_get::<String, _>(0)?, row.try_get::<String, _>(1)?, row.try_get::<String, _>(2)?));
        let (name, schema, definition) = read().doing(doing)?;
        let target: i32 = row.try_get(3).doing(doing)?;
        let own = name_of(Kind::Statistics, &schema, &name)?;
        let qualified = format!("{}.{}", quote(&schema), quote(&own));
        let mut sql = format!("CREATE STATISTICS {qualified}{definition} FROM {copy};");
        if target >= 0 {
            sql += &format!("ALTER STATISTICS {qualified} SET STATISTICS {target};");
        }
        let comment: Option<String> = row.try_get(4).doing(doing)?;
        push_comment(&mut sql, &format!("STATISTICS {qualified}"), comment.as_deref());
        steps.push(Step::new(STAGE_CONSTRAINTS, format!("statistics {name}"), sql, Done::Statistics(schema, own)));
    }
    // Without it the application would begin with plans for a table of which nothing is known. A VACUUM is not needed:
    // no dead rows are there, and what it would mark is marked as rows are read.
    let sql = format!("ANALYZE {copy};");
    steps.push(Step::new(STAGE_STATISTICS, "statistics of its columns".to_owned(), sql, Done::Analyzed));
    steps.sort_by_key(|step| step.build.stage);
    // Whatever is not an index locks the copy against all others, so it is built by itself.
    let mut stage = STAGE_INDEXES;
    for step in steps.iter_mut().filter(|step| step.build.stage > STAGE_INDEXES) {
        stage += 1;
        step.build.stage = stage;
    }
    Ok(steps)
}

/// A foreign key of a table to another.
pub(super) struct ForeignKey {
    pub(super) name: String,
    definition: String,
    comment: Option<String>,
}

impl ForeignKey {
    /// The statement that gives it to another table. The rows are checked, unless it is NOT VALID: that is what valid means,
    /// and the check is one join. The planner's settings of our sessions are for pages, so they are put aside for it.
    pub(super) fn add_sql(&self, table: &str) -> String {
        let name = quote(&self.name);
        let mut sql = format!(
            "SET LOCAL enable_seqscan = on; SET LOCAL enable_sort = on; SET LOCAL enable_hashjoin = on; \
             SET LOCAL enable_mergejoin = on; ALTER TABLE {table} ADD CONSTRAINT {name} {};",
            self.definition
        );
        push_comment(&mut sql, &format!("CONSTRAINT {name} ON {table}"), self.comment.as_deref());
        sql
    }
}

/// Those of a table, in the order in which they were made.
pub(super) async fn foreign_keys(
    connection: &mut PgConnection,
    table: &Relation,
) -> Result<Vec<ForeignKey>, EngineError> {
    let doing = || format!("reading the foreign keys of {}", table.label);
    let rows = sqlx::query(FOREIGN_KEYS).bind(table.oid).fetch_all(connection).await.doing(doing)?;
    let key =
        |row: &PgRow| Ok(ForeignKey { name: row.try_get(0)?, definition: row.try_get(1)?, comment: row.try_get(2)? });
    rows.iter().map(key).collect::<Result<_, sqlx::Error>>().doing(doing)
}

/// Takes a table's foreign keys away, as its owner. A table that is not in use must not hold fast the rows of others.
pub(super) async fn drop_foreign_keys(connection: &mut PgConnection, table: &Relation) -> Result<(), EngineError> {
    for key in foreign_keys(connection, table).await? {
        let sql = format!("ALTER TABLE {} DROP CONSTRAINT {}", table.sql(), quote(&key.name));
        execute(connection, &sql, || format!("dropping the foreign key {} of {}", key.name, table.label)).await?;
    }
    Ok(())
}

/// A step, and how it is seen that it is done.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) build: BuildStep,
    pub(super) done: Done,
}

impl Step {
    const fn new(stage: u32, what: String, sql: String, done: Done) -> Self {
        Self { build: BuildStep { stage, what, sql }, done }
    }
}

/// What there is on the copy when a step is done. Names unquoted.
#[derive(Debug, Clone)]
pub(super) enum Done {
    Index(String),
    Constraint(String),
    ForeignKey(String),
    Statistics(String, String),
    ReplicaIdentity,
    Clustered(String),
    Analyzed,
}

struct Index {
    name: String,
    schema: String,
    /// From ` USING` on.
    definition: String,
    unique: bool,
    constraint: Option<char>,
    constraint_definition: Option<String>,
    tablespace: String,
    comment: Option<String>,
    constraint_comment: Option<String>,
    clustered: bool,
    replica_identity: bool,
    column_statistics: String,
    deferrable: bool,
    deferred: bool,
}

impl Index {
    fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            name: row.try_get(0)?,
            schema: row.try_get(1)?,
            definition: row.try_get(2)?,
            unique: row.try_get(3)?,
            constraint: row.try_get::<Option<String>, _>(4)?.and_then(|text| text.chars().next()),
            constraint_definition: row.try_get(5)?,
            tablespace: row.try_get(6)?,
            comment: row.try_get(7)?,
            constraint_comment: row.try_get(8)?,
            clustered: row.try_get(9)?,
            replica_identity: row.try_get(10)?,
            column_statistics: row.try_get(11)?,
            deferrable: row.try_get::<Option<bool>, _>(12)?.unwrap_or_default(),
            deferred: row.try_get::<Option<bool>, _>(13)?.unwrap_or_default(),
        })
    }

    fn steps(&self, copy: &str, own: &str, steps: &mut Vec<Step>) {
        let qualified = format!("{}.{}", quote(&self.schema), quote(own));
        let memory = format!(
            "SELECT set_config('maintenance_work_mem', '{SORT_MEMORY}', true) \
             WHERE pg_size_bytes(current_setting('maintenance_work_mem')) < pg_size_bytes('{SORT_MEMORY}'); \
             SET LOCAL max_parallel_maintenance_workers = {HELPERS_MAX}; SET LOCAL default_tablespace = {};",
            literal(&self.tablespace)
        );
        let mut finish = String::new();
        if !self.column_statistics.is_empty() {
            finish += &format!("ALTER INDEX {qualified} {};", self.column_statistics);
        }
        push_comment(&mut finish, &format!("INDEX {qualified}"), self.comment.as_deref());
        let constraint_comment = |sql: &mut String| {
            let what = format!("CONSTRAINT {} ON {copy}", quote(own));
            push_comment(sql, &what, self.constraint_comment.as_deref());
        };
        match (self.constraint, &self.constraint_definition) {
            // An exclusion constraint makes its own index.
            (Some('x'), Some(definition)) => {
                let mut sql = format!("{memory} ALTER TABLE {copy} ADD CONSTRAINT {} {definition};", quote(own));
                sql += &finish;
                constraint_comment(&mut sql);
                let done = Done::Constraint(own.to_owned());
                steps.push(Step::new(STAGE_CONSTRAINTS, format!("constraint {}", self.name), sql, done));
            }
            (constraint, _) => {
                let unique = if self.unique { "UNIQUE " } else { "" };
                let sql = format!("{memory} CREATE {unique}INDEX {} ON {copy}{};{finish}", quote(own), self.definition);
                steps.push(Step::new(STAGE_INDEXES, format!("index {}", self.name), sql, Done::Index(own.to_owned())));
                if let Some(kind) = constraint {
                    let kind = if kind == 'p' { "PRIMARY KEY" } else { "UNIQUE" };
                    let deferrable = match (self.deferrable, self.deferred) {
                        (false, _) => "",
                        (true, false) => " DEFERRABLE",
                        (true, true) => " DEFERRABLE INITIALLY DEFERRED",
                    };
                    let name = quote(own);
                    let mut sql =
                        format!("ALTER TABLE {copy} ADD CONSTRAINT {name} {kind} USING INDEX {name}{deferrable};");
                    constraint_comment(&mut sql);
                    let done = Done::Constraint(own.to_owned());
                    steps.push(Step::new(STAGE_CONSTRAINTS, format!("constraint {}", self.name), sql, done));
                }
            }
        }
        if self.clustered {
            let sql = format!("ALTER TABLE {copy} CLUSTER ON {};", quote(own));
            let done = Done::Clustered(own.to_owned());
            steps.push(Step::new(STAGE_CONSTRAINTS, format!("clustering on {}", self.name), sql, done));
        }
        if self.replica_identity {
            let sql = format!("ALTER TABLE {copy} REPLICA IDENTITY USING INDEX {};", quote(own));
            steps.push(Step::new(STAGE_CONSTRAINTS, "replica identity".to_owned(), sql, Done::ReplicaIdentity));
        }
    }
}

fn push_comment(sql: &mut String, what: &str, comment: Option<&str>) {
    if let Some(comment) = comment {
        *sql += &format!("COMMENT ON {what} IS {};", literal(comment));
    }
}

pub(super) fn changed(original: &Relation, name: &str) -> EngineError {
    let what = format!("{name:?} was attached to it or taken away since its copy was made");
    EngineError::RowsChanged { table: original.label.clone(), what }
}

async fn statements(
    query: sqlx::query::Query<'_, sqlx::Postgres, sqlx::postgres::PgArguments>,
    connection: &mut PgConnection,
    doing: impl Fn() -> String,
) -> Result<Vec<String>, EngineError> {
    let rows = query.fetch_all(connection).await;
    rows.and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect()).doing(doing)
}
