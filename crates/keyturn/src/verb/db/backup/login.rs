//! The URL of a login taken apart for MariaDB's own tools, and what they read it from: a file that has no name.

use std::fs::File;
use std::io::Write as _;
use std::process::Stdio;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod};
use reencrypt::percent_decoded;

use crate::problem::Problem;

/// Under which path a tool finds what it has as its standard input.
pub(super) const OWN_INPUT: &str = "/dev/fd/0";

/// The parts of `SCHEME://USER:PASSWORD@HOST:PORT/DATABASE?NAME=VALUE&…`, decoded; empty where there is none.
#[derive(Default)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: String,
    pub(super) host: String,
    pub(super) port: String,
    pub(super) database: String,
    pub(super) options: Vec<(String, String)>,
}

impl Login {
    /// `None` when it begins with none of these schemes, or is no URL.
    pub(super) fn parse(url: &str, schemes: &[&str]) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        if !schemes.contains(&scheme) {
            return None;
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, place) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port),
            _ => (place, ""),
        };
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        Some(Self {
            user: percent_decoded(user)?,
            password: percent_decoded(password)?,
            host: percent_decoded(host.trim_matches(['[', ']']))?,
            port: port.to_owned(),
            database: percent_decoded(database)?,
            options: pairs
                .map(|(name, value)| Some((name.to_owned(), percent_decoded(value)?)))
                .collect::<Option<_>>()?,
        })
    }
}

/// A file with this text that has no name: in memory alone, for its owner alone, gone with whoever has it open.
pub(super) fn unnamed_file(text: &str) -> Result<Stdio, Problem> {
    let made = memfd_create("keyturn-login", MFdFlags::MFD_CLOEXEC).map(File::from).and_then(|file| {
        fchmod(&file, Mode::S_IRUSR | Mode::S_IWUSR)?;
        Ok(file)
    });
    let written =
        made.map_err(std::io::Error::from).and_then(|mut file| file.write_all(text.as_bytes()).map(|()| file));
    written.map(Stdio::from).map_err(|error| {
        Problem::refused("backup", "the tools' file with the login could not be made", "look at this machine's memory")
            .because(&error)
    })
}

/// A URL that is none.
pub(super) fn not_understood(form: &str) -> Problem {
    Problem::refused("configuration", "the database url cannot be understood", format!("write it as {form}"))
}
