//! PostgreSQL's own tools: `pg_dump` and `pg_restore`. The password reaches them in a service file that has no name: it is in
//! memory alone, they open it as their standard input, and it is gone with them and us, whatever ends us.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use agent::BackupJob;
use nix::sys::memfd::{MFdFlags, memfd_create};
use tokio::process::Command;

use super::tools::login;
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
    run(dump, url, "pg_dump").await
}

/// Restores a dump into an empty database of a temporary server, which has neither the roles nor the tablespaces of the
/// one that it was made of.
pub(super) async fn restore_aside(job: &BackupJob<'_>, path: &Path, url: &str) -> Result<(), Problem> {
    copy_role_names(&login(job)?, url).await;
    let mut restore = tool("pg_restore");
    restore.args(RESTORE).args(["--no-owner", "--no-privileges", "--no-tablespaces", "--no-publications"]);
    restore.args(["--no-subscriptions", "--dbname"]).arg(format!("service={SERVICE}")).arg(path);
    run(restore, url, "pg_restore").await
}

/// Restores a dump into an empty database, with everybody's ownership and rights.
pub(super) async fn load(path: &Path, url: &str) -> Result<(), Problem> {
    let mut restore = tool("pg_restore");
    restore.args(RESTORE).arg("--dbname").arg(format!("service={SERVICE}")).arg(path);
    run(restore, url, "pg_restore").await
}

/// Policies of row security name roles, so a restored database needs them, without password or right. Best effort: where
/// they cannot be read, a dump that needs them says so itself.
async fn copy_role_names(from: &str, into: &str) {
    let mut dump = tool("pg_dumpall");
    dump.args(["--roles-only", "--no-role-passwords", "--no-password", "--dbname"]).arg(format!("service={SERVICE}"));
    let roles = match for_service(&mut dump, from).map(|()| dump.stderr(Stdio::null()).kill_on_drop(true).output()) {
        Ok(output) => output.await.ok().filter(|output| output.status.success()),
        Err(_) => None,
    };
    let Some(roles) = roles.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()) else { return };
    let names: Vec<&str> = roles.lines().filter(|line| line.starts_with("CREATE ROLE ")).collect();
    for statement in names {
        let mut psql = tool("psql");
        psql.args(["--no-psqlrc", "--quiet", "--no-password", "--command", statement, "--dbname"]);
        psql.arg(format!("service={SERVICE}"));
        // The one that is there already is no loss.
        let _ = run(psql, into, "psql").await;
    }
}

async fn run(mut command: Command, url: &str, what: &str) -> Result<(), Problem> {
    let next =
        "docs/database.md lists the rights that a backup needs; a role of its own goes into url_file of [backup]";
    for_service(&mut command, url)?;
    let output = command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).output();
    let output = output.await.map_err(|error| {
        Problem::refused("backup", format!("{what} could not be started"), "install PostgreSQL's client programs")
            .because(&error)
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Problem::refused("backup", format!("{what} failed ({}): {}", output.status, said.trim()), next))
}

/// Tells libpq where to connect: by a service file that only this command has, as its standard input.
fn for_service(command: &mut Command, url: &str) -> Result<(), Problem> {
    // Of our own environment nothing is given on that would lead elsewhere.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("PG")) {
            command.env_remove(name);
        }
    }
    command.env("PGSERVICEFILE", OWN_INPUT).env("PGSERVICE", SERVICE).stdin(service(url)?);
    Ok(())
}

fn service(url: &str) -> Result<Stdio, Problem> {
    let fields = parse(url).ok_or_else(|| {
        Problem::refused(
            "configuration",
            "the database url cannot be understood",
            "write it as postgres://ROLE:PASSWORD@HOST:PORT/DATABASE",
        )
    })?;
    let mut text = zeroize::Zeroizing::new(format!("[{SERVICE}]\n"));
    for (field, value) in fields {
        // A line break would begin another field, and no name or password has one.
        let value = value.replace(['\n', '\r'], "");
        text.push_str(&format!("{field}={value}\n"));
    }
    let made = memfd_create("keyturn-service", MFdFlags::MFD_CLOEXEC).map(File::from).map_err(std::io::Error::from);
    let written = made.and_then(|mut file| file.write_all(text.as_bytes()).map(|()| file));
    written.map(Stdio::from).map_err(|error| {
        Problem::refused("backup", "the tools' service file could not be made", "look at this machine's memory")
            .because(&error)
    })
}

/// The newest installed version's, or whatever the path leads to.
fn tool(name: &str) -> Command {
    let versions = std::fs::read_dir(VERSIONS).into_iter().flatten().filter_map(|entry| {
        let path = entry.ok()?.path();
        let version: u32 = path.file_name()?.to_str()?.parse().ok()?;
        let program = path.join("bin").join(name);
        program.is_file().then_some((version, program))
    });
    versions.max().map_or_else(|| Command::new(name), |(_, program)| Command::new(program))
}

/// The parts of `postgres://ROLE:PASSWORD@HOST:PORT/DATABASE?…` as libpq names them.
fn parse(url: &str) -> Option<Vec<(&'static str, String)>> {
    let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"))?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, place) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port),
        _ => (place, ""),
    };
    let mut fields = vec![("user", user), ("password", password), ("host", host), ("port", port), ("dbname", database)];
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        match name {
            "host" => fields.push(("host", value)),
            "port" => fields.push(("port", value)),
            "dbname" => fields.push(("dbname", value)),
            "sslmode" | "ssl-mode" => fields.push(("sslmode", value)),
            "sslrootcert" | "ssl-root-cert" => fields.push(("sslrootcert", value)),
            "sslcert" | "ssl-cert" => fields.push(("sslcert", value)),
            "sslkey" | "ssl-key" => fields.push(("sslkey", value)),
            _ => {}
        }
    }
    let decoded = fields.into_iter().filter(|(_, value)| !value.is_empty());
    decoded.map(|(name, value)| Some((name, decode(value.trim_matches(['[', ']']))?))).collect()
}

/// `%2F` and its kind.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                u8::try_from(digit(rest.next())? * 16 + digit(rest.next())?).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_come_apart_as_libpq_would_take_them() {
        let of = |url| parse(url).unwrap();
        let text =
            |fields: &[(&str, &str)]| fields.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect::<Vec<_>>();
        let check = |url, expected: &[(&str, &str)]| {
            let found: Vec<_> = of(url).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            assert_eq!(found, text(expected), "{url}");
        };
        check(
            "postgres://agent:h%40nter:2@db.example:5433/vault?sslmode=verify-full",
            &[
                ("user", "agent"),
                ("password", "h@nter:2"),
                ("host", "db.example"),
                ("port", "5433"),
                ("dbname", "vault"),
                ("sslmode", "verify-full"),
            ],
        );
        check(
            "postgres://postgres@%2Frun%2Fpg/vault",
            &[("user", "postgres"), ("host", "/run/pg"), ("dbname", "vault")],
        );
        assert_eq!(parse("mysql://a@b/c"), None);
    }
}
