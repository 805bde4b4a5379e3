//! What stands against re-encrypting a table by a copy: everything attached to it that would not be there afterwards,
//! exactly. Kinds that are known are named first; then a generic rule names whatever depends on the table and is not made
//! again with it.

use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use crate::EngineError;
use crate::error::Doing;

/// Obstacles that one reason names. The first would do; more save a second look.
const NAMED_MAX: usize = 3;

/// $1 is the table. One row for each obstacle, the most telling first.
const KNOWN: &str = "
    WITH RECURSIVE t AS (SELECT c.*, n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1::oid),
    own (classid, objid, definition) AS (
        SELECT 'pg_attrdef'::regclass::oid, oid, pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = $1::oid
        UNION ALL
        SELECT 'pg_constraint'::regclass, oid, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE conrelid = $1::oid AND contype = 'c'
        UNION ALL
        SELECT 'pg_class'::regclass, indexrelid, pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = $1::oid),
    domains (attname, oid, base) AS (
        SELECT a.attname, t.oid, t.typbasetype FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
        WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped AND t.typtype = 'd'
        UNION ALL
        SELECT d.attname, t.oid, t.typbasetype FROM domains d JOIN pg_type t ON t.typtype = 'd' AND t.oid = d.base),
    identities AS (
        SELECT objid AS oid FROM pg_depend
        WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass AND refobjid = $1::oid
          AND refobjsubid > 0 AND deptype = 'i')
    SELECT reason FROM (
        SELECT 10 AS rank, 'it is partitioned' AS reason FROM t WHERE relkind = 'p'
        UNION ALL
        SELECT 11, 'it is not an ordinary table' FROM t WHERE relkind NOT IN ('r', 'p')
        UNION ALL
        SELECT 12, 'it is a partition, or inherits from ' || quote_ident(p.relname)
        FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent WHERE i.inhrelid = $1::oid
        UNION ALL
        SELECT 13, 'table ' || quote_ident(h.relname) || ' inherits from it'
        FROM t, pg_inherits i JOIN pg_class h ON h.oid = i.inhrelid WHERE i.inhparent = $1::oid AND t.relkind = 'r'
        UNION ALL
        SELECT 14, CASE relpersistence WHEN 'u' THEN 'it is unlogged, so a crash would empty its copy'
                                       ELSE 'it is temporary' END
        FROM t WHERE relpersistence <> 'p'
        UNION ALL
        SELECT 15, 'it is a table of the type ' || reloftype::regtype FROM t WHERE reloftype <> 0
        UNION ALL
        SELECT 16, 'its access method ' || quote_ident(m.amname) || ' may not tell which transaction wrote a row'
        FROM t JOIN pg_am m ON m.oid = t.relam JOIN pg_proc p ON p.oid = m.amhandler
        WHERE p.proname <> 'heap_tableam_handler'
        UNION ALL
        SELECT 20, 'it is referenced by the foreign key ' || quote_ident(k.conname) || ' of table ' || k.conrelid::regclass
        FROM pg_constraint k WHERE k.contype = 'f' AND k.confrelid = $1::oid AND k.conparentid = 0
        UNION ALL
        SELECT 21, 'it has the trigger ' || quote_ident(tgname) FROM pg_trigger
        WHERE tgrelid = $1::oid AND NOT tgisinternal
        UNION ALL
        SELECT 22, 'triggers of its foreign keys are not enabled as usual' FROM pg_trigger
        WHERE tgrelid = $1::oid AND tgisinternal AND tgenabled <> 'O' HAVING count(*) > 0
        UNION ALL
        SELECT 23, 'it has the rule ' || quote_ident(rulename) FROM pg_rewrite WHERE ev_class = $1::oid
        UNION ALL
        SELECT 24, 'it has the policy ' || quote_ident(polname) FROM pg_policy WHERE polrelid = $1::oid
        UNION ALL
        SELECT 25, 'it has row level security' FROM t WHERE relrowsecurity OR relforcerowsecurity
        UNION ALL
        SELECT 26, 'it is in the publication ' || quote_ident(p.pubname)
        FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE r.prrelid = $1::oid
        UNION ALL
        SELECT 27, 'the publication ' || quote_ident(pubname) || ' is for all tables' FROM pg_publication
        WHERE puballtables
        UNION ALL
        SELECT 28, 'a subscription writes to it' FROM pg_subscription_rel WHERE srrelid = $1::oid
        UNION ALL
        SELECT 29, 'its column ' || quote_ident(attname) || ' is generated' FROM pg_attribute
        WHERE attrelid = $1::oid AND attnum > 0 AND attgenerated <> '' AND NOT attisdropped
        UNION ALL
        SELECT 30, 'its index ' || quote_ident(x.relname) || ' is not valid'
        FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
        WHERE i.indrelid = $1::oid AND NOT (i.indisvalid AND i.indisready AND i.indislive)
        UNION ALL
        SELECT 31, 'a right on it was granted by ' || quote_ident(a.grantor::regrole::text) || ', not by its owner'
        FROM t, LATERAL (
            SELECT x.grantor FROM aclexplode(t.relacl) x
            UNION SELECT x.grantor FROM pg_attribute b, aclexplode(b.attacl) x WHERE b.attrelid = t.oid
            UNION SELECT x.grantor FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S',
                         aclexplode(s.relacl) x
                  WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
                    AND d.refobjid = t.oid AND d.deptype = 'i') a
        WHERE a.grantor <> t.relowner
        UNION ALL
        SELECT 32, 'its row type has rights of its own' FROM t JOIN pg_type y ON y.oid = t.reltype WHERE y.typacl IS NOT NULL
        UNION ALL
        SELECT 33, 'its statistics object ' || quote_ident(s.stxname) || ' has another owner'
        FROM t JOIN pg_statistic_ext s ON s.stxrelid = t.oid WHERE s.stxowner <> t.relowner
        UNION ALL
        SELECT 34, 'its row type has a comment' FROM t JOIN pg_description d
        ON d.classoid = 'pg_type'::regclass AND d.objoid = t.reltype
        UNION ALL
        SELECT 35, 'its ' || pg_describe_object(classid, objid, 0) || ' names the table itself' FROM own
        WHERE strpos(definition, '''' || replace($1::oid::regclass::text, '''', '''''') || '''::regclass') > 0
           OR EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = own.classid AND d.objid = own.objid
                      AND (d.refclassid = 'pg_class'::regclass AND d.refobjid = $1::oid AND d.refobjsubid < 0
                           OR d.refclassid = 'pg_type'::regclass AND d.refobjid IN (
                               SELECT y.oid FROM pg_type r JOIN pg_type y ON y.oid IN (r.oid, r.typarray)
                               WHERE r.typrelid = $1::oid)))
        UNION ALL
        SELECT 36, 'its ' || pg_describe_object(d.classid, d.objid, 0) || ' names the sequence of an identity column'
        FROM own o JOIN pg_depend d ON d.classid = o.classid AND d.objid = o.objid
        JOIN identities i ON d.refclassid = 'pg_class'::regclass AND d.refobjid = i.oid
        UNION ALL
        SELECT 37, 'the domain of its column ' || quote_ident(d.attname) || ' has the constraint ' || quote_ident(k.conname)
               || ', which is not valid'
        FROM domains d JOIN pg_constraint k ON k.contypid = d.oid AND NOT k.convalidated
        UNION ALL
        SELECT 40, 'the event trigger ' || quote_ident(evtname) || ' would fire' FROM pg_event_trigger
        WHERE evtenabled = ANY (CASE WHEN $2 THEN ARRAY['A', 'R'] ELSE ARRAY['A', 'O'] END::\"char\"[])
        UNION ALL
        SELECT 50, 'its owner ' || quote_ident(relowner::regrole::text) || ' may not reference table ' || k.confrelid::regclass
        FROM t JOIN pg_constraint k ON k.conrelid = t.oid AND k.contype = 'f' AND k.conparentid = 0
        WHERE NOT has_table_privilege(t.relowner, k.confrelid, 'REFERENCES')
          AND NOT (SELECT bool_and(has_column_privilege(t.relowner, k.confrelid, c, 'REFERENCES')) FROM unnest(k.confkey) c)
        UNION ALL
        SELECT 51, 'its owner ' || quote_ident(t.relowner::regrole::text) || ' has no USAGE on the schema of table ' || k.confrelid::regclass
        FROM t JOIN pg_constraint k ON k.conrelid = t.oid AND k.contype = 'f' AND k.conparentid = 0
        JOIN pg_class r ON r.oid = k.confrelid WHERE NOT has_schema_privilege(t.relowner, r.relnamespace, 'USAGE')
        UNION ALL
        SELECT 52, 'its owner ' || quote_ident(relowner::regrole::text) || ' has not the right to INSERT, and to UPDATE or DELETE'
        FROM t WHERE NOT (has_table_privilege(relowner, oid, 'INSERT')
                          AND has_table_privilege(relowner, oid, 'UPDATE, DELETE, TRUNCATE'))
        UNION ALL
        SELECT 53, 'its owner ' || quote_ident(relowner::regrole::text) || ' may not set the sequence of an identity column'
        FROM t, identities i WHERE NOT has_sequence_privilege(relowner, i.oid, 'UPDATE')
        UNION ALL
        SELECT 60, 'its owner may not create tables in its schema: GRANT CREATE ON SCHEMA ' || quote_ident(nspname)
               || ' TO ' || relowner::regrole
        FROM t WHERE NOT has_schema_privilege(relowner, relnamespace, 'CREATE')
        UNION ALL
        SELECT 61, 'the agent''s role may not act as its owner' || CASE
            WHEN rolsuper THEN ', who is a superuser: ALTER TABLE ... OWNER TO a role that is none'
            ELSE ': GRANT ' || relowner::regrole || ' TO ' || quote_ident(session_user) END
        FROM t JOIN pg_roles o ON o.oid = relowner WHERE NOT pg_has_role(session_user, relowner,
            CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END)
        UNION ALL
        SELECT 62, 'the agent''s role may read its columns one by one only, so not which transaction wrote a row: '
               || 'GRANT SELECT on the whole table'
        FROM t WHERE NOT has_table_privilege(oid, 'SELECT')
    ) AS known ORDER BY rank, reason";

/// Publications of whole schemas exist from 15 on.
const OF_SCHEMA: &str = "
    SELECT 'the publication ' || quote_ident(p.pubname) || ' is for all tables of its schema'
    FROM pg_class c JOIN pg_publication_namespace n ON n.pnnspid = c.relnamespace
    JOIN pg_publication p ON p.oid = n.pnpubid WHERE c.oid = $1::oid";

/// The generic rule. `own` is what is made again with the table; of anything else that depends on one of them, that is
/// bound to an extension or carries a security label, the name is told. A sequence of a serial column stays the same
/// object, so what else uses it does not matter.
const UNKNOWN: &str = "
    WITH own (classid, objid, watched) AS (
        SELECT 'pg_class'::regclass::oid, $1::oid, true
        UNION SELECT 'pg_class'::regclass, indexrelid, true FROM pg_index WHERE indrelid = $1::oid
        UNION SELECT 'pg_constraint'::regclass, oid, true FROM pg_constraint WHERE conrelid = $1::oid
        UNION SELECT 'pg_attrdef'::regclass, oid, true FROM pg_attrdef WHERE adrelid = $1::oid
        UNION SELECT 'pg_type'::regclass, oid, true FROM pg_type WHERE typrelid = $1::oid
        UNION SELECT 'pg_type'::regclass, a.oid, true FROM pg_type t JOIN pg_type a ON a.oid = t.typarray
              WHERE t.typrelid = $1::oid
        UNION SELECT 'pg_class'::regclass, reltoastrelid, true FROM pg_class WHERE oid = $1::oid AND reltoastrelid <> 0
        UNION SELECT 'pg_class'::regclass, i.indexrelid, true FROM pg_class c JOIN pg_index i ON i.indrelid = c.reltoastrelid
              WHERE c.oid = $1::oid
        UNION SELECT 'pg_class'::regclass, s.oid, d.deptype = 'i' FROM pg_depend d JOIN pg_class s ON s.oid = d.objid
              WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1::oid
                AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i') AND s.relkind = 'S'
        UNION SELECT 'pg_statistic_ext'::regclass, oid, true FROM pg_statistic_ext WHERE stxrelid = $1::oid
        UNION SELECT 'pg_trigger'::regclass, g.oid, true FROM pg_trigger g JOIN pg_constraint k ON k.oid = g.tgconstraint
              WHERE g.tgisinternal AND k.conrelid = $1::oid
    ),
    found AS (
        SELECT DISTINCT CASE
                   WHEN w.oid IS NOT NULL THEN pg_describe_object('pg_class'::regclass, w.ev_class, 0)
                   WHEN g.tgconstraint <> 0 THEN pg_describe_object('pg_constraint'::regclass, g.tgconstraint, 0)
                   ELSE pg_describe_object(d.classid, d.objid, d.objsubid) END AS what
        FROM pg_depend d JOIN own o ON o.watched AND d.refclassid = o.classid AND d.refobjid = o.objid
        LEFT JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
        LEFT JOIN pg_trigger g ON d.classid = 'pg_trigger'::regclass AND g.oid = d.objid
        WHERE NOT EXISTS (SELECT 1 FROM own k WHERE k.classid = d.classid AND k.objid = d.objid)
    )
    SELECT what || ' depends on it' FROM found
    UNION ALL
    SELECT DISTINCT pg_describe_object(o.classid, o.objid, 0) || ' belongs to '
           || pg_describe_object(d.refclassid, d.refobjid, 0)
    FROM pg_depend d JOIN own o ON d.classid = o.classid AND d.objid = o.objid WHERE d.deptype IN ('e', 'x', 'P', 'S')
    UNION ALL
    SELECT DISTINCT pg_describe_object(o.classid, o.objid, 0) || ' has a security label'
    FROM pg_seclabel l JOIN own o ON l.classoid = o.classid AND l.objoid = o.objid
    UNION ALL
    SELECT DISTINCT pg_describe_object(o.classid, o.objid, 0) || ' depends on a role in an unknown way'
    FROM pg_shdepend d JOIN own o ON d.classid = o.classid AND d.objid = o.objid
    WHERE d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND d.deptype NOT IN ('o', 'a', 't')
    ORDER BY 1";

/// The reason, if there is any.
pub(super) async fn find(
    connection: &mut PgConnection,
    oid: i64,
    triggers_off: bool,
    label: &str,
) -> Result<Option<String>, EngineError> {
    let doing = || format!("looking at what is attached to {label}");
    let mut reasons = texts(sqlx::query(KNOWN).bind(oid).bind(triggers_off).fetch_all(&mut *connection).await, doing)?;
    let schemas = texts(
        sqlx::query("SELECT 'x' WHERE to_regclass('pg_catalog.pg_publication_namespace') IS NOT NULL")
            .fetch_all(&mut *connection)
            .await,
        doing,
    )?;
    if !schemas.is_empty() {
        reasons.extend(texts(sqlx::query(OF_SCHEMA).bind(oid).fetch_all(&mut *connection).await, doing)?);
    }
    if reasons.is_empty() {
        reasons = texts(sqlx::query(UNKNOWN).bind(oid).fetch_all(connection).await, doing)?;
    }
    reasons.dedup();
    let more = reasons.len().saturating_sub(NAMED_MAX);
    reasons.truncate(NAMED_MAX);
    if reasons.is_empty() {
        return Ok(None);
    }
    let named = reasons.join("; ");
    Ok(Some(if more == 0 { named } else { format!("{named}; and {more} more") }))
}

fn texts(
    rows: Result<Vec<sqlx::postgres::PgRow>, sqlx::Error>,
    doing: impl Fn() -> String,
) -> Result<Vec<String>, EngineError> {
    rows.and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect()).doing(doing)
}
