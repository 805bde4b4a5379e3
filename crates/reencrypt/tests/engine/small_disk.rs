//! A small file system of a test's own, which a table can fill.

use std::path::Path;
use std::process::Command;

use crate::cluster::Cluster;

/// Mounted for as long as the test runs. Only root can mount one.
pub(crate) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub(crate) fn mount(size: &str) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "only root can mount a small file system; run the tests as root");
        let directory = tempfile::Builder::new().prefix("kt-small-").tempdir_in("/tmp").unwrap();
        run(
            "mount",
            &["-t", "tmpfs", "-o", &format!("size={size},mode=0700,uid=postgres,gid=postgres"), "tmpfs"],
            directory.path(),
        );
        Self(directory)
    }

    /// Somebody makes room.
    pub(crate) fn grow(&self, size: &str) {
        run("mount", &["-o", &format!("remount,size={size}")], self.0.path());
    }

    /// Makes a tablespace on it, for everybody; answers its name.
    pub(crate) async fn tablespace(&self, cluster: &Cluster) -> String {
        let name = self.name();
        let mut superuser = cluster.superuser("postgres").await;
        for sql in [
            format!("CREATE TABLESPACE {name} LOCATION '{}'", self.0.path().display()),
            format!("GRANT CREATE ON TABLESPACE {name} TO PUBLIC"),
        ] {
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut superuser).await.unwrap();
        }
        name
    }

    /// Once nothing lies there any more.
    pub(crate) async fn drop_tablespace(&self, cluster: &Cluster) {
        let mut superuser = cluster.superuser("postgres").await;
        let sql = format!("DROP TABLESPACE {}", self.name());
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut superuser).await.unwrap();
    }

    fn name(&self) -> String {
        self.0.path().file_name().unwrap().to_str().unwrap().replace(['-', '.'], "_").to_lowercase()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn run(program: &str, arguments: &[&str], path: &Path) {
    let output = Command::new(program).args(arguments).arg(path).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}
