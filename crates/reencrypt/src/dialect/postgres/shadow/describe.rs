//! A canonical description of everything attached to a table, by names from the catalog alone. The copy's, with its own
//! names mapped to the original's, must be the original's; otherwise nothing is swapped.

use std::collections::BTreeSet;

use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use super::state::Named;
use crate::EngineError;
use crate::error::Doing;

/// One line for each thing: kind, name, and all about it. The table's own name stands nowhere in it.
const DESCRIBE: &str = "
    WITH t AS (SELECT * FROM pg_class WHERE oid = $1::oid)
    SELECT 'table', '', concat_ws(' | ', relkind, relpersistence, relowner::regrole,
            (SELECT amname FROM pg_am WHERE oid = relam), COALESCE((SELECT spcname FROM pg_tablespace WHERE oid = reltablespace), ''),
            COALESCE((SELECT string_agg(o, ',' ORDER BY o) FROM unnest(reloptions) o), ''),
            COALESCE((SELECT string_agg(o, ',' ORDER BY o) FROM pg_class x, unnest(x.reloptions) o WHERE x.oid = t.reltoastrelid), ''),
            relreplident, relrowsecurity, relforcerowsecurity, reloftype,
            (SELECT COALESCE(string_agg(a::text, ',' ORDER BY a::text), 'nobody') FROM unnest(COALESCE(relacl, acldefault('r', relowner))) a),
            COALESCE(obj_description(oid, 'pg_class'), ''))
    FROM t
    UNION ALL
    SELECT 'column', a.attname::text, concat_ws(' | ', row_number() OVER (ORDER BY a.attnum),
            format_type(a.atttypid, a.atttypmod), a.attcollation::regcollation, a.attnotnull,
            COALESCE(pg_get_expr(d.adbin, d.adrelid), ''), a.attidentity, a.attgenerated, a.attstorage, a.attcompression,
            COALESCE(a.attstattarget::int, -1), COALESCE((SELECT string_agg(o, ',' ORDER BY o) FROM unnest(a.attoptions) o), ''),
            COALESCE((SELECT string_agg(x::text, ',' ORDER BY x::text) FROM unnest(a.attacl) x), ''),
            COALESCE(col_description(a.attrelid, a.attnum), ''))
    FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT 'index', x.relname::text, concat_ws(' | ', i.indisunique,
            substr(pg_get_indexdef(i.indexrelid), length('CREATE ' || CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END
                || 'INDEX ' || quote_ident(x.relname) || ' ON ' || $1::oid::regclass) + 1),
            i.indisvalid, i.indimmediate, i.indisclustered, i.indisreplident, x.relowner::regrole,
            COALESCE((SELECT spcname FROM pg_tablespace WHERE oid = x.reltablespace), ''),
            COALESCE((SELECT string_agg(concat(a.attnum, '=', a.attstattarget), ',' ORDER BY a.attnum) FROM pg_attribute a
                      WHERE a.attrelid = x.oid AND a.attstattarget >= 0), ''),
            COALESCE(obj_description(x.oid, 'pg_class'), ''))
    FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = $1::oid
    UNION ALL
    SELECT 'constraint', k.conname::text, concat_ws(' | ', k.contype, pg_get_constraintdef(k.oid), k.condeferrable,
            k.condeferred, k.convalidated, k.connoinherit, k.conislocal, k.coninhcount,
            COALESCE(obj_description(k.oid, 'pg_constraint'), ''))
    FROM pg_constraint k WHERE k.conrelid = $1::oid AND k.conparentid = 0 AND k.contype <> 't' AND ($2 OR k.contype <> 'f')
    UNION ALL
    SELECT 'trigger', g.tgname::text, concat_ws(' | ', pg_get_triggerdef(g.oid), g.tgenabled)
    FROM pg_trigger g WHERE g.tgrelid = $1::oid AND (NOT g.tgisinternal OR g.tgenabled <> 'O')
    UNION ALL
    SELECT 'rule', w.rulename::text, '' FROM pg_rewrite w WHERE w.ev_class = $1::oid
    UNION ALL
    SELECT 'policy', p.polname::text, '' FROM pg_policy p WHERE p.polrelid = $1::oid
    UNION ALL
    SELECT 'statistics', s.stxname::text, concat_ws(' | ', s.stxnamespace::regnamespace, s.stxowner::regrole,
            substr(pg_get_statisticsobjdef(s.oid), length('CREATE STATISTICS ' || quote_ident(n.nspname) || '.' || quote_ident(s.stxname)) + 1,
                   length(pg_get_statisticsobjdef(s.oid))
                   - length('CREATE STATISTICS ' || quote_ident(n.nspname) || '.' || quote_ident(s.stxname))
                   - length(' FROM ' || $1::oid::regclass)),
            COALESCE(s.stxstattarget::int, -1), COALESCE(obj_description(s.oid, 'pg_statistic_ext'), ''))
    FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE s.stxrelid = $1::oid
    UNION ALL
    SELECT CASE d.deptype WHEN 'i' THEN 'identity sequence' ELSE 'sequence' END, s.relname::text,
            concat_ws(' | ', a.attname, s.relowner::regrole, s.relpersistence, q.seqtypid::regtype, q.seqstart,
            q.seqincrement, q.seqmax, q.seqmin, q.seqcache, q.seqcycle,
            (SELECT COALESCE(string_agg(x::text, ',' ORDER BY x::text), 'nobody') FROM unnest(COALESCE(s.relacl, acldefault('s', s.relowner))) x),
            COALESCE(obj_description(s.oid, 'pg_class'), ''))
    FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_sequence q ON q.seqrelid = s.oid
    JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1::oid
      AND d.deptype IN ('a', 'i') AND ($3 OR d.deptype = 'i')";

/// What is compared.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    /// The foreign keys of the table. A trial makes none, since that locks other tables.
    pub(super) foreign_keys: bool,
    /// The sequences of serial columns. They belong to the original until the swap.
    pub(super) serial_sequences: bool,
}

/// Lines of (kind, name, everything else).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Description(BTreeSet<(String, String, String)>);

impl Description {
    /// Of the relation with this oid.
    pub(super) async fn of(
        connection: &mut PgConnection,
        oid: i64,
        extent: Extent,
        label: &str,
    ) -> Result<Self, EngineError> {
        let doing = || format!("describing what is attached to {label}");
        let rows = sqlx::query(DESCRIBE)
            .bind(oid)
            .bind(extent.foreign_keys)
            .bind(extent.serial_sequences)
            .fetch_all(connection)
            .await
            .doing(doing)?;
        let lines = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)));
        lines.collect::<Result<_, sqlx::Error>>().map(Self).doing(doing)
    }

    /// With the copy's names replaced by the original's.
    pub(super) fn named_as_original(self, objects: &[Named]) -> Self {
        let lines = self.0.into_iter().map(|(kind, name, what)| {
            let original = objects.iter().find(|object| object.shadow == name).map(|object| object.name.clone());
            (kind, original.unwrap_or(name), what)
        });
        Self(lines.collect())
    }

    /// The first thing that is not the same in the other, in words.
    pub(super) fn difference(&self, copy: &Self) -> Option<String> {
        let missing = self.0.difference(&copy.0).next();
        let added = copy.0.difference(&self.0).next();
        let name = |(kind, name, _): &(String, String, String)| format!("{kind} {name}").trim_end().to_owned();
        match (missing, added) {
            (None, None) => None,
            (Some(missing), Some(added)) if missing.0 == added.0 && missing.1 == added.1 => {
                Some(format!("{} is {:?}, and in the copy {:?}", name(missing), missing.2, added.2))
            }
            (Some(missing), _) => Some(format!("{} ({}) is not in the copy", name(missing), missing.2)),
            (None, Some(added)) => Some(format!("{} ({}) is in the copy alone", name(added), added.2)),
        }
    }
}
