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

/// Two nodes that back up: the first its folder, the second the database too.
fn backing_up() -> VaultFarm {
    let mut vault = VaultFarm::new(2);
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
    let vault = backing_up();
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
    let mut vault = VaultFarm::new(1);
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

/// Begins a backup on PostgreSQL that waits for a table which somebody holds, as `watcher` sees: it, and the tool that it
/// runs.
fn waiting(runtime: &tokio::runtime::Runtime, watcher: &mut sqlx::PgConnection, config: &str) -> (Child, Pid) {
    let mut backup = keyturn()
        .args(["db", "backup", "--config", config])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut said = BufReader::new(backup.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
    assert!(said.any(|line| line.contains("the database to be backed up")), "it begins");
    std::thread::spawn(move || said.for_each(drop));
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_dump' AND wait_event_type = 'Lock'";
    let deadline = Instant::now() + LIMIT;
    loop {
        let count: i64 = runtime.block_on(sqlx::query_scalar(waits).fetch_one(&mut *watcher)).expect("answered");
        if count == 1 {
            break;
        }
        assert!(Instant::now() < deadline, "pg_dump does not wait");
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

#[test]
fn a_backup_that_is_ended_takes_its_tools_with_it_and_its_password_was_nowhere_to_be_seen() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let vault = VaultFarm::on_postgres(1);
    let folder = vault.farm.path("backups");
    // The server trusts whoever reaches its socket; what counts is where the password can be seen.
    vault.farm.write("url", &vault.urls.agent.replace("//postgres@", "//postgres:hunter2@"));
    let config = std::fs::read_to_string(vault.config(0)).expect("a configuration");
    vault.farm.write("backup.toml", &(config + "[backup]\ndirectory = \"backups\"\nurl_file = \"url\"\n"));
    let mut locker = runtime.block_on(sqlx::PgConnection::connect(&vault.urls.agent)).expect("connected");
    // Inside its transaction it would see the sessions of one moment for ever.
    let mut watcher = runtime.block_on(sqlx::PgConnection::connect(&vault.urls.agent)).expect("connected");
    // Each by itself: sent together, the table would be part of what BEGIN begins, and nobody would see it.
    for statement in ["CREATE TABLE held (id int)", "BEGIN", "LOCK TABLE held IN ACCESS EXCLUSIVE MODE"] {
        runtime.block_on(sqlx::raw_sql(statement).execute(&mut locker)).expect("locked");
    }
    for signal in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGTERM] {
        let (mut backup, dump) = waiting(&runtime, &mut watcher, &vault.farm.path("backup.toml"));
        for place in ["cmdline", "environ"] {
            let seen = std::fs::read(format!("/proc/{dump}/{place}")).expect("readable");
            assert!(!String::from_utf8_lossy(&seen).contains("hunter2"), "{place} of the tool shows the password");
        }
        for name in names(&folder) {
            let content = std::fs::read(Path::new(&folder).join(&name)).expect("readable");
            assert!(!String::from_utf8_lossy(&content).contains("hunter2"), "{name} holds the password");
        }
        kill(Pid::from_raw(i32::try_from(backup.id()).expect("a pid")), signal).expect("it runs");
        assert_eq!(backup.wait().expect("it ends").code(), Some(130), "{signal}");
        assert_eq!(names(&folder), Vec::<String>::new(), "{signal}");
        let deadline = Instant::now() + LIMIT;
        while kill(dump, None).is_ok() {
            assert!(Instant::now() < deadline, "pg_dump still runs after {signal}");
            std::thread::yield_now();
        }
        // The server does not notice before the lock is given.
        let end = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'pg_dump'";
        runtime.block_on(sqlx::raw_sql(end).execute(&mut watcher)).expect("ended");
    }
    for connection in [locker, watcher] {
        runtime.block_on(connection.close()).expect("closed");
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
    let vault = backing_up();
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
