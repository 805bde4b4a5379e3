//! A whole farm on MySQL: rotations end as they do on MariaDB, and what is not done there is refused by name.

use crate::support::run;
use crate::vault::VaultFarm;

#[test]
fn a_rotation_completes_and_copies_and_backups_are_refused_by_name() {
    let vault = VaultFarm::on_mysql(2);
    let refused = vault.rotation(&["plan", "--strategy", "shadow"]);
    assert_ne!(refused.code, 0);
    let said = refused.stdout + &refused.stderr;
    assert!(said.contains("copies are made on MariaDB only"), "{said}");
    vault.turn();
    let folder = vault.farm.path("backups");
    let backup = run(["db", "backup", "--config", &vault.config(0), "--output-dir", &folder]);
    assert_ne!(backup.code, 0);
    assert!(backup.stderr.contains("this server is MySQL: back it up with its own tools"), "{}", backup.stderr);
    let scan = run(["db", "scan", "--config", &vault.config(0)]).done();
    assert!(scan.contains("connections"), "{scan}");
    let doctor = run(["db", "doctor", "--config", &vault.config(0)]);
    assert_eq!(doctor.code, 0, "{}", doctor.stderr);
}
