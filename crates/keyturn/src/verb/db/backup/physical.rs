//! A copy of a whole PostgreSQL server, the directory of a `pg_basebackup`, that a rotation is shown: `pg_verifybackup` holds
//! a copy of it against its manifest, and a temporary server is started on that copy.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;

use agent::BackupJob;
use anyhow::ensure;
use keys::SecretKey;
use reencrypt::{DatabaseConfig, Engine, TableCensus};
use rotation::{DatabaseKind, Digest};

use super::super::engine_problem;
use super::prove::{SAMPLE_ROWS, census, connect, no_room};
use super::tools::Source;
use crate::problem::Problem;

/// Names every file of the backup with its checksum.
pub(super) const MANIFEST: &str = "backup_manifest";

/// A line of it has a path, a time and two numbers.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// What is known of such a backup once it was opened.
pub(super) struct Opened {
    /// The size of all files.
    pub(super) bytes: u64,
    /// BLAKE3 of the manifest, which has the checksums of all others.
    pub(super) digest: Digest,
    pub(super) census: Vec<TableCensus>,
    pub(super) proof: String,
}

/// Starts a server on a copy and opens rows of it. It must be of the very server that `live` is.
pub(super) async fn opened(
    job: &BackupJob<'_>,
    keys: &[SecretKey],
    path: &Path,
    source: &Source,
    live: &Engine,
) -> Result<Opened, Problem> {
    let kind = live.kind();
    let is_there = path.join(MANIFEST).symlink_metadata().is_ok_and(|found| found.is_file());
    if kind != DatabaseKind::Postgres || !is_there {
        return Err(Problem::refused(
            "backup-unreadable",
            format!("{} is a folder, and not one of pg_basebackup with its {MANIFEST}", path.display()),
            format!("give the path of a backup of this {kind} database on this node"),
        ));
    }
    (job.told)("a temporary server on a copy of the backup");
    let look = |copy: &Path| Ok((agent::backup_bytes(copy)?, manifest(&copy.join(MANIFEST))?));
    let started = local_farm::CopiedServer::start(path, &source.name(), look).await;
    let (server, (bytes, digest)) = started.map_err(|error| {
        if error.is::<local_farm::NoRoom>() {
            return no_room(path, error.as_ref());
        }
        let problem = Problem::refused(
            "not-proved",
            format!("{} was not proved", path.display()),
            "do not rely on this backup; take one with its log (pg_basebackup --wal-method=stream), without tablespaces, that \
             nobody else may write, and show it where the server programs of its version are installed",
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
    Ok(Opened { bytes, digest, census: proved?, proof })
}

/// BLAKE3 of a manifest, in which every file must have a checksum; `pg_verifybackup` looks into no file without one. It has a
/// line for each file.
fn manifest(path: &Path) -> anyhow::Result<Digest> {
    let mut lines = BufReader::new(File::open(path)?);
    let (mut hasher, mut line) = (blake3::Hasher::new(), Vec::new());
    while (&mut lines).take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? > 0 {
        let has = |words: &[u8]| line.windows(words.len()).any(|found| found == words);
        ensure!(!has(b"\"Size\"") || has(b"\"Checksum\""), "its {MANIFEST} has no checksums of files");
        hasher.update(&line);
        line.clear();
    }
    Ok(Digest::new(*hasher.finalize().as_bytes()))
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
