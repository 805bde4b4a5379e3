//! Arguments of the hidden verbs, read like those of the binary itself.

use std::ffi::OsString;

use clap::Parser;

/// Parses what follows a hidden verb. `Err` holds the exit code, after help or the error was printed.
pub(crate) fn parse<A: Parser>(name: &str, arguments: Vec<OsString>) -> Result<A, u8> {
    A::try_parse_from(std::iter::once(OsString::from(name)).chain(arguments)).map_err(|error| {
        // A closed terminal is no reason to fail differently.
        let _ = error.print();
        u8::try_from(error.exit_code()).unwrap_or(2)
    })
}
