//! Backups: those that a rotation has made in Preflight or is shown, what is refused, and what `keyturn db backup` leaves
//! when it is ended.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sqlx::Connection as _;

use crate::support::{keyturn, mode, run, text};
use crate::vault::{ROWS, VaultFarm};

/// How long anything may take that is waited for.
const LIMIT: Duration = Duration::from_secs(60);

/// These two nodes back up: the first its folder, the second the database too.
fn backing_up(mut vault: VaultFarm) -> VaultFarm {
    vault.configure(0, "[backup]\ndirectory = \"backups-1\"\ndatabase = \"none\"\n");
    vault.configure(1, "[backup]\ndirectory = \"backups-2\"\n");
    vault
}

fn planned(vault: &VaultFarm, more: &[&str]) -> Value {
    vault.rotation(&[&["plan", "-o", "json"], more].concat()).json()
}

fn path(value: &Value) -> PathBuf {
    PathBuf::from(value.as_str().expect("a path"))
}

/// Names in a folder, but for the lock.
fn names(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().expect("UTF-8")).collect();
    names.retain(|name| name != ".lock");
    names.sort();
    names
}

fn digest(path: &Path) -> String {
    hex::encode(blake3_of(&std::fs::read(path).expect("a file")))
}

fn blake3_of(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

#[test]
fn a_rotation_makes_its_backup_in_preflight_and_plan_and_report_tell_of_it() {
    makes_its_backup(VaultFarm::new(2));
}

#[test]
fn a_rotation_makes_its_backup_in_preflight_on_mariadb() {
    makes_its_backup(VaultFarm::on_mariadb(2));
}

fn makes_its_backup(vault: VaultFarm) {
    let vault = backing_up(vault);
    let shown = vault.rotation(&["plan"]).done();
    for words in ["Backup:", "made in", "proved in", "BLAKE3", "Folder:"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    let status = vault.rotation(&["status", "-o", "json"]).json();
    let (backup, folders) = (&status["plan"]["backup"], &status["plan"]["folders"]);
    assert_eq!((&backup["node"], &backup["shown"]), (&"node-2".into(), &false.into()), "{backup}");
    let files = [path(&backup["path"]), path(&folders["node-1"]["path"]), path(&folders["node-2"]["path"])];
    for (file, evidence) in files.iter().zip([backup, &folders["node-1"], &folders["node-2"]]) {
        assert_eq!(mode(file), 0o600, "{}", file.display());
        assert_eq!(evidence["digest"], digest(file), "{}", file.display());
        assert_eq!(evidence["bytes"], file.metadata().expect("a file").len());
    }
    let rows = |field: &str| {
        let tables = backup["tables"].as_object().expect("tables").values();
        tables.map(|table| table[field].as_u64().expect("a count")).sum::<u64>()
    };
    assert_eq!((rows("rows"), rows("rows_opened")), (ROWS, ROWS), "{backup}");
    assert!(rows("values_opened") > 50, "{backup}");
    assert_eq!(names(&vault.farm.path("backups-1")).len(), 1, "the folder alone");
    assert_eq!(names(&vault.farm.path("backups-2")).len(), 3, "backup, description, folder, and nothing half made");

    let done = vault.turn();
    let report = vault.rotation(&["report", "-o", "json"]).json();
    assert_eq!(&report["backup"], backup, "{done}");
    assert_eq!(report["folders"]["node-1"], folders["node-1"]);
    // The next one is made anew: what was written since is in it.
    planned(&vault, &[]);
    assert_eq!(names(&vault.farm.path("backups-2")).len(), 6);
}

#[test]
fn without_a_backup_plan_and_report_say_so() {
    let mut vault = VaultFarm::new(1);
    assert!(vault.rotation(&["plan"]).done().contains("no backup of the database was made or shown"));
    vault.rotation(&["abort"]).done();
    let refused = vault.rotation(&["plan", "--backup", "/vault.db"]);
    assert!(refused.stderr.contains("no agent's configuration says where backups lie"), "{}", refused.stderr);
    vault.configure(0, "[backup]\ndirectory = \"backups\"\n");
    assert_eq!(planned(&vault, &["--no-backup"])["plan"]["backup"], Value::Null);
    vault.turn();
    assert_eq!(vault.rotation(&["report", "-o", "json"]).json()["backup"], Value::Null);
    assert!(vault.rotation(&["report"]).done().contains("no backup of the database was made or shown"));
    assert!(!Path::new(&vault.farm.path("backups")).exists(), "nothing was backed up");
}

#[test]
fn a_backup_that_is_shown_is_proved_and_a_damaged_or_foreign_one_is_refused_by_name() {
    let mut vault = VaultFarm::new(1);
    vault.configure(0, "[backup]\ndirectory = \"backups\"\n");
    let made = run(["db", "backup", "--config", &vault.config(0), "-o", "json"]).json();
    let backup = path(&made["path"]);
    let plan = planned(&vault, &["--backup", text(&backup)]);
    assert_eq!((&plan["plan"]["backup"]["shown"], &plan["plan"]["backup"]["digest"]), (&true.into(), &made["digest"]));
    vault.rotation(&["abort"]).done();

    let whole = std::fs::read(&backup).expect("readable");
    let refused = |what: &str, path: &str| {
        let refused = vault.rotation(&["plan", "--backup", path]);
        assert_eq!(refused.code, 1, "{}", refused.stderr);
        assert!(refused.stderr.contains(what), "{what}: {}", refused.stderr);
    };
    std::fs::write(&backup, &whole[..whole.len() / 2]).expect("written");
    refused("it was cut off", text(&backup));
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    std::fs::write(&backup, &flipped).expect("written");
    refused("bytes in it changed", text(&backup));
    std::fs::write(&backup, &whole).expect("written");
    // Without its description, what SQLite itself sees has to do.
    let bare = vault.farm.path("backups/bare.db");
    std::fs::write(&bare, &whole[..whole.len() / 2]).expect("written");
    refused("damaged", &bare);
    std::fs::write(&bare, &whole).expect("written");
    assert_eq!(planned(&vault, &["--backup", &bare])["plan"]["backup"]["position"], Value::Null);
    vault.rotation(&["abort"]).done();
    // Only what lies in the folder is looked at, whoever asks and by whatever way it is named.
    std::fs::write(vault.farm.path("outside.db"), &whole).expect("written");
    refused("is not in the backup folder", &vault.farm.path("outside.db"));
    refused("is not in the backup folder", "../outside.db");

    // Of another farm, and so under another key.
    let other = VaultFarm::new(1);
    let folder = other.farm.path("backups");
    let foreign = run(["db", "backup", "--config", &other.config(0), "--output-dir", &folder, "-o", "json"]).json();
    std::fs::copy(path(&foreign["path"]), vault.farm.path("backups/foreign.db")).expect("copied");
    refused("do not open with the key of this node", &vault.farm.path("backups/foreign.db"));
}

#[test]
fn a_full_disk_is_named_and_nothing_half_made_is_left() {
    fills_its_disk(VaultFarm::new(1));
}

#[test]
fn a_full_disk_is_named_and_nothing_half_made_is_left_on_mariadb() {
    fills_its_disk(VaultFarm::on_mariadb(1));
}

fn fills_its_disk(mut vault: VaultFarm) {
    let folder = vault.farm.path("small");
    std::fs::create_dir(&folder).expect("a folder");
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs", &folder])
        .status()
        .expect("mount runs");
    assert!(mounted.success(), "a small file system can be mounted, by root");
    vault.configure(0, "[backup]\ndirectory = \"small\"\n");
    let refused = vault.rotation(&["plan"]);
    let left = names(&folder);
    let unmounted = std::process::Command::new("umount").arg(&folder).status().expect("umount runs");
    assert!(unmounted.success());
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("disk-full") && refused.stderr.contains("make room"), "{}", refused.stderr);
    assert!(left.iter().all(|name| name.ends_with("-folder.tar")), "{left:?}");
}

/// Begins a backup that waits for a table which somebody holds, as `waits` tells: it, and the tool that it runs.
fn waiting(config: &str, waits: impl Fn() -> bool) -> (Child, Pid) {
    let mut backup = keyturn()
        .args(["db", "backup", "--config", config])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut said = BufReader::new(backup.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
    assert!(said.any(|line| line.contains("the database to be backed up")), "it begins");
    std::thread::spawn(move || said.for_each(drop));
    let deadline = Instant::now() + LIMIT;
    while !waits() {
        assert!(Instant::now() < deadline, "the tool does not wait");
        std::thread::yield_now();
    }
    let dump = child_of(backup.id());
    (backup, dump)
}

/// The one process that this one started.
fn child_of(parent: u32) -> Pid {
    let children = std::fs::read_dir(format!("/proc/{parent}/task")).expect("threads").find_map(|thread| {
        let children = std::fs::read_to_string(thread.ok()?.path().join("children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    });
    Pid::from_raw(children.expect("it has a child"))
}

/// Ends a backup that waits, by each signal in turn: its tool goes with it, and the password was nowhere to be seen.
fn ends_with_its_tool(folder: &str, config: &str, waits: impl Fn() -> bool, end_session: impl Fn()) {
    for signal in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGTERM] {
        let (mut backup, dump) = waiting(config, &waits);
        for place in ["cmdline", "environ"] {
            let seen = std::fs::read(format!("/proc/{dump}/{place}")).expect("readable");
            assert!(!String::from_utf8_lossy(&seen).contains("hunter2"), "{place} of the tool shows the password");
        }
        for name in names(folder) {
            let content = std::fs::read(Path::new(folder).join(&name)).expect("readable");
            assert!(!String::from_utf8_lossy(&content).contains("hunter2"), "{name} holds the password");
        }
        kill(Pid::from_raw(i32::try_from(backup.id()).expect("a pid")), signal).expect("it runs");
        assert_eq!(backup.wait().expect("it ends").code(), Some(130), "{signal}");
        assert_eq!(names(folder), Vec::<String>::new(), "{signal}");
        let deadline = Instant::now() + LIMIT;
        while kill(dump, None).is_ok() {
            assert!(Instant::now() < deadline, "the tool still runs after {signal}");
            std::thread::yield_now();
        }
        // The server does not notice before the lock is given.
        end_session();
    }
}

/// The node's configuration with a login for backups.
fn with_login(vault: &VaultFarm, url: &str) -> String {
    vault.farm.write("url", url);
    let config = std::fs::read_to_string(vault.config(0)).expect("a configuration");
    vault.farm.write("backup.toml", &(config + "[backup]\ndirectory = \"backups\"\nurl_file = \"url\"\n"));
    vault.farm.path("backup.toml")
}

#[test]
fn a_backup_that_is_ended_takes_its_tools_with_it_and_its_password_was_nowhere_to_be_seen() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let vault = VaultFarm::on_postgres(1);
    // The server trusts whoever reaches its socket; what counts is where the password can be seen.
    let config = with_login(&vault, &vault.urls.agent.replace("//postgres@", "//postgres:hunter2@"));
    let mut locker = runtime.block_on(sqlx::PgConnection::connect(&vault.urls.agent)).expect("connected");
    // Inside its transaction it would see the sessions of one moment for ever.
    let watcher = runtime.block_on(sqlx::PgConnection::connect(&vault.urls.agent)).expect("connected");
    let watcher = std::cell::RefCell::new(watcher);
    // Each by itself: sent together, the table would be part of what BEGIN begins, and nobody would see it.
    for statement in ["CREATE TABLE held (id int)", "BEGIN", "LOCK TABLE held IN ACCESS EXCLUSIVE MODE"] {
        runtime.block_on(sqlx::raw_sql(statement).execute(&mut locker)).expect("locked");
    }
    let waits = || {
        let waits =
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_dump' AND wait_event_type = 'Lock'";
        let count: Result<i64, _> = runtime.block_on(sqlx::query_scalar(waits).fetch_one(&mut *watcher.borrow_mut()));
        count.expect("answered") == 1
    };
    let end = || {
        let end = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'pg_dump'";
        runtime.block_on(sqlx::raw_sql(end).execute(&mut *watcher.borrow_mut())).expect("ended");
    };
    ends_with_its_tool(&vault.farm.path("backups"), &config, waits, end);
    for connection in [locker, watcher.into_inner()] {
        runtime.block_on(connection.close()).expect("closed");
    }
}

#[test]
fn a_backup_of_mariadb_needs_to_see_everything_and_takes_its_tools_with_it_when_it_is_ended() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let vault = VaultFarm::on_mariadb(1);
    let connect = || runtime.block_on(sqlx::MySqlConnection::connect(&vault.urls.agent)).expect("connected");
    let mut locker = connect();
    let watcher = std::cell::RefCell::new(connect());
    let run_sql = |sql: &'static str| {
        runtime.block_on(sqlx::raw_sql(sql).execute(&mut *watcher.borrow_mut())).expect("good SQL");
    };
    run_sql("CREATE USER keyturn_backup@'%' IDENTIFIED BY 'hunter2'");
    run_sql("GRANT SELECT, SHOW VIEW, EVENT, EXECUTE ON vault.* TO keyturn_backup@'%'");
    let config = with_login(&vault, &vault.urls.agent.replace("//root@", "//keyturn_backup:hunter2@"));
    let words = ["GRANT TRIGGER ON `vault`.* TO", "GRANT SELECT ON mysql.proc TO"];
    run(["db", "backup", "--config", &config]).failed(1, &words);
    run_sql("GRANT TRIGGER ON vault.* TO keyturn_backup@'%'");
    run_sql("GRANT SELECT ON mysql.proc TO keyturn_backup@'%'");
    let made = run(["db", "backup", "--config", &config, "-o", "json"]).json();
    let dumped = std::fs::read_to_string(path(&made["path"])).expect("a dump");
    assert!(dumped.contains("CREATE TABLE `connections`") && !dumped.contains("hunter2"));
    let folder = vault.farm.path("backups");
    std::fs::remove_dir_all(&folder).expect("removed");

    for statement in ["CREATE TABLE held (id int)", "LOCK TABLES held WRITE"] {
        runtime.block_on(sqlx::raw_sql(statement).execute(&mut locker)).expect("locked");
    }
    let waits = || {
        let waits = "SELECT ID FROM information_schema.PROCESSLIST
                     WHERE USER = 'keyturn_backup' AND STATE LIKE 'Waiting for table metadata lock%'";
        let row = runtime.block_on(sqlx::raw_sql(waits).fetch_optional(&mut *watcher.borrow_mut()));
        row.expect("answered").is_some()
    };
    ends_with_its_tool(&folder, &config, waits, || run_sql("KILL USER keyturn_backup"));
    for connection in [locker, watcher.into_inner()] {
        runtime.block_on(connection.close()).expect("closed");
    }
}

#[test]
fn a_shown_dump_of_mariadb_that_was_cut_off_is_refused_also_without_its_description() {
    let mut vault = VaultFarm::on_mariadb(1);
    vault.configure(0, "[backup]\ndirectory = \"backups\"\n");
    let made = run(["db", "backup", "--config", &vault.config(0), "-o", "json"]).json();
    let whole = std::fs::read(path(&made["path"])).expect("readable");
    let bare = vault.farm.path("backups/bare.sql");
    std::fs::write(&bare, &whole[..whole.len() - 300]).expect("written");
    let refused = vault.rotation(&["plan", "--backup", &bare]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("is damaged"), "{}", refused.stderr);
    // One that would have its own way with the database of its name does nothing there, and so proves nothing.
    let named = [b"USE vault;\n", &whole[..]].concat();
    std::fs::write(&bare, named.as_slice()).expect("written");
    assert_eq!(planned(&vault, &["--backup", &bare])["plan"]["backup"]["shown"], true);
    vault.rotation(&["abort"]).done();
    let elsewhere = [b"CREATE DATABASE other; USE other;\n", &whole[..]].concat();
    std::fs::write(&bare, elsewhere.as_slice()).expect("written");
    assert_eq!(vault.rotation(&["plan", "--backup", &bare]).code, 1);
}

#[test]
fn a_backup_of_any_database_is_made_by_its_url_and_of_a_temporary_one() {
    let vault = VaultFarm::new(1);
    for other in [VaultFarm::on_postgres(1), VaultFarm::on_mariadb(1)] {
        // The configuration names a database that is not there.
        let config = std::fs::read_to_string(other.config(0)).expect("a configuration");
        other.farm.write("elsewhere.toml", &config.replace(&other.urls.agent, "sqlite:///nowhere/vault.db"));
        other.farm.write("url", &other.urls.agent);
        let (config, url) = (other.farm.path("elsewhere.toml"), format!("@{}", other.farm.path("url")));
        let folder = other.farm.path("backups");
        let arguments = ["db", "backup", "-o", "json", "--config", &config, "--output-dir", &folder];
        let by_url = run([&arguments[..], &["--database", &url]].concat()).json();
        let rows = by_url["tables"].as_array().expect("a list").iter().map(|table| table["rows"].as_u64());
        assert_eq!(rows.sum::<Option<u64>>(), Some(ROWS), "{by_url}");
    }
    for kind in ["sqlite", "postgres", "mariadb"] {
        let folder = vault.farm.path(kind);
        let arguments = ["db", "backup", "-o", "json", "--config", &vault.config(0), "--output-dir", &folder];
        let made = run([&arguments[..], &["--database", kind]].concat()).json();
        assert_eq!((&made["database"], &made["tables"]), (&kind.into(), &Value::Array(Vec::new())), "{made}");
        assert!(path(&made["path"]).is_file());
    }
}

#[test]
fn what_a_killed_backup_left_half_made_is_removed_by_the_next() {
    let mut vault = VaultFarm::new(1);
    vault.configure(0, "[backup]\ndirectory = \"backups\"\n");
    let folder = vault.farm.path("backups");
    planned(&vault, &[]);
    std::fs::write(Path::new(&folder).join("demo-20260101-000000.db.partial"), "half").expect("written");
    vault.rotation(&["abort"]).done();
    planned(&vault, &[]);
    assert!(names(&folder).iter().all(|name| !name.contains("partial")), "{:?}", names(&folder));
}

#[test]
fn start_shows_the_backup_that_is_signed_and_a_node_whose_files_are_others_follows_no_such_plan() {
    let vault = backing_up(VaultFarm::new(2));
    let plan = planned(&vault, &[]);
    let (database, folder) = (&plan["plan"]["backup"]["path"], path(&plan["plan"]["folders"]["node-1"]["path"]));
    std::fs::write(&folder, "exchanged").expect("written");
    let undone = vault.start_at_once("new", "old");
    assert_eq!(undone.code, 3, "{}", undone.stderr);
    for words in ["Backup:", database.as_str().expect("a path"), "BLAKE3", text(&folder)] {
        assert!(undone.stderr.contains(words), "{words}: {}", undone.stderr);
    }
    assert!(undone.stdout.contains("is no longer what it was when it was made"), "{}", undone.stdout);
}
