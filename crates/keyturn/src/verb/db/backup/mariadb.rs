//! MariaDB's own tools: `mariadb-dump` and `mariadb`. The password reaches them in an options file that has no name: it is in
//! memory alone, they open it by the number it is open under, and it is gone with them and us, whatever ends us.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::process::Stdio;

use local_farm::SpareDatabase;
use tokio::process::Command;
use zeroize::Zeroizing;

use super::login::{Login, OWN_INPUT, not_understood, unnamed_file};
use super::said::first_error;
use super::tools::program;
use crate::problem::Problem;

/// One state of the database, with everything that is in it; bytes as hexadecimal digits, which no character set changes.
/// `loose-`: of releases that know of it, the history of tables that have one.
const DUMP: [&str; 8] = [
    "--single-transaction",
    "--routines",
    "--triggers",
    "--events",
    "--hex-blob",
    "--default-character-set=utf8mb4",
    "--max-allowed-packet=1G",
    "--loose-dump-history",
];
/// The first error ends it; nothing in a dump is taken for a command of the client, and nothing is done in another database.
const RESTORE: [&str; 5] =
    ["--batch", "--binary-mode", "--one-database", "--default-character-set=utf8mb4", "--max-allowed-packet=1G"];
/// Starts the client with the login under another number, since a dump is its standard input.
const WITH_INPUT: &str = r#"exec mariadb --defaults-file=/dev/fd/3 "$@" 3<&0 <"$0""#;
/// With this line, and when it was made, a dump ends that is whole.
const LAST_LINE: &[u8] = b"\n-- Dump completed";
/// Errors whose message quotes a value or a statement: a key that is there twice, syntax, values that do not fit.
const QUOTING: [&str; 6] = ["1062", "1064", "1292", "1366", "1411", "1525"];
/// Bytes of a dump's end in which that line stands.
const END_BYTES: u64 = 256;

/// Dumps the whole database as SQL, into a file that is there and empty.
pub(super) async fn dump(url: &str, path: &Path) -> Result<(), Problem> {
    let login = login(url)?;
    let mut dump = program("mariadb-dump");
    dump.arg(format!("--defaults-file={OWN_INPUT}")).args(DUMP);
    let mut result = std::ffi::OsString::from("--result-file=");
    result.push(path);
    dump.arg(result).args(["--", &login.database]);
    run(dump, &login, "mariadb-dump").await?;
    whole(path)
}

/// Executes a dump in the empty database of a temporary server, as a user that may do nothing beyond it, and beside which
/// there is nobody any more. Answers the URL of that user.
pub(super) async fn restore_aside(path: &Path, spare: &SpareDatabase) -> Result<String, Problem> {
    let url = spare.for_restore(&[], &[]).await.map_err(|error| {
        let message = format!("the temporary server could not be prepared for {}", path.display());
        Problem::refused("not-proved", message, "look at the server programs of this node").because(error.as_ref())
    })?;
    load(path, &url).await?;
    Ok(url)
}

/// Executes a dump in an empty database.
pub(super) async fn load(path: &Path, url: &str) -> Result<(), Problem> {
    whole(path)?;
    let login = login(url)?;
    let mut restore = program("sh");
    restore.args(["-c", WITH_INPUT]).arg(path).args(RESTORE).args(["--", &login.database]);
    run(restore, &login, "mariadb").await
}

/// A dump that was cut off would be executed up to there.
fn whole(path: &Path) -> Result<(), Problem> {
    let end = (|| {
        let mut file = File::open(path)?;
        let bytes = file.metadata()?.len();
        file.seek(SeekFrom::Start(bytes.saturating_sub(END_BYTES)))?;
        let mut end = Vec::new();
        file.take(END_BYTES).read_to_end(&mut end)?;
        Ok(end)
    })();
    let unreadable = |error: std::io::Error| {
        let path = path.display();
        Problem::refused("backup-unreadable", format!("{path} cannot be read"), "look at its rights").because(&error)
    };
    if end.map_err(unreadable)?.windows(LAST_LINE.len()).any(|part| part == LAST_LINE) {
        return Ok(());
    }
    Err(Problem::refused(
        "backup-damaged",
        format!("{} is damaged: it does not end as a dump of mariadb-dump does", path.display()),
        "take another backup",
    ))
}

async fn run(mut command: Command, login: &Login, what: &str) -> Result<(), Problem> {
    let next =
        "docs/database.md lists the rights that a backup needs; a login of its own goes into url_file of [backup]";
    command.stdin(unnamed_file(&options(login))?).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = command.output().await.map_err(|error| not_started(what).because(&error))?;
    let said = without_values(first_error(&output.stderr));
    match output.status.code() {
        Some(0) => Ok(()),
        // What the shell says that starts the client.
        Some(127) => Err(not_started(what).because(&std::io::Error::new(ErrorKind::NotFound, said))),
        _ => Err(Problem::refused("backup", format!("{what} failed ({}): {}", output.status, said), next)),
    }
}

/// What may travel into logs: number and line of an error, and its message where that quotes nothing.
fn without_values(said: String) -> String {
    let number = said.strip_prefix("ERROR ").and_then(|rest| rest.split(' ').next());
    match (number, said.split_once(": ")) {
        (Some(number), Some((head, _))) if QUOTING.contains(&number) => head.to_owned(),
        _ => said,
    }
}

fn not_started(what: &str) -> Problem {
    Problem::refused("backup", format!("{what} could not be started"), "install MariaDB's client programs")
}

fn login(url: &str) -> Result<Login, Problem> {
    Login::parse(url, &["mariadb", "mysql"])
        .filter(|login| !login.database.is_empty())
        .ok_or_else(|| not_understood("mariadb://USER:PASSWORD@HOST:PORT/DATABASE"))
}

/// The options file.
fn options(login: &Login) -> Zeroizing<String> {
    let mut text = Zeroizing::new("[client]\n".to_owned());
    let mut add = |name: &str, value: &str| {
        if !value.is_empty() {
            text.push_str(&format!("{name}={}\n", &*quoted(value)));
        }
    };
    for (name, value) in
        [("user", &login.user), ("password", &login.password), ("host", &login.host), ("port", &login.port)]
    {
        add(name, value);
    }
    for (name, value) in &login.options {
        match name.as_str() {
            "socket" => add("socket", value),
            "ssl-ca" | "sslca" => add("ssl-ca", value),
            "ssl-cert" | "sslcert" => add("ssl-cert", value),
            "ssl-key" | "sslkey" => add("ssl-key", value),
            "ssl-mode" | "sslmode" => match value.to_ascii_uppercase().as_str() {
                "REQUIRED" => add("ssl", "1"),
                // The client knows no half of it: who checks the authority checks the name.
                "VERIFY_CA" | "VERIFY_IDENTITY" => {
                    add("ssl", "1");
                    add("ssl-verify-server-cert", "1");
                }
                _ => {}
            },
            _ => {}
        }
    }
    text
}

/// As a value of an options file, which no character ends.
fn quoted(value: &str) -> Zeroizing<String> {
    let mut text = Zeroizing::new("\"".to_owned());
    for letter in value.chars() {
        match letter {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            letter => text.push(letter),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_the_client_quotes_are_left_out() {
        let check = |said: &str, expected| assert_eq!(without_values(said.to_owned()), expected);
        check("ERROR 1062 (23000) at line 41: Duplicate entry 'hunter2' for key 'k'", "ERROR 1062 (23000) at line 41");
        let full = "ERROR 1114 (HY000) at line 7: The table 'connections' is full";
        check(full, full);
    }

    #[test]
    fn a_url_becomes_an_options_file() {
        let check = |url, expected: &str| assert_eq!(*options(&login(url).unwrap()), expected, "{url}");
        check(
            "mariadb://agent:h%40n%22t%5Cer%0A:2@db.example:3307/vault?ssl-mode=VERIFY_IDENTITY&ssl-ca=/a%20b/ca.pem",
            "[client]\nuser=\"agent\"\npassword=\"h@n\\\"t\\\\er\\n:2\"\nhost=\"db.example\"\nport=\"3307\"\nssl=\"1\"\n\
             ssl-verify-server-cert=\"1\"\nssl-ca=\"/a b/ca.pem\"\n",
        );
        check(
            "mysql://root@localhost/vault?socket=/run/s",
            "[client]\nuser=\"root\"\nhost=\"localhost\"\nsocket=\"/run/s\"\n",
        );
        assert!(login("postgres://a@b/c").is_err() && login("mariadb://a@b").is_err());
    }
}
