//! A rotation that is shown a copy of a whole PostgreSQL server, made by `pg_basebackup`.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::hostile::{Trap, tell};
use crate::support::{run, text};
use crate::vault::{ROWS, VaultFarm};

/// One node, which looks at backups that it is shown.
pub(crate) fn farm() -> VaultFarm {
    let mut vault = VaultFarm::on_postgres(1);
    vault.configure(0, "[backup]\ndirectory = \"backups\"\n");
    fs::DirBuilder::new().mode(0o700).create(vault.farm.path("backups")).expect("a folder");
    vault
}

pub(crate) fn base_backup(vault: &VaultFarm, name: &str) -> PathBuf {
    base_backup_as(vault, name, &[])
}

fn base_backup_as(vault: &VaultFarm, name: &str, options: &[&str]) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions.map(|version| version.path().join("bin/pg_basebackup")).collect();
    found.sort();
    let program = found.pop().unwrap_or_else(|| PathBuf::from("pg_basebackup"));
    let path = PathBuf::from(vault.farm.path("backups")).join(name);
    done(
        Command::new(program)
            .args(["--checkpoint=fast", "--no-sync", "--dbname", &vault.urls.agent, "--pgdata"])
            .arg(&path)
            .args(options),
    );
    path
}

#[track_caller]
fn done(command: &mut Command) {
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The largest file of its tables.
fn largest(folder: &Path) -> PathBuf {
    let entries = || fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    let below = entries().filter(|entry| entry.path().is_dir()).map(|entry| largest(&entry.path()));
    let files = entries().map(|entry| entry.path()).filter(|path| path.is_file());
    files.chain(below).max_by_key(|path| path.metadata().map_or(0, |found| found.len())).unwrap_or_default()
}

#[test]
fn a_copy_of_a_whole_server_that_is_shown_is_verified_started_and_opened() {
    let mut vault = farm();
    let path = base_backup(&vault, "base");
    let before = largest(&path.join("base")).metadata().expect("a file").modified().expect("a time");
    let planned = vault.rotation(&["plan", "--backup", text(&path), "-o", "json"]).json();
    let backup = &planned["plan"]["backup"];
    let manifest = fs::read(path.join("backup_manifest")).expect("a manifest");
    assert_eq!(backup["digest"], blake3::hash(&manifest).to_hex().as_str());
    assert_eq!((&backup["shown"], &backup["path"]), (&true.into(), &text(&path).into()), "{backup}");
    assert!(backup["bytes"].as_u64().is_some_and(|bytes| bytes > 1_000_000), "{backup}");
    let count = |field: &str| {
        let tables = backup["tables"].as_object().expect("tables").values();
        tables.map(|table| table[field].as_u64().expect("a count")).sum::<u64>()
    };
    assert_eq!((count("rows"), count("rows_opened")), (ROWS, ROWS), "{backup}");
    assert!(count("values_opened") > 50, "{backup}");
    assert!(backup["proof"].as_str().is_some_and(|proof| proof.contains("pg_verifybackup")), "{backup}");
    assert_eq!(largest(&path.join("base")).metadata().expect("a file").modified().expect("a time"), before);
    vault.turn();
    let report = vault.rotation(&["report", "-o", "json"]).json();
    assert_eq!(&report["backup"], backup);

    // It is of the key before.
    let refused = vault.rotation(&["plan", "--backup", text(&path)]);
    assert!(
        refused.code == 1 && refused.stderr.contains("do not open with the key of this node"),
        "{}",
        refused.stderr
    );
    vault.kill_keyturn();
    let refused = run(["recover", "--config", &vault.config(0), "--backup", text(&path), "--yes"]);
    assert!(refused.stderr.contains("a copy of a whole server is not put back by Keyturn"), "{}", refused.stderr);
}

#[test]
fn a_damaged_or_foreign_copy_of_a_server_is_refused_by_name() {
    let vault = farm();
    let whole = base_backup(&vault, "base");
    let refused = |path: &Path, said: &[&str]| {
        let refused = vault.rotation(&["plan", "--backup", text(path)]);
        assert_eq!(refused.code, 1, "{}", refused.stderr);
        for words in said {
            assert!(refused.stderr.contains(words), "{words}: {}", refused.stderr);
        }
    };
    let damaged = |name: &str, damage: &dyn Fn(&Path)| {
        let path = whole.with_file_name(name);
        done(Command::new("cp").arg("-a").arg(&whole).arg(&path));
        damage(&path);
        path
    };
    let flipped = damaged("flipped", &|path| {
        let file = largest(&path.join("base"));
        let (mut byte, at) = ([0], file.metadata().expect("a file").len() / 2);
        let file = fs::File::options().read(true).write(true).open(file).expect("open");
        file.read_exact_at(&mut byte, at).expect("read");
        file.write_all_at(&[byte[0] ^ 1], at).expect("written");
    });
    refused(&flipped, &["not-proved", "pg_verifybackup failed", "checksum mismatch for file"]);
    let logless = damaged("logless", &|path| {
        for entry in fs::read_dir(path.join("pg_wal")).expect("a folder").flatten() {
            if entry.path().is_file() {
                fs::remove_file(entry.path()).expect("removed");
            }
        }
    });
    refused(&logless, &["not-proved", "pg_verifybackup failed"]);
    let linked = damaged("linked", &|path| symlink("/etc", path.join("base/elsewhere")).expect("linked"));
    refused(&linked, &["base/elsewhere is neither a file nor a folder"]);
    let open = damaged("open", &|path| {
        fs::set_permissions(path.join("PG_VERSION"), fs::Permissions::from_mode(0o666)).expect("opened");
    });
    refused(&open, &["others than its owner may write", "PG_VERSION"]);
    let unsummed = base_backup_as(&vault, "unsummed", &["--manifest-checksums=NONE"]);
    refused(&unsummed, &["not-proved", "has no checksums of files"]);
    // What a link leads to is not even quoted.
    let versioned = damaged("versioned", &|path| {
        fs::remove_file(path.join("PG_VERSION")).expect("removed");
        symlink("/etc/passwd", path.join("PG_VERSION")).expect("linked");
    });
    refused(&versioned, &["not-proved", "reading PG_VERSION of the backup: Too many levels of symbolic links"]);
    let bare = damaged("bare", &|path| fs::remove_file(path.join("backup_manifest")).expect("removed"));
    refused(&bare, &["backup-unreadable", "not one of pg_basebackup with its backup_manifest"]);

    let other = farm();
    let foreign = base_backup(&other, "base");
    done(Command::new("cp").arg("-a").arg(&foreign).arg(whole.with_file_name("foreign")));
    refused(&whole.with_file_name("foreign"), &["other-database", "is of another server"]);
    let standing = vault.rotation(&["status", "-o", "json"]).json();
    assert_ne!(standing["phase"], Value::from("approval"), "{standing}");
}

#[test]
fn what_a_server_was_told_to_run_is_not_run_where_a_copy_of_it_is_started() {
    let vault = farm();
    let trap = Trap::set();
    // A library that every session on this database loads, for as long as the backup takes.
    let elsewhere = vault.urls.agent.replace("/vault", "/postgres");
    tell(&elsewhere, "ALTER DATABASE vault SET session_preload_libraries = 'keyturn_trap'");
    let path = base_backup(&vault, "base");
    tell(&elsewhere, "ALTER DATABASE vault RESET ALL");
    let archive = format!("archive_mode = on\narchive_command = 'cat >{0}'\n", trap.caught());
    let recovery = format!("recovery_end_command = 'cat >{0}'\nrestore_command = 'cat >{0}'\n", trap.caught());
    fs::write(path.join("postgresql.auto.conf"), format!("{archive}{recovery}")).expect("written");
    fs::write(path.join("recovery.signal"), "").expect("written");
    vault.rotation(&["plan", "--backup", text(&path)]).done();
    trap.caught_nobody();
}

/// What `--format=tar` wrote and somebody unpacked names the tablespaces in a file, from which a server makes the links anew. An
/// empty one has no files in the manifest that would be missing.
#[test]
fn a_copy_of_a_server_is_not_led_into_the_tablespaces_of_the_running_one() {
    let vault = farm();
    let place = tempfile::Builder::new().prefix("k").tempdir_in("/tmp").expect("a folder");
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).expect("open");
    let make = |path: &Path| {
        fs::create_dir(path).expect("made");
        if nix::unistd::Uid::effective().is_root() {
            done(Command::new("chown").arg("postgres").arg(path));
        }
    };
    let tablespace = place.path().join("fast");
    make(&tablespace);
    tell(&vault.urls.agent, &format!("CREATE TABLESPACE fast LOCATION '{}'", tablespace.display()));
    let version =
        fs::read_dir(&tablespace).expect("a folder").flatten().next().expect("a folder of the version").path();
    // Where a server that starts looks for what it can throw away.
    let in_use = version.join("pgsql_tmp/pgsql_tmp1.0");
    make(&version.join("pgsql_tmp"));
    fs::write(&in_use, "rows that are being sorted").expect("written");

    let archives = base_backup_as(&vault, "archives", &["--format=tar"]);
    let path = archives.with_file_name("unpacked");
    fs::DirBuilder::new().mode(0o700).create(&path).expect("made");
    for (archive, into) in [("base.tar", path.clone()), ("pg_wal.tar", path.join("pg_wal"))] {
        done(
            Command::new("tar").arg("--extract").arg("--file").arg(archives.join(archive)).arg("--directory").arg(into),
        );
    }
    fs::copy(archives.join("backup_manifest"), path.join("backup_manifest")).expect("copied");
    let refused = vault.rotation(&["plan", "--backup", text(&path)]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    for words in ["not-proved", "could not create symbolic link"] {
        assert!(refused.stderr.contains(words), "{words}: {}", refused.stderr);
    }
    assert!(in_use.exists(), "a file of the running server is gone");
}
