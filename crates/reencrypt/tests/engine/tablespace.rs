//! A tablespace of PostgreSQL on a small disk.

use crate::cluster::Cluster;
use crate::small_disk::SmallDisk;

impl SmallDisk {
    /// Makes a tablespace on it, for everybody; answers its name.
    pub(crate) async fn tablespace(&self, cluster: &Cluster) -> String {
        let name = self.name();
        let mut superuser = cluster.superuser("postgres").await;
        for sql in [
            format!("CREATE TABLESPACE {name} LOCATION '{}'", self.path().display()),
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
        self.path().file_name().unwrap().to_str().unwrap().replace(['-', '.'], "_").to_lowercase()
    }
}
