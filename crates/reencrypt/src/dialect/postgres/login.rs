//! A login as the driver understands its URL, in libpq's words and as a URL that says each thing once. The tools of
//! PostgreSQL and the engine must come to the same server and database, as the same role, over the same TLS.

use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;

use crate::config::Location;
use crate::percent;
use crate::{DatabaseUrlError, EngineError};

/// What of TLS the driver takes from the URL or the environment.
const TLS: [&str; 4] = ["sslmode", "sslrootcert", "sslcert", "sslkey"];

/// Stands before the path of a certificate in the driver's own URLs.
const FILE: &str = "file: ";

/// The parts of a login, under the names that libpq has for them, each at most once.
pub fn libpq_fields(url: &str) -> Result<Vec<(&'static str, String)>, DatabaseUrlError> {
    match Location::parse(url)? {
        Location::Postgres(options) => fields(&options),
        Location::Mariadb(_) => Err(DatabaseUrlError::Scheme("mariadb".to_owned())),
        Location::Sqlite(_) => Err(DatabaseUrlError::Scheme("sqlite".to_owned())),
    }
}

/// The same login into another database.
pub(super) fn with_database(options: &PgConnectOptions, database: &str) -> Result<String, EngineError> {
    let fields = fields(&options.clone().database(database)).map_err(EngineError::Url)?;
    let pairs: Vec<String> =
        fields.into_iter().map(|(name, value)| format!("{name}={}", percent::encoded(value.as_bytes()))).collect();
    Ok(format!("postgres:///?{}", pairs.join("&")))
}

fn fields(options: &PgConnectOptions) -> Result<Vec<(&'static str, String)>, DatabaseUrlError> {
    let host = match options.get_socket() {
        Some(folder) => folder.to_string_lossy().into_owned(),
        // A URL has an IPv6 address in brackets.
        None => options.get_host().trim_matches(['[', ']']).to_owned(),
    };
    let user = options.get_username();
    let mut fields = vec![
        ("host", host),
        ("port", options.get_port().to_string()),
        ("user", user.to_owned()),
        ("dbname", options.get_database().unwrap_or(user).to_owned()),
    ];
    if let Some(more) = options.get_options() {
        fields.push(("options", more.to_owned()));
    }
    // The driver gives password and certificates away in a URL alone. It makes one of plain names without fail.
    let url = options.clone().host("localhost").username("role").database("database").to_url_lossy();
    if let Some(password) = url.password().and_then(percent::decoded) {
        fields.push(("password", password));
    }
    for name in TLS {
        let value = url.query_pairs().find(|(found, _)| found == name);
        // So the driver writes the path of a file.
        fields.extend(value.map(|(_, value)| (name, value.strip_prefix(FILE).unwrap_or(&value).to_owned())));
    }
    fields.retain(|(_, value)| !value.is_empty());
    match fields.iter().find(|(_, value)| value.contains(['\n', '\r', '\0'])) {
        Some((name, _)) => Err(DatabaseUrlError::Control(name)),
        None => Ok(fields),
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use super::*;

    #[track_caller]
    fn check(url: &str, expected: &[(&str, &str)]) {
        let found = libpq_fields(url).unwrap();
        for (name, value) in expected {
            let values: Vec<&str> = found.iter().filter(|(is, _)| is == name).map(|(_, value)| &**value).collect();
            assert_eq!(values, [*value], "{name} of {url}");
        }
    }

    #[test]
    fn urls_come_apart_for_libpq_as_the_driver_takes_them() {
        check(
            "postgres://agent:h%40nter:2@db.example:5433/vault?sslmode=verify-full&ssl-root-cert=/ca.pem",
            &[
                ("user", "agent"),
                ("password", "h@nter:2"),
                ("host", "db.example"),
                ("port", "5433"),
                ("dbname", "vault"),
                ("sslmode", "verify-full"),
                ("sslrootcert", "/ca.pem"),
            ],
        );
        check(
            "postgres://postgres@%2Frun%2Fpg/vault",
            &[("user", "postgres"), ("host", "/run/pg"), ("dbname", "vault")],
        );
        // What is said twice is what was said last, for both.
        check(
            "postgres://a:b@one:1/first?host=two&port=2&dbname=second&user=c&password=%5Bd%5D",
            &[("host", "two"), ("port", "2"), ("dbname", "second"), ("user", "c"), ("password", "[d]")],
        );
        check("postgres://[::1]/x", &[("host", "::1")]);
        check("postgres://a%2Fb%23@h/x", &[("user", "a/b#")]);
        assert!(libpq_fields("mysql://a@b/c").is_err());
        assert!(libpq_fields("postgres://a:b%0Ahost=evil@h/x").is_err(), "a line break would begin another field");
    }

    #[test]
    fn another_database_keeps_login_place_and_options_whatever_named_the_first() {
        for url in [
            "postgres://a:b%26c@h:5/vault?sslmode=require",
            "postgres://a:b%26c@h:5?dbname=vault&sslmode=require",
            "postgres://a:b%26c@h:5/other?db%6eame=vault&sslmode=require",
        ] {
            let options = PgConnectOptions::from_str(url).unwrap();
            let other = with_database(&options, "new one").unwrap();
            let expected = [("host", "h"), ("port", "5"), ("user", "a"), ("password", "b&c"), ("sslmode", "require")];
            check(&other, &expected);
            check(&other, &[("dbname", "new one")]);
        }
        let socket = PgConnectOptions::from_str("postgres://postgres@%2Frun%2Fpg/vault").unwrap();
        check(&with_database(&socket, "x").unwrap(), &[("host", "/run/pg"), ("dbname", "x")]);
    }
}
