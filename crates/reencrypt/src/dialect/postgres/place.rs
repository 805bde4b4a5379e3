//! The place of a PostgreSQL database: its name. A backup is loaded into a database of another name, and the two change
//! names in one transaction.

use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use super::login::with_database;
use super::{connect, literal, settings};
use crate::error::Doing;
use crate::restore::{RestoreLogins, RestoreStage};
use crate::table::quote;
use crate::{DatabaseConfig, EngineError};

/// From where databases are made and renamed, since none can be from inside itself.
const MAINTENANCE: &str = "postgres";
/// PostgreSQL cuts names here.
const NAME_BYTES_MAX: usize = 63;
/// How often it is looked whether everybody has left.
const POLL: Duration = Duration::from_millis(100);

/// A database's name, and the names of what is made of one backup of it.
pub(crate) struct PostgresPlace {
    live: String,
    loading: String,
    ready: String,
    aside: String,
    /// Who makes and renames databases.
    login: PgConnectOptions,
    /// As whom the loaded one is looked at: as whom it will be worked on, and no more.
    agent: PgConnectOptions,
    /// What a loaded database has as its comment, to be told from any other of its name.
    mark: String,
    application_role: Option<String>,
    sessions_wait: Duration,
}

impl PostgresPlace {
    pub(crate) fn new(
        agent: PgConnectOptions,
        login: PgConnectOptions,
        tag: &str,
        digest: &str,
        config: &DatabaseConfig,
    ) -> Self {
        let live = agent.get_database().unwrap_or_else(|| agent.get_username()).to_owned();
        let ending = format!("_damaged_{tag}");
        let mut aside = live.clone();
        while aside.len() + ending.len() > NAME_BYTES_MAX {
            aside.pop();
        }
        Self {
            loading: format!("keyturn_loading_{tag}"),
            ready: format!("keyturn_restored_{tag}"),
            aside: aside + &ending,
            live,
            login,
            agent,
            mark: format!("loaded by keyturn from the backup of digest {digest}"),
            application_role: config.application_role.clone(),
            sessions_wait: config.sessions_wait,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.live
    }

    pub(crate) fn aside(&self) -> &str {
        &self.aside
    }

    pub(crate) fn loaded_url(&self) -> Result<String, EngineError> {
        with_database(&self.agent, &self.ready)
    }

    /// Whether what is loaded is loaded by one as whom any function of the database may do anything.
    pub(crate) async fn loads_as_superuser(&self) -> Result<bool, EngineError> {
        let mut server = self.server().await?;
        let superuser = sqlx::query("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
            .fetch_one(&mut server)
            .await
            .and_then(|row| row.try_get(0))
            .doing(|| "asking for the rights of the login to restore with".to_owned())?;
        end(server).await;
        Ok(superuser)
    }

    pub(crate) async fn stage(&self) -> Result<RestoreStage, EngineError> {
        let mut server = self.server().await?;
        let (ready, aside) = (self.is_loaded(&mut server).await?, self.exists(&mut server, &self.aside).await?);
        end(server).await;
        Ok(match (ready, aside) {
            (true, _) => RestoreStage::Loaded,
            (false, true) => RestoreStage::InPlace,
            (false, false) => RestoreStage::Untouched,
        })
    }

    /// Whether the loaded database is there. It is ours until it is put in place, and says of which backup it is: anybody
    /// who may make databases could have made one of its name.
    async fn is_loaded(&self, server: &mut PgConnection) -> Result<bool, EngineError> {
        let doing = || format!("looking database {} up", self.ready);
        let row = sqlx::query(
            "SELECT pg_get_userbyid(datdba) = current_user AND shobj_description(oid, 'pg_database') = $2
             FROM pg_database WHERE datname = $1",
        )
        .bind(&self.ready)
        .bind(&self.mark)
        .fetch_optional(server)
        .await
        .doing(doing)?;
        match row.map(|row| row.try_get::<Option<bool>, _>(0)).transpose().doing(doing)? {
            None => Ok(false),
            Some(Some(true)) => Ok(true),
            Some(Some(false) | None) => Err(EngineError::NotLoaded(self.ready.clone())),
        }
    }

    /// An empty database of the same encoding and order; one that was half loaded goes first. It belongs to whom the live one
    /// belongs while it is loaded, for an owner may have what it has in it as the owner alone.
    pub(crate) async fn prepare(&self) -> Result<RestoreLogins, EngineError> {
        let mut server = self.server().await?;
        self.run(&mut server, format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote(&self.loading))).await?;
        let mut create = format!("CREATE DATABASE {} TEMPLATE template0", quote(&self.loading));
        let live = self.facts(&mut server).await?;
        if let Some(live) = &live {
            let text = |name: &str| live[name].as_str().map(literal);
            for (clause, field) in
                [("ENCODING", "encoding_name"), ("LC_COLLATE", "datcollate"), ("LC_CTYPE", "datctype")]
            {
                if let Some(value) = text(field) {
                    create.push_str(&format!(" {clause} {value}"));
                }
            }
            // Named so in 15 and 16, and in 17 and later.
            if live["datlocprovider"] == "i"
                && let Some(locale) = text("daticulocale").or_else(|| text("datlocale"))
            {
                create.push_str(&format!(" LOCALE_PROVIDER icu ICU_LOCALE {locale}"));
            }
        }
        self.run(&mut server, create).await?;
        if let Some(agent) = self.makes_schemas_meanwhile(live.as_ref()) {
            let granted = format!("GRANT CREATE ON DATABASE {} TO {}", quote(&self.loading), quote(agent));
            self.run(&mut server, granted).await?;
        }
        if let Some(owner) = live.as_ref().and_then(owner) {
            self.run(&mut server, format!("ALTER DATABASE {} OWNER TO {}", quote(&self.loading), quote(owner))).await?;
        }
        end(server).await;
        Ok(RestoreLogins {
            url: with_database(&self.login, &self.loading)?,
            ledger_url: Some(with_database(&self.agent, &self.loading)?),
        })
    }

    /// The agents' role, which makes the ledger's schema, unless it may do that anyway: as the owner.
    fn makes_schemas_meanwhile(&self, live: Option<&Value>) -> Option<&str> {
        let agent = self.agent.get_username();
        (agent != self.login.get_username() && live.and_then(owner) != Some(agent)).then_some(agent)
    }

    pub(crate) async fn loaded(&self) -> Result<(), EngineError> {
        let mut server = self.server().await?;
        let own = format!("ALTER DATABASE {} OWNER TO CURRENT_USER", quote(&self.loading));
        self.run(&mut server, own).await?;
        if let Some(agent) = self.makes_schemas_meanwhile(self.facts(&mut server).await?.as_ref()) {
            let revoked = format!("REVOKE CREATE ON DATABASE {} FROM {}", quote(&self.loading), quote(agent));
            self.run(&mut server, revoked).await?;
        }
        self.copy_rights(&mut server).await?;
        let marked = format!("COMMENT ON DATABASE {} IS {}", quote(&self.loading), literal(&self.mark));
        self.run(&mut server, marked).await?;
        self.empty(&mut server, &self.loading, true).await?;
        self.run(&mut server, format!("ALTER DATABASE {} RENAME TO {}", quote(&self.loading), quote(&self.ready)))
            .await?;
        end(server).await;
        Ok(())
    }

    /// With `lift_fence` the application's role is let in again, as it was before the rotation that the restored database
    /// knows nothing of; whoever goes on fences it anew.
    pub(crate) async fn put_in_place(&self, lift_fence: bool) -> Result<(), EngineError> {
        let mut server = self.server().await?;
        if !self.is_loaded(&mut server).await? {
            return Err(EngineError::NotLoaded(self.ready.clone()));
        }
        let facts = self.facts(&mut server).await?;
        if self.exists(&mut server, &self.live).await? {
            self.empty(&mut server, &self.live, false).await?;
        }
        // By whom it was shut out, since who restores need not be able to alter roles; and while nobody comes into the damaged
        // database.
        if let Some(role) = self.application_role.as_ref().filter(|_| lift_fence) {
            let mut agent = connect(&self.agent.clone().database(&self.ready)).await?;
            self.run(&mut agent, format!("ALTER ROLE {} LOGIN", quote(role))).await?;
            end(agent).await;
        }
        self.empty(&mut server, &self.ready, true).await?;
        let doing = || self.doing();
        let mut transaction = server.begin().await.doing(doing)?;
        if self.exists(&mut transaction, &self.live).await? {
            self.run(
                &mut transaction,
                format!("ALTER DATABASE {} RENAME TO {}", quote(&self.live), quote(&self.aside)),
            )
            .await?;
        }
        self.run(&mut transaction, format!("ALTER DATABASE {} RENAME TO {}", quote(&self.ready), quote(&self.live)))
            .await?;
        // Its owner's, and called what the live one was called, only from here on.
        let comment = facts.as_ref().and_then(|live| live["comment"].as_str()).map_or("NULL".to_owned(), literal);
        self.run(&mut transaction, format!("COMMENT ON DATABASE {} IS {comment}", quote(&self.live))).await?;
        if let Some(owner) = facts.as_ref().and_then(owner) {
            let owned = format!("ALTER DATABASE {} OWNER TO {}", quote(&self.live), quote(owner));
            self.run(&mut transaction, owned).await?;
        }
        transaction.commit().await.doing(doing)?;
        if self.exists(&mut server, &self.aside).await? {
            self.run(&mut server, format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", quote(&self.aside))).await?;
        } else {
            // It was lost altogether. That it was replaced must show all the same.
            self.run(&mut server, format!("CREATE DATABASE {} TEMPLATE template0", quote(&self.aside))).await?;
        }
        end(server).await;
        Ok(())
    }

    /// Sees that nobody is in a database, and keeps everybody out until it is renamed. Sessions of our own login may be
    /// ended (`own`), since nobody but this restore has any there; anybody else's are named and refused.
    async fn empty(&self, server: &mut PgConnection, database: &str, own: bool) -> Result<(), EngineError> {
        let started = Instant::now();
        loop {
            let others = self.sessions(server, database).await?;
            if others.is_empty() {
                break;
            }
            if own {
                let doing = || format!("ending sessions in database {database}");
                sqlx::query(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                     WHERE datname = $1 AND usename = session_user AND pid <> pg_backend_pid()",
                )
                .bind(database)
                .execute(&mut *server)
                .await
                .doing(doing)?;
            }
            if started.elapsed() >= self.sessions_wait {
                return Err(EngineError::SessionsRemain(others));
            }
            tokio::time::sleep(POLL).await;
        }
        if own {
            return Ok(());
        }
        // From here on nobody comes in; who came in between is named.
        self.run(server, format!("ALTER DATABASE {} ALLOW_CONNECTIONS false", quote(database))).await?;
        let others = self.sessions(server, database).await?;
        if others.is_empty() {
            return Ok(());
        }
        self.run(server, format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", quote(database))).await?;
        Err(EngineError::SessionsRemain(others))
    }

    async fn sessions(&self, server: &mut PgConnection, database: &str) -> Result<Vec<String>, EngineError> {
        let doing = || format!("looking who is in database {database}");
        let rows = sqlx::query(
            "SELECT pid, COALESCE(usename, '')::text, COALESCE(application_name, '') FROM pg_stat_activity
             WHERE datname = $1 AND usesysid IS NOT NULL AND pid <> pg_backend_pid()
               AND COALESCE(backend_type, 'client backend') NOT IN ('autovacuum worker', 'parallel worker') ORDER BY pid",
        )
        .bind(database)
        .fetch_all(server)
        .await
        .doing(doing)?;
        let read = |row: &sqlx::postgres::PgRow| {
            let (pid, user, application): (i32, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            Ok(format!("session {pid} of user {user:?}, application {application:?}"))
        };
        rows.iter().map(read).collect::<Result<_, _>>().doing(doing)
    }

    /// What `pg_dump` leaves out, because it belongs to the database and not into it.
    async fn copy_rights(&self, server: &mut PgConnection) -> Result<(), EngineError> {
        let doing = || format!("reading the rights on database {}", self.live);
        let Some(facts) = self.facts(server).await? else { return Ok(()) };
        if !facts["datacl"].is_null() {
            self.run(server, format!("REVOKE ALL ON DATABASE {} FROM PUBLIC", quote(&self.loading))).await?;
            let rows = sqlx::query(
                "SELECT CASE WHEN a.grantee = 0 THEN NULL ELSE pg_get_userbyid(a.grantee)::text END, a.privilege_type,
                        a.is_grantable
                 FROM pg_database d, aclexplode(d.datacl) a WHERE d.datname = $1",
            )
            .bind(&self.live)
            .fetch_all(&mut *server)
            .await
            .doing(doing)?;
            for row in &rows {
                let read = || Ok((row.try_get::<Option<String>, _>(0)?, row.try_get::<String, _>(1)?, row.try_get(2)?));
                let (grantee, privilege, grantable): (_, _, bool) = read().doing(doing)?;
                let grantee = grantee.map_or("PUBLIC".to_owned(), |name| quote(&name));
                let option = if grantable { " WITH GRANT OPTION" } else { "" };
                let database = quote(&self.loading);
                // Reviewed: privileges are keywords of the server, names are quoted identifiers.
                self.run(server, format!("GRANT {privilege} ON DATABASE {database} TO {grantee}{option}")).await?;
            }
        }
        let rows = sqlx::query(
            "SELECT CASE WHEN s.setrole = 0 THEN NULL ELSE pg_get_userbyid(s.setrole)::text END, unnest(s.setconfig)
             FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase WHERE d.datname = $1",
        )
        .bind(&self.live)
        .fetch_all(&mut *server)
        .await
        .doing(doing)?;
        for row in &rows {
            let read = || Ok((row.try_get::<Option<String>, _>(0)?, row.try_get::<String, _>(1)?));
            let (role, setting) = read().doing(doing)?;
            let Some(assignment) = settings::assignment(&setting) else { continue };
            let whom = role.map_or(String::new(), |role| format!("ROLE {} IN ", quote(&role)));
            let database = quote(&self.loading);
            self.run(server, format!("ALTER {whom}DATABASE {database} SET {assignment}")).await?;
        }
        Ok(())
    }

    /// The live database's row in the catalog, with names for its numbers; `None` when it is gone.
    async fn facts(&self, server: &mut PgConnection) -> Result<Option<Value>, EngineError> {
        let doing = || format!("looking database {} up", self.live);
        let row = sqlx::query(
            "SELECT (to_jsonb(d) || jsonb_build_object('owner', pg_get_userbyid(d.datdba)::text,
                     'encoding_name', pg_encoding_to_char(d.encoding)::text,
                     'comment', shobj_description(d.oid, 'pg_database')))::text
             FROM pg_database d WHERE d.datname = $1",
        )
        .bind(&self.live)
        .fetch_optional(server)
        .await
        .doing(doing)?;
        let Some(row) = row else { return Ok(None) };
        let text: String = row.try_get(0).doing(doing)?;
        serde_json::from_str(&text).map(Some).map_err(|error| EngineError::Internal(format!("{}: {error}", doing())))
    }

    async fn exists(&self, server: &mut PgConnection, database: &str) -> Result<bool, EngineError> {
        sqlx::query("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
            .bind(database)
            .fetch_one(server)
            .await
            .and_then(|row| row.try_get(0))
            .doing(|| format!("looking database {database} up"))
    }

    async fn run(&self, server: &mut PgConnection, sql: String) -> Result<(), EngineError> {
        // Reviewed: every name in it is a quoted identifier, every text a quoted literal.
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(server).await.map(drop).doing(|| self.doing())
    }

    async fn server(&self) -> Result<PgConnection, EngineError> {
        let mut server = connect(&self.login.clone().database(MAINTENANCE)).await?;
        // Whoever may make functions there must not have them called by this login.
        self.run(&mut server, "SET search_path = pg_catalog, pg_temp".to_owned()).await?;
        Ok(server)
    }

    fn doing(&self) -> String {
        format!("putting a restored database into the place of database {}", self.live)
    }
}

/// Whose the database is.
fn owner(facts: &Value) -> Option<&str> {
    facts["owner"].as_str()
}

async fn end(server: PgConnection) {
    // An error there loses nothing.
    let _ = server.close().await;
}
