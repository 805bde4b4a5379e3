//! PostgreSQL's own tools: `pg_dump` and `pg_restore`. The password reaches them in a service file for its owner alone, that
//! is removed afterwards, never in an argument or the environment.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::{private_file, private_folder};
use crate::problem::Problem;

/// Where Debian and its kin put every installed version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// The name of the one service in the file.
const SERVICE: &str = "keyturn";

/// Dumps the whole database in PostgreSQL's custom format.
pub(super) async fn dump(url: &str, path: &Path) -> Result<(), Problem> {
    drop(private_file(path)?);
    let service = ServiceFile::new(url, path)?;
    let mut dump = tool("pg_dump");
    dump.args(["--format=custom", "--no-password", "--file"]).arg(path);
    run(service.for_command(dump), "pg_dump").await
}

/// Restores a dump into an empty database.
pub(super) async fn restore(path: &Path, url: &str) -> Result<(), Problem> {
    let service = ServiceFile::new(url, path)?;
    let mut restore = tool("pg_restore");
    restore.args(["--no-password", "--exit-on-error", "--no-owner", "--no-privileges", "--dbname"]);
    restore.arg(format!("service={SERVICE}")).arg(path);
    run(service.for_command(restore), "pg_restore").await
}

async fn run(mut command: Command, what: &str) -> Result<(), Problem> {
    let next =
        "docs/database.md lists the rights that a backup needs; a role of its own goes into url_file of [backup]";
    let output = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).output();
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

/// How libpq is told where to connect. Removed when dropped.
struct ServiceFile {
    path: PathBuf,
}

impl ServiceFile {
    /// Beside the backup, whose folder is for its owner alone.
    fn new(url: &str, beside: &Path) -> Result<Self, Problem> {
        let fields = parse(url).ok_or_else(|| {
            Problem::refused(
                "configuration",
                "the database url cannot be understood",
                "write it as postgres://ROLE:PASSWORD@HOST:PORT/DATABASE",
            )
        })?;
        if let Some(folder) = beside.parent() {
            private_folder(folder)?;
        }
        let mut name = beside.as_os_str().to_owned();
        name.push(format!(".{}.service", std::process::id()));
        let path = PathBuf::from(name);
        let mut file = private_file(&path)?;
        let made = Self { path };
        let mut text = format!("[{SERVICE}]\n");
        for (field, value) in fields {
            // A line break would begin another field, and no name or password has one.
            let value = value.replace(['\n', '\r'], "");
            text.push_str(&format!("{field}={value}\n"));
        }
        file.write_all(text.as_bytes()).map_err(|error| {
            Problem::refused("write-file", "the tools' service file could not be written", "look at the disk's space")
                .because(&error)
        })?;
        Ok(made)
    }

    fn for_command(&self, mut command: Command) -> Command {
        // Of our own environment nothing is given on that would lead elsewhere.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("PG")) {
                command.env_remove(name);
            }
        }
        command.env("PGSERVICEFILE", &self.path).env("PGSERVICE", SERVICE);
        command
    }
}

impl Drop for ServiceFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, "the tools' service file {} could not be removed; delete it", self.path.display());
        }
    }
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
