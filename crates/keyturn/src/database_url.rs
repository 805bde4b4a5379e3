//! Which database, as it is given on the command line. A URL may hold a password, and what stands on a command line is read
//! by everybody on the machine; so it may come from a file or from standard input instead.

use std::io::Read;

use crate::output::note;

/// A URL is a line; more is none.
const BYTES_MAX: u64 = 16 * 1024;

/// Takes a URL or a word as it stands, `@PATH` for one in a file, and `-` for one on standard input. Says so when a
/// password stands where everybody can read it.
pub(crate) fn given(text: &str) -> Result<String, String> {
    let (found, place) = match text.strip_prefix('@') {
        Some(path) => (read(std::fs::File::open(path)), path),
        None if text == "-" => (read(Ok(std::io::stdin())), "standard input"),
        None => {
            if holds_password(text) {
                note(
                    "warning: the URL holds a password, and everybody on this machine reads it in the list of processes: \
                     give @FILE instead of it (a file of mode 0600), or - to read it from standard input",
                );
            }
            return Ok(text.to_owned());
        }
    };
    let url = found.map_err(|error| format!("the URL cannot be read from {place}: {error}"))?;
    let url = url.trim().to_owned();
    // Never quoted: it may hold a password.
    if url.contains("://") { Ok(url) } else { Err(format!("what is in {place} is no URL of a database")) }
}

fn read(source: std::io::Result<impl Read>) -> std::io::Result<String> {
    let mut text = String::new();
    source?.take(BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Whether a password stands in a URL: between the first colon of the login and its `@`, or as a parameter.
fn holds_password(url: &str) -> bool {
    let Some((_, rest)) = url.split_once("://") else { return false };
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let login = authority.rsplit_once('@').and_then(|(login, _)| login.split_once(':'));
    let parameters = rest.split_once('?').map_or("", |(_, parameters)| parameters);
    login.is_some_and(|(_, password)| !password.is_empty())
        || parameters.split('&').any(|one| one.strip_prefix("password=").is_some_and(|password| !password.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_seen_wherever_it_stands() {
        for url in [
            "postgres://vault:secret@host/vault",
            "mysql://u:p:with:colons@host:3306/db",
            "postgres://u:p@ss@host/db",
            "postgres://host/db?sslmode=require&password=x",
        ] {
            assert!(holds_password(url), "{url}");
        }
        for url in [
            "sqlite",
            "postgres",
            "sqlite:///tmp/a:b@c.db",
            "postgres://vault@host/vault",
            "postgres://vault:@host/vault",
            "postgres://host:5432/db?application_name=a:b@c",
            "postgres://host/db?password=",
        ] {
            assert!(!holds_password(url), "{url}");
        }
    }

    #[test]
    fn a_url_comes_from_a_file_and_is_never_quoted() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("url");
        let argument = format!("@{}", path.display());
        assert!(given(&argument).is_err_and(|error| error.contains("cannot be read from")));
        std::fs::write(&path, "postgres://vault:secret@host/vault\n").expect("written");
        assert_eq!(given(&argument).as_deref(), Ok("postgres://vault:secret@host/vault"));
        std::fs::write(&path, "secret").expect("written");
        assert!(given(&argument).is_err_and(|error| error.contains("no URL") && !error.contains("secret")));
    }
}
