//! The last question before something that cannot be taken back: the farm's name must be typed.

use std::io::{self, BufRead, BufReader, IsTerminal, Read};

use crate::output::note;
use crate::problem::Problem;

/// A farm's name is far shorter; the limit ends a line that never does.
const TYPED_BYTES_MAX: u64 = 1024;

/// Has the farm's name typed. `stdin_taken` says that standard input gave a password, so that the terminal is asked;
/// `undone` is what was not done when something else is typed.
pub(super) fn confirm(farm: &str, stdin_taken: bool, undone: &str) -> Result<(), Problem> {
    note("Type the farm's name to go on:");
    if typed_line(stdin_taken)?.trim() == farm {
        return Ok(());
    }
    Err(Problem::refused(
        "not-confirmed",
        format!("what was typed is not the farm's name, {farm}; {undone}"),
        "run the command again and type it, or add --yes",
    ))
}

fn typed_line(stdin_taken: bool) -> Result<String, Problem> {
    let mut line = String::new();
    let read = if stdin_taken && !io::stdin().is_terminal() {
        std::fs::File::open("/dev/tty")
            .and_then(|terminal| BufReader::new(terminal).take(TYPED_BYTES_MAX).read_line(&mut line))
    } else {
        io::stdin().lock().take(TYPED_BYTES_MAX).read_line(&mut line)
    };
    read.map_err(|error| {
        Problem::usage("there is no terminal to type the farm's name at", "add --yes").because(&error)
    })?;
    Ok(line)
}
