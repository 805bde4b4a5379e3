//! The vault's database on MariaDB or MySQL, and in which words the two differ.

use std::sync::Arc;

use reencrypt::DatabaseConfig;

use crate::documented::documented;
use crate::farm::{Place, SCHEMA, TARGETS, Vault};
use crate::mariadb::{self, Make, Server};

/// Makes two tests of each of these functions, one on MariaDB and one on MySQL.
macro_rules! on_mariadb_and_mysql {
    ($($name:ident),* $(,)?) => {
        $(mod $name {
            use crate::mariadb::Make;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_mariadb() {
                super::$name(Make::MariaDb).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_mysql() {
                super::$name(Make::MySql).await;
            }
        })*
    };
}
pub(crate) use on_mariadb_and_mysql;

impl Vault {
    /// The vault's tables in a MariaDB database, empty, with the users and grants of docs/database.md.
    pub(crate) async fn mariadb() -> Self {
        Self::mariadb_on(mariadb::shared()).await
    }

    pub(crate) async fn mariadb_on(server: Arc<Server>) -> Self {
        let vault = Self::mariadb_bare_on(server, TARGETS).await;
        vault.run(&vault.types(SCHEMA)).await;
        vault.run(&vault.named(&vault.documented("table"))).await;
        for (table, columns) in [("\"User Entries\"", "secret"), ("documents", "body"), ("attachments", "content")] {
            vault.grant(table, "", columns).await;
        }
        vault
    }

    /// A MariaDB database without tables, with the users of docs/database.md.
    pub(crate) async fn mariadb_bare(targets: &str) -> Self {
        Self::mariadb_bare_on(mariadb::shared(), targets).await
    }

    pub(crate) async fn mariadb_bare_on(server: Arc<Server>, targets: &str) -> Self {
        let (database, number) = server.database().await;
        let (agent, application) = (format!("agent_{number}"), format!("app_{number}"));
        let mut config = DatabaseConfig::new(server.url(&agent, &database));
        config.application_role = Some(application.clone());
        let vault = Self::at(Place::Mariadb { server, database, agent, application }, config, targets);
        vault.run(&vault.named("CREATE USER vault_app@localhost; GRANT ALL ON vault.* TO vault_app@localhost;")).await;
        vault.run(&vault.named(&vault.documented("grants"))).await;
        vault
    }

    /// The vault's tables in a MySQL database, empty, with the users and grants of docs/database.md.
    pub(crate) async fn mysql() -> Self {
        Self::made_by(Make::MySql).await
    }

    /// The same on either.
    pub(crate) async fn made_by(make: Make) -> Self {
        Self::mariadb_on(mariadb::shared_of(make)).await
    }

    /// The same on either.
    pub(crate) async fn bare_made_by(make: Make, targets: &str) -> Self {
        Self::mariadb_bare_on(mariadb::shared_of(make), targets).await
    }

    /// What docs/database.md grants for copies in MariaDB; MySQL has none.
    pub(crate) async fn grant_shadows(&self) {
        if self.is_mysql() {
            return;
        }
        self.run(&self.named(&documented("mariadb shadows"))).await;
    }

    /// What docs/database.md has of this name for MariaDB, or for MySQL.
    pub(crate) fn documented(&self, block: &str) -> String {
        documented(&format!("{} {block}", if self.is_mysql() { "mysql" } else { "mariadb" }))
    }

    /// A table of the numbers from 1 on, in their column `seq`.
    pub(crate) fn numbers(&self, through: u64) -> String {
        if self.is_mysql() {
            return format!(
                "(WITH RECURSIVE s (seq) AS (SELECT 1 UNION ALL SELECT seq + 1 FROM s WHERE seq < {through}) SELECT seq FROM s) s"
            );
        }
        format!("seq_1_to_{through}")
    }

    /// Ends all sessions of a user, or what they are doing (`CONNECTION`, `QUERY`).
    pub(crate) async fn end_all_of(&self, what: &str, user: &str) {
        if !self.is_mysql() {
            return self.run(&format!("KILL {what} USER {user}")).await;
        }
        let sessions = format!("SELECT CAST(ID AS text) FROM performance_schema.processlist WHERE USER = '{user}'");
        for row in self.rows(&sessions).await {
            // It may have gone by itself.
            let _ = self.try_run(&format!("KILL {what} {}", String::from_utf8(row[0].clone().unwrap()).unwrap())).await;
        }
    }

    pub(crate) fn is_mysql(&self) -> bool {
        matches!(&self.place, Place::Mariadb { server, .. } if server.make == Make::MySql)
    }
}
