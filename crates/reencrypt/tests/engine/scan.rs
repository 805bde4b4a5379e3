//! Looking through a whole database: every form and type is found where it is, nothing else is, and a survey refuses what
//! it would leave behind.

use keys::KeySet;
use keys::value::{Encoding, ValueKind};
use reencrypt::scan::{ColumnState, ScanReport, ScannedColumn, targets_file};
use reencrypt::{Engine, EngineError, Targets};

use rotation::Survey;

use crate::documented::documented;
use crate::farm::{Cell, Place, Vault, in_lines, on_both, request};

/// Lets the role see everything, as docs/database.md advises.
pub(crate) async fn see_all(vault: &Vault) {
    let sql = match vault.place {
        Place::Postgres { .. } => documented("see all"),
        Place::Mariadb { .. } => vault.documented("see all"),
        Place::Sqlite { .. } => return,
    };
    vault.run(&vault.named(&sql)).await;
}

pub(crate) async fn scan(vault: &Vault) -> ScanReport {
    vault.engine().await.scan(&|_| {}).await.unwrap()
}

pub(crate) async fn survey(vault: &Vault, targets: &Targets) -> Result<Survey, EngineError> {
    let ring = KeySet::new("farm", vault.old.clone(), 0);
    let engine = Engine::connect(&vault.config, targets.clone()).await.unwrap();
    engine.survey(&request(&ring, &[], 8), &|_| {}).await
}

#[track_caller]
pub(crate) fn found<'a>(report: &'a ScanReport, table: &str, column: &str) -> &'a ScannedColumn {
    let it = report.found.iter().find(|found| found.table == table && found.column == column);
    it.unwrap_or_else(|| panic!("{table}.{column} is not in {:?}", report.found))
}

/// What a column holds, as `kind version encoding count`.
pub(crate) fn groups(column: &ScannedColumn) -> Vec<String> {
    let group = |group: &reencrypt::scan::ValueGroup| {
        format!("{} {} {} {}", group.kind, group.version, group.encoding, group.values)
    };
    column.values.iter().map(group).collect()
}

/// What each column of a table holds.
fn columns_of(report: &ScanReport, table: &str) -> Vec<String> {
    let those = report.found.iter().filter(|found| found.table == table);
    those.map(|found| format!("{}: {}", found.column, groups(found).join(", "))).collect()
}

fn url_safe(cell: &Cell) -> Cell {
    match cell {
        Cell::Text(text) => Cell::Text(text.replace('+', "-").replace('/', "_").trim_end_matches('=').to_owned()),
        other => other.clone(),
    }
}

on_both! {
    async fn registered_columns_are_counted_and_nothing_else_is_found(vault) {
        vault.seed(200).await;
        see_all(&vault).await;
        let report = scan(&vault).await;
        let names: Vec<String> =
            report.found.iter().map(|found| format!("{}.{}", found.table, found.column)).collect();
        let expected =
            ["User Entries.secret", "attachments.content", "connections.password", "connections.notes", "documents.body"];
        assert_eq!(names, expected);
        assert!(report.found.iter().all(|found| found.state == ColumnState::Registered), "{:?}", report.found);
        assert_eq!(groups(found(&report, "connections", "password")), ["symmetric ciphertext 2 raw 192"]);
        assert_eq!(groups(found(&report, "connections", "notes")), ["symmetric ciphertext 2 base64 190"]);
        assert_eq!(report.tables, 4);
    }

    async fn a_survey_refuses_what_it_would_leave_behind_until_it_is_registered_or_excluded(vault) {
        vault.seed(40).await;
        vault.run("CREATE TABLE forgotten (id integer PRIMARY KEY, secret text, other text);").await;
        vault.insert("forgotten", &[vec![Cell::Integer(1), vault.base64("x"), Cell::Text("plain".to_owned())]]).await;
        see_all(&vault).await;
        let refused = survey(&vault, &vault.targets).await.unwrap_err();
        assert!(matches!(&refused, EngineError::Unregistered(columns) if columns == &["forgotten.secret (1 values)"]), "{refused}");
        let fault = refused.fault();
        assert_eq!(fault.code.as_str(), "unregistered-columns");
        assert!(fault.next_step.contains("keyturn db scan") && !fault.retryable);

        let report = scan(&vault).await;
        assert_eq!(found(&report, "forgotten", "secret").state, ColumnState::Unregistered);
        let written = Targets::parse(&targets_file(&report, &vault.targets)).unwrap();
        assert_eq!(written.tables().len(), vault.targets.tables().len() + 1);
        assert_eq!(written.table("forgotten").unwrap().columns[0].encoding, Encoding::Base64);
        assert_eq!(written.table("connections"), vault.targets.table("connections"), "aad and all");

        let exclude = "[[exclude]]\ntable = \"forgotten\"\ncolumns = [\"secret\"]\nreason = \"of another farm\"\n";
        let excluding = |exclude: &str| Targets::parse(&format!("{}\n{exclude}", crate::farm::TARGETS)).unwrap();
        survey(&vault, &excluding(exclude)).await.unwrap();
        let engine = Engine::connect(&vault.config, excluding(exclude)).await.unwrap();
        let report = engine.scan(&|_| {}).await.unwrap();
        assert_eq!(found(&report, "forgotten", "secret").state, ColumnState::Excluded);

        for gone in [exclude.replace("secret", "secrets"), exclude.replace("forgotten", "Forgotten"),
                     exclude.replace("secret", "Secret"), format!("{exclude}schema = \"elsewhere\"\n")] {
            let engine = Engine::connect(&vault.config, excluding(&gone)).await.unwrap();
            let ring = KeySet::new("farm", vault.old.clone(), 0);
            for refused in [survey(&vault, &excluding(&gone)).await.unwrap_err(), engine.scan(&|_| {}).await.unwrap_err(),
                            engine.doctor(&ring, &[], false, &|_| {}).await.unwrap_err()] {
                let fault = refused.fault();
                assert_eq!(fault.code.as_str(), "targets");
                assert!(fault.message.contains("the excluded column") && fault.message.contains("does not exist"), "{refused}");
                assert!(fault.message.contains("take it out there"), "{refused}");
            }
        }
    }

    async fn what_is_excluded_may_be_hidden_from_the_role(vault) {
        vault.seed(10).await;
        vault.run("CREATE TABLE closed (id int PRIMARY KEY, body varchar(100)); CREATE TABLE narrow (id int PRIMARY KEY, c varchar(100), d varchar(100));").await;
        if !vault.is_sqlite() {
            let schema = if vault.is_mariadb() { "vault." } else { "" };
            vault.run(&vault.named(&format!("GRANT SELECT (id, c) ON {schema}narrow TO keyturn_agent;")
                .replace("keyturn_agent;", if vault.is_mariadb() { "keyturn_agent@'%';" } else { "keyturn_agent;" }))).await;
        }
        let excluding = |table: &str, column: &str| {
            let exclude = format!("[[exclude]]\ntable = \"{table}\"\ncolumns = [\"{column}\"]\nreason = \"another farm's\"\n");
            Targets::parse(&format!("{}\n{exclude}", crate::farm::TARGETS)).unwrap()
        };
        for (table, column) in [("closed", "body"), ("narrow", "d")] {
            survey(&vault, &excluding(table, column)).await.unwrap();
        }
        for (table, column) in [("closed", "gone"), ("narrow", "gone"), ("narrow", "D")] {
            if vault.is_mysql() {
                // Which tells nobody what there is.
                survey(&vault, &excluding(table, column)).await.unwrap();
                continue;
            }
            let refused = survey(&vault, &excluding(table, column)).await.unwrap_err().to_string();
            assert!(refused.contains(&format!("the excluded column {table}.{column} does not exist")), "{refused}");
        }
    }

    async fn every_form_is_told_and_what_cannot_be_registered_says_why(vault) {
        let blob = vault.types("{blob}");
        vault.run(&format!("CREATE TABLE odd (id integer PRIMARY KEY, t text, b {blob}, h text, j text, mixed {blob}, plain text);
                            CREATE TABLE keyless (secret {blob});")).await;
        let Cell::Bytes(raw) = vault.raw("one", "") else { panic!("raw values are bytes") };
        // Padded, and one in which the two alphabets differ, which not every ciphertext does.
        let plaintext = "two, and some more of it, of a length that needs padding, as is seen below";
        let text = loop {
            let Cell::Text(text) = vault.base64(plaintext) else { panic!("base64 values are text") };
            if text.contains(['+', '/']) {
                break text;
            }
        };
        assert!(text.ends_with('='));
        let hexadecimal: String = raw.iter().map(|byte| format!("{byte:02x}")).collect();
        let document = format!("{{\"password\": \"{text}\"}}");
        let row = |id: i64, cells: [Cell; 6]| [vec![Cell::Integer(id)], cells.to_vec()].concat();
        let asymmetric = [&[0x0d, 0x0c, 2, 0, 2, 0, 2, 0][..], &[7; 80]].concat();
        let hash = [&[0x0d, 0x0c, 3, 0, 0, 0, 1, 0][..], &[7; 40]].concat();
        let by_chance = [&[0x0d, 0x0c][..], b"ordinary bytes that begin so"].concat();
        vault.insert("odd", &[
            row(1, [Cell::Text(text.clone()), Cell::Bytes(raw.clone()), Cell::Text(hexadecimal.clone()),
                    Cell::Text(document), Cell::Bytes(raw.clone()), Cell::Text("DQw is no value".to_owned())]),
            row(2, [url_safe(&Cell::Text(text.clone())), Cell::Bytes(asymmetric), Cell::Text(format!("0x{hexadecimal}")),
                    Cell::Text("mentions DQwC only".to_owned()), Cell::Bytes(text.clone().into_bytes()), Cell::Null]),
            row(3, [Cell::Text(format!("{text}\n")), Cell::Bytes(hash), Cell::Null, Cell::Null, Cell::Bytes(raw[..5].to_vec()), Cell::Null]),
            row(4, [Cell::Text("dqwc".to_owned()), Cell::Bytes(by_chance), Cell::Null, Cell::Null, Cell::Null, Cell::Null]),
        ]).await;
        vault.insert("keyless", &[vec![Cell::Bytes(raw.clone())]]).await;
        see_all(&vault).await;
        let report = scan(&vault).await;
        let texts = groups(found(&report, "odd", "t"));
        assert_eq!(texts.iter().map(|group| group.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum::<u64>(), 3, "{texts:?}");
        assert!(texts.iter().any(|group| group.contains("base64url unpadded")), "{texts:?}");
        assert_eq!(groups(found(&report, "odd", "b")),
            ["symmetric ciphertext 2 raw 1", "asymmetric ciphertext 2 raw 1", "password hash 1 raw 1"]);
        assert_eq!(groups(found(&report, "odd", "h")), ["symmetric ciphertext 2 hex 2"]);
        assert_eq!(groups(found(&report, "odd", "j")), ["symmetric ciphertext 2 within other text 1"]);
        assert_eq!(groups(found(&report, "odd", "mixed")),
            ["symmetric ciphertext 0 raw 1", "symmetric ciphertext 2 raw 1", "symmetric ciphertext 2 base64 1"]);
        assert!(!report.found.iter().any(|found| found.column == "plain"));
        let obstacle = |table: &str, column: &str| found(&report, table, column).obstacle.clone().unwrap_or_default();
        assert!(obstacle("odd", "h").contains("stand as hex"), "{}", obstacle("odd", "h"));
        assert!(obstacle("odd", "mixed").contains("another encoding"), "{}", obstacle("odd", "mixed"));
        assert!(obstacle("keyless", "secret").contains("no primary key"));
        let written = targets_file(&report, &Targets::none());
        assert!(written.contains("# keyless.secret CANNOT BE REGISTERED"), "{written}");
        assert_eq!(Targets::parse(&written).unwrap().table("odd").unwrap().columns.len(), 2);
    }

    async fn base64_in_lines_is_told_as_what_it_is(vault) {
        let blob = vault.types("{blob}");
        vault.run(&format!("CREATE TABLE wrapped (id integer PRIMARY KEY, t text, b {blob});")).await;
        // As many bytes as need no padding.
        let Cell::Text(text) = vault.base64(&"x".repeat(99)) else { panic!("base64 values are text") };
        assert!(!text.ends_with('='));
        let lines = [(76, "\r\n", ""), (76, "\n", ""), (64, "\n", "\n"), (9, "\r\n", ""), (7, "\n", "\n"), (2, "\n", ""), (1, "\r\n", "")];
        for (id, (width, ending, last)) in (1..).zip(lines) {
            let text = in_lines(&text, width, ending) + last;
            let bytes = Cell::Bytes(text.clone().into_bytes());
            vault.insert("wrapped", &[vec![Cell::Integer(id), Cell::Text(text), bytes]]).await;
        }
        see_all(&vault).await;
        let report = scan(&vault).await;
        for column in ["t", "b"] {
            assert_eq!(groups(found(&report, "wrapped", column)), ["symmetric ciphertext 2 base64 7"]);
            assert_eq!(found(&report, "wrapped", column).obstacle, None);
        }
    }

    async fn a_column_that_holds_nothing_of_the_farms_key_keeps_no_rotation_from_beginning(vault) {
        vault.seed(20).await;
        let blob = vault.types("{blob}");
        vault.run(&format!("CREATE TABLE users (id integer PRIMARY KEY, hash {blob});")).await;
        let hash = [&[0x0d, 0x0c, 3, 0, 0, 0, 2, 0][..], &[7; 40]].concat();
        vault.insert("users", &[vec![Cell::Integer(1), Cell::Bytes(hash)]]).await;
        see_all(&vault).await;
        survey(&vault, &vault.targets).await.unwrap();
        let report = scan(&vault).await;
        let column = found(&report, "users", "hash");
        assert_eq!((column.state, column.values[0].kind), (ColumnState::Unaffected, ValueKind::PasswordHash));
    }

    async fn keyturns_own_tables_are_passed_over(vault) {
        vault.seed(20).await;
        let blob = vault.types("{blob}");
        vault.run(&format!("CREATE TABLE keyturn_01234567_9_1_old (id integer PRIMARY KEY, secret {blob});")).await;
        vault.insert("keyturn_01234567_9_1_old", &[vec![Cell::Integer(1), vault.raw("x", "")]]).await;
        see_all(&vault).await;
        survey(&vault, &vault.targets).await.unwrap();
        let report = scan(&vault).await;
        assert!(report.own_tables.iter().any(|table| table.ends_with("keyturn_01234567_9_1_old")), "{:?}", report.own_tables);
    }
}

#[tokio::test]
async fn postgres_partitions_types_and_what_may_not_be_read() {
    let vault = Vault::postgres().await;
    vault.seed(20).await;
    vault
        .run(
            "CREATE SCHEMA \"Other.One\"; CREATE SCHEMA closed;
             CREATE DOMAIN \"Other.One\".secret AS bytea;
             CREATE TABLE \"Other.One\".parts (id int, c \"Other.One\".secret, PRIMARY KEY (id)) PARTITION BY RANGE (id);
             CREATE TABLE \"Other.One\".low PARTITION OF \"Other.One\".parts FOR VALUES FROM (0) TO (10);
             CREATE TABLE \"Other.One\".high PARTITION OF \"Other.One\".parts FOR VALUES FROM (10) TO (20);
             CREATE TABLE documents2 (id int PRIMARY KEY, j jsonb, a text[], s bytea[], v varchar(400) COLLATE \"C\");
             CREATE TABLE closed.t (id int PRIMARY KEY, c bytea);
             CREATE TABLE odd (id int PRIMARY KEY, words tsvector[], sought tsquery);
             CREATE TABLE hidden (id int PRIMARY KEY, c bytea); ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;
             CREATE TABLE narrow (id int PRIMARY KEY, c bytea, d bytea);
             CREATE MATERIALIZED VIEW cached AS SELECT id, password FROM connections;",
        )
        .await;
    for id in [1, 11] {
        vault.insert("\"Other.One\".parts", &[vec![Cell::Integer(id), vault.raw("x", "")]]).await;
    }
    let Cell::Text(text) = vault.base64("in a document") else { panic!("text") };
    vault
        .run(&format!(
            "INSERT INTO documents2 VALUES (1, '{{\"p\": {{\"q\": \"{text}\"}}}}', ARRAY['no', '{text}'], NULL, '{text}')"
        ))
        .await;
    vault
        .run(&vault.named(
            "GRANT USAGE ON SCHEMA \"Other.One\" TO keyturn_agent; GRANT SELECT ON \"Other.One\".parts TO keyturn_agent;
             GRANT SELECT ON documents2, hidden, cached, odd TO keyturn_agent; GRANT SELECT (id, c) ON narrow TO keyturn_agent;",
        ))
        .await;
    let report = scan(&vault).await;
    let parts = found(&report, "\"Other.One\".parts", "c");
    assert_eq!(groups(parts), ["symmetric ciphertext 2 raw 2"], "partitions are counted once");
    assert!(
        parts.obstacle.is_none()
            && parts.missing_rights.as_ref().is_some_and(|rights| rights.contains("may not UPDATE")),
        "{parts:?}"
    );
    assert!(!report.found.iter().any(|found| found.table.contains("low") || found.table.contains("high")));
    assert_eq!(groups(found(&report, "documents2", "j")), ["symmetric ciphertext 2 within other text 1"]);
    assert_eq!(groups(found(&report, "documents2", "a")), ["symmetric ciphertext 2 array elements 1"]);
    assert_eq!(found(&report, "documents2", "v").values[0].values, 1);
    let cached = found(&report, "cached", "password");
    assert!(cached.obstacle.as_ref().is_some_and(|why| why.contains("is a materialized view")), "{cached:?}");
    let unseen: Vec<String> = report
        .not_looked_into
        .iter()
        .map(|unseen| format!("{}.{}: {}", unseen.table, unseen.column.as_deref().unwrap_or("*"), unseen.reason))
        .collect();
    for said in [
        "closed.t.*: the role has no USAGE",
        "hidden.*: row level security",
        "narrow.d: the role may not SELECT",
        "odd.words: the type tsvector[] is not looked into",
        "odd.sought: the type tsquery is not looked into",
    ] {
        assert!(unseen.iter().any(|line| line.starts_with(said)), "{said:?} is not in {unseen:?}");
    }
}

#[tokio::test]
async fn of_a_table_of_postgres_with_partitions_elsewhere_what_is_here_is_looked_into_and_no_other_server_is_asked() {
    let vault = Vault::postgres().await;
    // Without a handler, whoever asks the other server is refused.
    vault
        .run(
            "CREATE SCHEMA far; CREATE SCHEMA barred;
             CREATE FOREIGN DATA WRAPPER silent; CREATE SERVER elsewhere FOREIGN DATA WRAPPER silent;
             CREATE TABLE parts (id int, c bytea, t text[], PRIMARY KEY (id)) PARTITION BY RANGE (id);
             CREATE TABLE parts_low (t text[], gone int, id int NOT NULL, c bytea); ALTER TABLE parts_low DROP gone;
             ALTER TABLE parts ATTACH PARTITION parts_low FOR VALUES FROM (0) TO (10);
             CREATE TABLE parts_middle PARTITION OF parts FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id);
             CREATE TABLE parts_under PARTITION OF parts_middle FOR VALUES FROM (10) TO (15);
             CREATE TABLE parts_whole PARTITION OF parts FOR VALUES FROM (30) TO (40);
             CREATE TABLE barred.parts PARTITION OF parts FOR VALUES FROM (50) TO (60);
             CREATE TABLE parts_hidden PARTITION OF parts FOR VALUES FROM (60) TO (70);
             ALTER TABLE parts_hidden ENABLE ROW LEVEL SECURITY;
             CREATE TABLE nothing_here (id int, c bytea) PARTITION BY RANGE (id);",
        )
        .await;
    let Cell::Text(text) = vault.base64("x") else { panic!("text") };
    let raw = vault.raw("x", "");
    for id in [1, 2, 11, 31] {
        vault.insert("parts", &[vec![Cell::Integer(id), raw.clone(), Cell::Text(format!("{{{text}}}"))]]).await;
    }
    // Primary keys keep foreign tables out.
    vault
        .run(
            "ALTER TABLE parts DROP CONSTRAINT parts_pkey;
             CREATE FOREIGN TABLE far.parts PARTITION OF parts FOR VALUES FROM (20) TO (30) SERVER elsewhere;
             CREATE FOREIGN TABLE parts_far PARTITION OF parts_middle FOR VALUES FROM (15) TO (20) SERVER elsewhere;
             CREATE FOREIGN TABLE nothing_far PARTITION OF nothing_here DEFAULT SERVER elsewhere;",
        )
        .await;
    vault
        .run(&vault.named("GRANT SELECT ON parts, parts_low, parts_under, parts_hidden, nothing_here TO keyturn_agent"))
        .await;
    let report = scan(&vault).await;
    assert_eq!(groups(found(&report, "parts", "c")), ["symmetric ciphertext 2 raw 3"]);
    assert_eq!(groups(found(&report, "parts", "t")), ["symmetric ciphertext 2 array elements 3"]);
    let unseen = |report: &ScanReport| -> Vec<String> {
        let of_parts = report
            .not_looked_into
            .iter()
            .filter(|unseen| unseen.table.contains("parts") || unseen.table.contains("nothing"));
        of_parts.map(|unseen| format!("{}: {}", unseen.table, unseen.reason)).collect()
    };
    let foreign = "it is a foreign table; its rows are another server's";
    let expected = [
        format!("nothing_far: {foreign}"),
        "barred.parts: the role has no USAGE on the schema".to_owned(),
        format!("far.parts: {foreign}"),
        format!("parts_far: {foreign}"),
        "parts_hidden: row level security would hide rows; a role with BYPASSRLS sees all".to_owned(),
        "parts_whole: the role may not SELECT it, and another partition of its table is a foreign table".to_owned(),
    ];
    assert_eq!(unseen(&report), expected);
    see_all(&vault).await;
    let report = scan(&vault).await;
    assert_eq!(groups(found(&report, "parts", "c")), ["symmetric ciphertext 2 raw 4"]);
    assert_eq!(unseen(&report), [0, 2, 3, 4].map(|at| expected[at].clone()));
}

on_both! {
    async fn what_the_role_may_not_look_into_stands_in_the_survey(vault) {
        vault.seed(10).await;
        vault.run("CREATE TABLE closed (id int PRIMARY KEY, body varchar(100))").await;
        let closed = |survey: &Survey| {
            // Of MySQL it is not known which.
            let name = if vault.is_mysql() { "any other table" } else { "closed" };
            let of = |unseen: &&rotation::NotLookedInto| unseen.table == name;
            let found: Vec<_> = survey.unseen.named.iter().filter(of).cloned().collect();
            assert_eq!(survey.unseen.total, survey.unseen.named.len() as u64);
            found
        };
        let found = closed(&survey(&vault, &vault.targets).await.unwrap());
        if vault.is_sqlite() {
            assert_eq!(found, []);
        } else {
            let reason = if vault.is_mysql() { "SELECT on the database shows all" } else { "may not SELECT" };
            assert!(found.len() == 1 && found[0].reason.contains(reason), "{found:?}");
        }
        see_all(&vault).await;
        assert_eq!(closed(&survey(&vault, &vault.targets).await.unwrap()), []);
    }
}

#[tokio::test]
async fn postgres_arrays_composites_and_documents_are_looked_into_and_hold_a_rotation_up() {
    let vault = Vault::postgres().await;
    vault.seed(10).await;
    vault
        .run(
            "CREATE DOMAIN secret AS bytea; CREATE DOMAIN token AS text; CREATE DOMAIN tokens AS token[];
             CREATE TYPE login AS (name text, password bytea, token text);
             CREATE TYPE account AS (number int, login login);
             CREATE TYPE mood AS ENUM ('good', 'bad');
             CREATE TABLE held (id int PRIMARY KEY, bytes bytea[], secrets secret[], texts varchar(400)[], tokens token[],
                 domain tokens, nested tokens[], login login, account account, logins login[], documents jsonb[],
                 plain text[], moods mood[], numbers int[]);
             CREATE TABLE documents2 (id int PRIMARY KEY, j json, x xml);",
        )
        .await;
    let (bytes, text) = (vault.literal(&vault.raw("x", "")), vault.literal(&vault.base64("y")));
    vault
        .run(&format!(
            "INSERT INTO held SELECT 1, ARRAY[{bytes}, NULL, {bytes}, '\\x00'], ARRAY[{bytes}]::secret[], ARRAY[['a', {text}], [{text}, NULL]],
                 ARRAY['a', {text}]::token[], ARRAY[{text}]::tokens, ARRAY[ARRAY[{text}, {text}]::tokens, NULL]::tokens[],
                 ('me', {bytes}, 'no')::login, (7, ('me', NULL, {text})::login)::account,
                 ARRAY[('me', {bytes}, NULL)::login, ('you', NULL, NULL)::login],
                 ARRAY[json_build_object('p', {text})::jsonb], ARRAY['DQw', 'no'], ARRAY['good']::mood[], ARRAY[1];
             INSERT INTO held (id) VALUES (2);
             INSERT INTO documents2 VALUES (1, json_build_object('p', {text}), xmlparse(CONTENT '<p>' || {text} || '</p>'))",
        ))
        .await;
    see_all(&vault).await;
    let report = scan(&vault).await;
    let held = columns_of(&report, "held");
    let expected = [
        ("bytes", "array elements 2"),
        ("secrets", "array elements 1"),
        ("texts", "array elements 2"),
        ("tokens", "array elements 1"),
        ("domain", "array elements 1"),
        ("nested", "array elements 2"),
        ("login", "part of a composite 1"),
        ("account", "part of a composite 1"),
        ("logins", "array elements 1"),
        ("documents", "array elements 1"),
    ];
    assert_eq!(held, expected.map(|(column, values)| format!("{column}: symmetric ciphertext 2 {values}")));
    for column in ["j", "x"] {
        assert_eq!(groups(found(&report, "documents2", column)), ["symmetric ciphertext 2 within other text 1"]);
    }
    assert_eq!(report.not_looked_into, []);
    let obstacle = found(&report, "held", "bytes").obstacle.clone().unwrap_or_default();
    assert!(obstacle.contains("stand as array elements, which is not supported"), "{obstacle}");

    let refused = survey(&vault, &vault.targets).await.unwrap_err();
    assert!(matches!(&refused, EngineError::Unregistered(columns) if columns.len() == 12), "{refused}");
    let exclude = |table: &str, columns: &str| {
        format!("[[exclude]]\ntable = \"{table}\"\ncolumns = [{columns}]\nreason = \"turned by the application\"\n")
    };
    let columns = expected.map(|(column, _)| format!("\"{column}\"")).join(", ");
    let excluding =
        [crate::farm::TARGETS, &exclude("held", &columns), &exclude("documents2", "\"j\", \"x\"")].join("\n");
    survey(&vault, &Targets::parse(&excluding).unwrap()).await.unwrap();
}

#[tokio::test]
async fn postgres_ranges_over_text_and_bytes_are_looked_into_and_hold_a_rotation_up() {
    let vault = Vault::postgres().await;
    vault.seed(10).await;
    vault
        .run(
            "CREATE DOMAIN word AS text; CREATE TYPE login AS (name text, password bytea);
             CREATE TYPE texts AS RANGE (subtype = text, multirange_type_name = text_ranges);
             CREATE TYPE words AS RANGE (subtype = word); CREATE TYPE bytes AS RANGE (subtype = bytea);
             CREATE TYPE logins AS RANGE (subtype = login); CREATE TYPE lists AS RANGE (subtype = text[]);
             CREATE TYPE holder AS (words words); CREATE DOMAIN chosen AS texts;
             CREATE TYPE searches AS RANGE (subtype = tsvector);
             CREATE TABLE ranged (id int PRIMARY KEY, texts texts, upper texts, many text_ranges, words words[], bytes bytes,
                 logins logins, lists lists, holder holder, chosen chosen, searches searches,
                 none texts, numbers int4range, days daterange[], many_numbers nummultirange);",
        )
        .await;
    let (raw, text) = (vault.literal(&vault.raw("x", "")), vault.literal(&vault.base64("y")));
    vault
        .run(&format!(
            "INSERT INTO ranged VALUES (1, texts({text}, NULL), texts('A', {text}, '()'),
                 text_ranges(texts('A', 'B'), texts({text}, {text}, '[]')), ARRAY[words({text}, NULL), NULL, words(NULL, {text})],
                 bytes({raw}, NULL), logins(('me', {raw})::login, NULL), lists(ARRAY[{text}], NULL),
                 ROW(words({text}, NULL))::holder, texts({text}, NULL)::chosen, NULL,
                 texts('DQw', 'no'), int4range(1, 5), ARRAY[daterange('2024-01-01', NULL)], nummultirange(numrange(1, 2)));
             INSERT INTO ranged (id) VALUES (2)"
        ))
        .await;
    see_all(&vault).await;
    let report = scan(&vault).await;
    let held = columns_of(&report, "ranged");
    let expected = [
        ("texts", "bound of a range 1"),
        ("upper", "bound of a range 1"),
        ("many", "bound of a range 1"),
        ("words", "array elements 2"),
        ("bytes", "bound of a range 1"),
        ("logins", "bound of a range 1"),
        ("lists", "bound of a range 1"),
        ("holder", "part of a composite 1"),
        ("chosen", "bound of a range 1"),
    ];
    assert_eq!(held, expected.map(|(column, values)| format!("{column}: symmetric ciphertext 2 {values}")));
    let unseen: Vec<_> =
        report.not_looked_into.iter().map(|unseen| (unseen.column.as_deref(), unseen.reason.as_str())).collect();
    assert_eq!(unseen, [(Some("searches"), "the type public.searches is not looked into")]);
    let refused = survey(&vault, &vault.targets).await.unwrap_err();
    assert!(matches!(&refused, EngineError::Unregistered(columns) if columns.len() == expected.len()), "{refused}");
}

#[tokio::test]
async fn what_mariadb_keeps_for_itself_is_not_missed_and_a_partitioned_table_is() {
    let vault = Vault::mariadb().await;
    vault
        .run(
            "CREATE TABLE searched (id int PRIMARY KEY, body text, FULLTEXT (body));
             CREATE SEQUENCE numbers;
             CREATE TABLE `FTS_of the vault` (id int PRIMARY KEY, body text);
             CREATE TABLE `parts #1` (id int PRIMARY KEY, body text) PARTITION BY HASH (id) PARTITIONS 3",
        )
        .await;
    let unseen = async || {
        let names: Vec<String> = scan(&vault).await.not_looked_into.into_iter().map(|unseen| unseen.table).collect();
        names.into_iter().filter(|name| vault.targets.table(name).is_none()).collect::<Vec<_>>()
    };
    assert_eq!(unseen().await, ["any other table", "FTS_of the vault", "parts #1", "searched"]);
    see_all(&vault).await;
    assert_eq!(unseen().await, [""; 0]);
}

#[tokio::test]
async fn a_scan_of_mariadb_says_that_there_may_be_what_the_account_is_shown_nothing_of() {
    let vault = Vault::mariadb().await;
    vault.seed(10).await;
    vault
        .run(
            "CREATE TABLE closed (id int PRIMARY KEY, body text); CREATE TABLE narrow (id int PRIMARY KEY, c text, d text);
             CREATE TABLE elsewhere (id int PRIMARY KEY, body text) ENGINE = Aria",
        )
        .await;
    vault.run(&vault.named("GRANT SELECT (id, c) ON vault.narrow TO keyturn_agent@'%'")).await;
    let unseen = async || -> Vec<String> {
        let line = |unseen: rotation::NotLookedInto| {
            format!("{}.{}: {}", unseen.table, unseen.column.as_deref().unwrap_or("*"), unseen.reason)
        };
        scan(&vault).await.not_looked_into.into_iter().map(line).collect()
    };
    let said = |lines: &[String], beginnings: &[&str]| {
        assert_eq!(lines.len(), beginnings.len(), "{lines:?}");
        for (line, beginning) in lines.iter().zip(beginnings) {
            assert!(line.starts_with(beginning), "{beginning:?} {lines:?}");
        }
    };
    let narrow = "narrow.any other column: there may be columns";
    let others = "any other table.*: there may be tables that InnoDB does not keep of which";
    said(&unseen().await, &[others, "closed.*: the account may not SELECT it", narrow]);
    vault.run(&vault.named("REVOKE PROCESS ON *.* FROM keyturn_agent@'%'")).await;
    said(&unseen().await, &["any other table.*: there may be tables of which the account is shown nothing", narrow]);
    // Nobody can know whether it is there, so it is no error.
    let exclude = "[[exclude]]\ntable = \"nowhere\"\ncolumns = [\"x\"]\nreason = \"another farm's\"\n";
    let targets = Targets::parse(&format!("{}\n{exclude}", crate::farm::TARGETS)).unwrap();
    Engine::connect(&vault.config, targets).await.unwrap().scan(&|_| {}).await.unwrap();
    see_all(&vault).await;
    said(&unseen().await, &[]);
}

#[tokio::test]
async fn a_scan_of_postgres_runs_no_cast_that_the_owner_of_a_type_made() {
    let vault = Vault::postgres().await;
    vault.seed(10).await;
    let Place::Postgres { application, .. } = &vault.place else { panic!("not PostgreSQL") };
    let (bytes, text) = (vault.literal(&vault.raw("x", "")), vault.literal(&vault.base64("y")));
    vault
        .run(&format!(
            "CREATE SCHEMA planted AUTHORIZATION {application}; SET ROLE {application};
             CREATE TABLE planted.caught (who text); GRANT ALL ON SCHEMA planted TO PUBLIC; GRANT ALL ON planted.caught TO PUBLIC;
             CREATE FUNCTION planted.catch(shown text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
                 PERFORM set_config('default_transaction_read_only', 'off', false);
                 IF current_setting('transaction_read_only') = 'off' THEN
                     INSERT INTO planted.caught VALUES (current_user);
                 END IF;
                 RETURN shown;
             END $$;
             CREATE TYPE planted.login AS (name text, password bytea, token text);
             CREATE TYPE planted.citext AS ENUM ('a');
             CREATE FUNCTION planted.apart(text, text) RETURNS float8 LANGUAGE sql IMMUTABLE
                 AS $$ SELECT planted.catch('0')::float8 $$;
             CREATE TYPE planted.hstore AS RANGE (subtype = text, subtype_diff = planted.apart);
             CREATE FUNCTION planted.shown(planted.login) RETURNS text LANGUAGE sql AS $$ SELECT planted.catch('none') $$;
             CREATE FUNCTION planted.shown(planted.citext) RETURNS text LANGUAGE sql AS $$ SELECT planted.catch('none') $$;
             CREATE FUNCTION planted.shown(planted.hstore) RETURNS text LANGUAGE sql AS $$ SELECT planted.catch('none') $$;
             CREATE CAST (planted.login AS text) WITH FUNCTION planted.shown(planted.login) AS IMPLICIT;
             CREATE CAST (planted.citext AS text) WITH FUNCTION planted.shown(planted.citext) AS IMPLICIT;
             CREATE CAST (planted.hstore AS text) WITH FUNCTION planted.shown(planted.hstore) AS IMPLICIT;
             CREATE TABLE planted.first (id int PRIMARY KEY, login planted.login, logins planted.login[], mood planted.citext,
                 texts planted.hstore);
             CREATE TABLE planted.second (LIKE planted.first INCLUDING ALL);
             INSERT INTO planted.first VALUES (1, ('me', {bytes}, NULL)::planted.login, ARRAY[('me', NULL, {text})::planted.login],
                 'a', planted.hstore({text}, NULL));
             INSERT INTO planted.second SELECT * FROM planted.first"
        ))
        .await;
    see_all(&vault).await;
    let report = scan(&vault).await;
    assert_eq!(vault.text("SELECT count(*)::text FROM planted.caught").await, "0", "nothing ran in the agent's name");
    for table in ["planted.first", "planted.second"] {
        assert_eq!(groups(found(&report, table, "login")), ["symmetric ciphertext 2 part of a composite 1"]);
        assert_eq!(groups(found(&report, table, "logins")), ["symmetric ciphertext 2 array elements 1"]);
        assert_eq!(groups(found(&report, table, "texts")), ["symmetric ciphertext 2 bound of a range 1"]);
    }
    assert_eq!(report.not_looked_into, []);
}

#[tokio::test]
async fn a_value_too_large_for_a_text_of_its_escapes_hides_no_table_from_a_scan_of_postgres() {
    let vault = Vault::postgres().await;
    vault
        .run(
            "CREATE TABLE large (id int PRIMARY KEY, b bytea, t text);
             INSERT INTO large VALUES (1, 'DQwCAAAAAA'::bytea || decode(repeat('00', 270000000), 'hex'), NULL);
             INSERT INTO large VALUES (2, NULL, 'DQwCAAAAAA' || repeat('A', 270000000))",
        )
        .await;
    see_all(&vault).await;
    assert_eq!(scan(&vault).await.not_looked_into, []);
}
