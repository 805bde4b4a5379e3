//! A copy of a whole PostgreSQL server, the directory of a `pg_basebackup`, that a rotation is shown: `pg_verifybackup` holds
//! a copy of it against its manifest, and a temporary server is started on that copy.

use std::fs;
use std::path::Path;

use agent::BackupJob;
use keys::SecretKey;
use reencrypt::{DatabaseConfig, Engine, TableCensus};
use rotation::{DatabaseKind, Digest};

use super::super::engine_problem;
use super::files;
use super::prove::{SAMPLE_ROWS, census, connect};
use super::tools::Source;
use crate::problem::Problem;

/// Names every file of the backup with its checksum.
pub(super) const MANIFEST: &str = "backup_manifest";

/// The size of all files, and BLAKE3 of the manifest, which has the checksums of all others.
pub(super) async fn digest(path: &Path, kind: DatabaseKind) -> Result<(u64, Digest), Problem> {
    if kind != DatabaseKind::Postgres || !path.join(MANIFEST).is_file() {
        return Err(Problem::refused(
            "backup-unreadable",
            format!("{} is a folder, and not one of pg_basebackup with its {MANIFEST}", path.display()),
            format!("give the path of a backup of this {kind} database on this node"),
        ));
    }
    files::read(path, |path| {
        let manifest = fs::read(path.join(MANIFEST))?;
        Ok((agent::backup_bytes(path)?, Digest::new(*blake3::hash(&manifest).as_bytes())))
    })
    .await
}

/// Starts a server on a copy and opens rows of it. It must be of the very server that `live` is.
pub(super) async fn opened(
    job: &BackupJob<'_>,
    keys: &[SecretKey],
    path: &Path,
    source: &Source,
    live: &Engine,
) -> Result<(Vec<TableCensus>, String), Problem> {
    (job.told)("a temporary server on a copy of the backup");
    let started = local_farm::CopiedServer::start(path, &source.name()).await;
    let server = started.map_err(|error| {
        let problem = Problem::refused(
            "not-proved",
            format!("{} was not proved", path.display()),
            "do not rely on this backup; take one with its log (pg_basebackup --wal-method=stream), without tablespaces, and \
             show it where the server programs of its version are installed",
        );
        problem.because(error.as_ref())
    })?;
    let proved = async {
        let copy = connect(&DatabaseConfig::new(server.url()), &source.targets).await?;
        let identity = |engine| async move {
            Engine::identity(engine).await.map_err(|error| engine_problem("a server did not say which it is", &error))
        };
        if identity(&copy).await? != identity(live).await? {
            return Err(Problem::refused(
                "other-database",
                format!("{} is of another server, or the database was made anew since", path.display()),
                "take a backup of this farm's database",
            ));
        }
        census(&copy, keys).await
    };
    let proved = proved.await;
    if let Err(error) = server.end().await {
        tracing::warn!("ending the temporary server: {error:#}");
    }
    let proof = format!(
        "pg_verifybackup found it whole, a temporary server of this machine was started on a copy of it, rows were counted, \
         and the first {SAMPLE_ROWS} of every table opened"
    );
    Ok((proved?, proof))
}

/// Such a backup is not put back by `keyturn recover`: it is of the whole server, with every other database on it.
pub(super) fn not_put_back(path: &Path) -> Problem {
    Problem::refused(
        "backup-unreadable",
        format!("{} is a folder: a copy of a whole server is not put back by Keyturn", path.display()),
        "put it into the place of the server's data directory as PostgreSQL's manual says, start the server, and run \
         `keyturn recover` without --backup on every node",
    )
}
