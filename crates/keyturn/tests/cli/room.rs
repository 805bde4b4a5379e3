//! A backup that does not fit where it would be brought to a temporary server is refused before that is begun.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::physical;
use crate::support::{Ran, keyturn, text};
use crate::vault::VaultFarm;

/// A small file system, which only root can mount, for as long as the test runs.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount() -> Self {
        let disk = Self(tempfile::Builder::new().prefix("k").tempdir_in("/tmp").expect("a folder"));
        disk.mounted(&["-t", "tmpfs", "-o", "size=16m,mode=0711", "tmpfs"]);
        disk
    }

    fn grow(&self) {
        self.mounted(&["-o", "remount,size=512m"]);
    }

    fn mounted(&self, options: &[&str]) {
        let mounted = Command::new("mount").args(options).arg(self.path()).status().expect("mount runs");
        assert!(mounted.success(), "a small file system can be mounted, by root");
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    #[track_caller]
    fn is_empty(&self) {
        assert_eq!(std::fs::read_dir(self.path()).expect("a folder").count(), 0, "nothing is left");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[track_caller]
fn refused_for_room(ran: &Ran, disk: &SmallDisk) {
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    for words in ["no-room", &format!("{} has ", text(disk.path())), "are needed: ", "set TMPDIR"] {
        assert!(ran.stderr.replace("\n", " ").contains(words), "{words}: {}", ran.stderr);
    }
    disk.is_empty();
}

#[test]
fn a_copy_of_a_server_that_does_not_fit_is_refused_before_it_is_copied_and_taken_once_it_does() {
    let mut vault = physical::farm();
    let path = physical::base_backup(&vault, "base");
    let disk = SmallDisk::mount();
    vault.stop_agent(0);
    vault.start_agent_with(0, &[("TMPDIR", text(disk.path()))]);
    refused_for_room(&vault.rotation(&["plan", "--backup", text(&path)]), &disk);
    disk.grow();
    vault.rotation(&["plan", "--backup", text(&path)]).done();
    disk.is_empty();
}

#[test]
fn a_dump_that_does_not_fit_is_refused_before_a_server_is_started_for_it() {
    for vault in [VaultFarm::on_postgres(1), VaultFarm::on_mariadb(1)] {
        let disk = SmallDisk::mount();
        let folder = vault.farm.path("backups");
        let arguments = ["db", "backup", "--config", &vault.config(0), "--output-dir", &folder];
        let backup = || Ran::from(keyturn().args(arguments).env("TMPDIR", disk.path()).output().expect("it runs"));
        refused_for_room(&backup(), &disk);
        let left: Vec<_> =
            std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("one").file_name()).collect();
        assert_eq!(left, [".lock"], "nothing half made is left");
        disk.grow();
        backup().done();
        disk.is_empty();
    }
}
