//! PostgreSQL's own tools: `pg_dump` and `pg_restore`. The password reaches them in a service file that has no name: it is in
//! memory alone, they open it as their standard input, and it is gone with them and us, whatever ends us.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use local_farm::{Extension, SpareDatabase};
use nix::sys::memfd::{MFdFlags, memfd_create};
use reencrypt::RestoreLogins;
use tokio::process::Command;

use super::contents::{self, Contents, LEDGER_SCHEMA};
use super::said::first_error;
use super::tools::program;
use crate::problem::Problem;

/// Where Debian and its kin put every installed version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// The name of the one service in the file.
const SERVICE: &str = "keyturn";
/// Under which path a tool finds what it has as its standard input.
const OWN_INPUT: &str = "/dev/fd/0";
/// What `pg_restore` is told in any case: the first error ends it, and nobody is asked for a password.
const RESTORE: [&str; 2] = ["--no-password", "--exit-on-error"];

/// Dumps the whole database in PostgreSQL's custom format, into a file that is there and empty.
pub(super) async fn dump(url: &str, path: &Path) -> Result<(), Problem> {
    let mut dump = tool("pg_dump");
    dump.args(["--format=custom", "--no-password", "--file"]).arg(path);
    run(for_service(dump, url)?, "pg_dump").await.map(drop)
}

/// Restores a dump into the empty database of a temporary server, which has neither the roles nor the tablespaces of the
/// one (`origin`) that it was made of, as a role that may do nothing beyond it: whatever functions the dump brings along. Answers the
/// URL of that role.
pub(super) async fn restore_aside(origin: &str, path: &Path, spare: &SpareDatabase) -> Result<String, Problem> {
    // Best effort: where they cannot be read, a dump that needs them says so itself.
    let roles = reencrypt::role_names(origin).await.unwrap_or_else(|error| {
        tracing::warn!("the names of roles are not known: {}", error.fault().message);
        Vec::new()
    });
    let (contents, extensions) = contents_of(path).await?;
    let url = spare.for_restore(&roles, &extensions).await.map_err(|error| {
        Problem::refused(
            "not-proved",
            format!("the temporary server could not be prepared for {}", path.display()),
            "install the extensions that the database uses on this node too",
        )
        .because(error.as_ref())
    })?;
    let mut restore = tool("pg_restore");
    restore.args(RESTORE).args(["--no-owner", "--no-privileges", "--no-tablespaces", "--no-publications"]);
    restore.args(["--no-subscriptions", "--no-comments", "--no-security-labels", "--use-list", OWN_INPUT]);
    // No secret is in this URL: who gets to the socket is trusted.
    restore.arg("--dbname").arg(&url).arg(path).stdin(in_memory(&contents.without(&extensions))?);
    run(restore, "pg_restore").await?;
    Ok(url)
}

/// Restores a dump into an empty database, with everybody's ownership and rights. Schemas come first: who is no superuser can
/// give a table only to somebody who may make tables in its schema. The ledger comes with the login of whose it is.
pub(super) async fn load(path: &Path, logins: &RestoreLogins) -> Result<(), Problem> {
    let parts = list(path).await?.parts();
    load_part(path, &logins.url, &parts.schemas, &[]).await?;
    if !parts.ledger.is_empty() {
        let url = logins.ledger_url.as_ref().unwrap_or(&logins.url);
        load_part(path, url, &parts.ledger, &["--no-owner"]).await?;
        load_part(path, url, &parts.others, &["--no-owner", "--schema", LEDGER_SCHEMA]).await?;
    }
    load_part(path, &logins.url, &parts.others, &["--exclude-schema", LEDGER_SCHEMA]).await
}

/// Restores those of these entries that the options leave.
async fn load_part(path: &Path, url: &str, entries: &str, options: &[&str]) -> Result<(), Problem> {
    let unwritten = |error: std::io::Error| {
        let message = "the list of what is restored could not be written";
        Problem::refused("backup", message, "make room in TMPDIR").because(&error)
    };
    let mut wanted = tempfile::NamedTempFile::new().map_err(unwritten)?;
    wanted.write_all(entries.as_bytes()).map_err(unwritten)?;
    let mut restore = tool("pg_restore");
    restore.args(RESTORE).args(options).arg("--use-list").arg(wanted.path());
    restore.arg("--dbname").arg(format!("service={SERVICE}")).arg(path);
    run(for_service(restore, url)?, "pg_restore").await.map(drop)
}

/// What is in a dump, and the extensions among it.
async fn contents_of(path: &Path) -> Result<(Contents, Vec<Extension>), Problem> {
    let contents = list(path).await?;
    let Some(wanted) = contents.extensions() else { return Ok((contents, Vec::new())) };
    let mut script = tool("pg_restore");
    script.args(["--use-list", OWN_INPUT, "--no-comments", "--file=-"]).arg(path).stdin(in_memory(&wanted)?);
    let script = run(script, "pg_restore").await?;
    let extensions = contents::extensions(&String::from_utf8_lossy(&script)).ok_or_else(|| {
        Problem::refused(
            "not-proved",
            format!("{} names its extensions as pg_dump does not", path.display()),
            "make the backup with pg_dump --format=custom",
        )
    })?;
    Ok((contents, extensions))
}

async fn list(path: &Path) -> Result<Contents, Problem> {
    let mut list = tool("pg_restore");
    list.arg("--list").arg(path).stdin(Stdio::null());
    Ok(Contents::new(&String::from_utf8_lossy(&run(list, "pg_restore").await?)))
}

/// Answers what it printed.
async fn run(mut command: Command, what: &str) -> Result<Vec<u8>, Problem> {
    let next =
        "docs/database.md lists the rights that a backup needs; a role of its own goes into url_file of [backup]";
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).output();
    let output = output.await.map_err(|error| {
        Problem::refused("backup", format!("{what} could not be started"), "install PostgreSQL's client programs")
            .because(&error)
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = first_error(&output.stderr);
    Err(Problem::refused("backup", format!("{what} failed ({}): {said}", output.status), next))
}

/// Tells libpq where to connect, just as the driver does with this URL: by a service file that only this command has, as
/// its standard input.
fn for_service(mut command: Command, url: &str) -> Result<Command, Problem> {
    let fields = reencrypt::libpq_fields(url).map_err(|error| {
        Problem::refused(
            "configuration",
            "the database url cannot be understood",
            "write it as postgres://ROLE:PASSWORD@HOST:PORT/DATABASE",
        )
        .because(&error)
    })?;
    let mut text = zeroize::Zeroizing::new(format!("[{SERVICE}]\n"));
    for (field, value) in fields {
        text.push_str(&format!("{field}={value}\n"));
    }
    command.env("PGSERVICEFILE", OWN_INPUT).env("PGSERVICE", SERVICE).stdin(in_memory(&text)?);
    Ok(command)
}

/// A text for a tool's standard input that can be opened by a path.
fn in_memory(text: &str) -> Result<Stdio, Problem> {
    let made = memfd_create("keyturn-input", MFdFlags::MFD_CLOEXEC).map(File::from).map_err(std::io::Error::from);
    let written = made.and_then(|mut file| file.write_all(text.as_bytes()).map(|()| file));
    written.map(Stdio::from).map_err(|error| {
        Problem::refused("backup", "the tools' input could not be made", "look at this machine's memory")
            .because(&error)
    })
}

/// The newest installed version's, or whatever the path leads to.
fn tool(name: &str) -> Command {
    let versions = std::fs::read_dir(VERSIONS).into_iter().flatten().filter_map(|entry| {
        let path = entry.ok()?.path();
        let version: u32 = path.file_name()?.to_str()?.parse().ok()?;
        let found = path.join("bin").join(name);
        found.is_file().then_some((version, found))
    });
    versions.max().map_or_else(|| program(name), |(_, found)| program(found))
}
