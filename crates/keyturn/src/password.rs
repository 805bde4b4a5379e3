//! Where passwords come from: a prompt that does not echo, a file, standard input or a file descriptor.
//! Never the command line's arguments and never the environment, which other processes can read.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use keys::Password;
use zeroize::Zeroizing;

use crate::problem::Problem;

/// A password file that is larger is some other file.
const PASSWORD_BYTES_MAX: u64 = 4096;
/// How often a person may mistype when a new password is asked for twice.
const PROMPTS_MAX: u32 = 3;
const NO_TERMINAL: &str = "give the password with --password-file PATH ('-' is standard input) or --password-fd N";

/// Where the password of a bundle comes from; a prompt when nothing is given.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct PasswordArgs {
    /// Read the bundle's password from this file; '-' is standard input
    #[arg(long, value_name = "PATH", conflicts_with = "password_fd")]
    pub(crate) password_file: Option<PathBuf>,
    /// Read the bundle's password from this open file descriptor
    #[arg(long, value_name = "N")]
    pub(crate) password_fd: Option<u32>,
}

/// Where a password comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A person is asked.
    Prompt,
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
    /// An open file descriptor.
    Descriptor(u32),
}

impl PasswordArgs {
    /// The source that was named.
    pub(crate) fn source(&self) -> Source {
        Source::new(self.password_file.as_deref(), self.password_fd)
    }
}

impl Source {
    /// From the two options; the command line refuses both at once.
    pub(crate) fn new(file: Option<&Path>, descriptor: Option<u32>) -> Self {
        match (file, descriptor) {
            (Some(path), _) if path == Path::new("-") => Self::Stdin,
            (Some(path), _) => Self::File(path.to_owned()),
            (None, Some(number)) => Self::Descriptor(number),
            (None, None) => Self::Prompt,
        }
    }

    /// Takes the password of something that exists; `what` is shown in the prompt.
    pub(crate) fn read(&self, what: &str) -> Result<Password, Problem> {
        match self {
            Self::Prompt => prompt(&format!("Password of {what}: ")),
            Self::File(path) => {
                let file = File::open(path).map_err(|error| unreadable(&path.display().to_string(), &error))?;
                read_all(file, &path.display().to_string())
            }
            Self::Stdin => read_all(io::stdin().lock(), "standard input"),
            // Opened again by its name, since taking over a bare number is not safe to the compiler.
            Self::Descriptor(number) => {
                let name = format!("file descriptor {number}");
                let file = File::open(format!("/dev/fd/{number}")).map_err(|error| unreadable(&name, &error))?;
                read_all(file, &name)
            }
        }
    }

    /// Takes a password for something that is about to be made; a person is asked twice.
    pub(crate) fn read_new(&self, what: &str) -> Result<Password, Problem> {
        if *self != Self::Prompt {
            return self.read(what);
        }
        for _ in 0..PROMPTS_MAX {
            let first = ask(&format!("New password of {what}: "))?;
            let second = ask("The same again: ")?;
            if first != second {
                crate::output::note("These were not the same.");
            } else {
                return checked(Zeroizing::new(first.as_bytes().to_vec()), "the prompt");
            }
        }
        Err(Problem::refused("password", "the password was not typed twice the same way", "run the command again"))
    }
}

fn prompt(text: &str) -> Result<Password, Problem> {
    checked(Zeroizing::new(ask(text)?.as_bytes().to_vec()), "the prompt")
}

fn ask(text: &str) -> Result<Zeroizing<String>, Problem> {
    if !io::stderr().is_terminal() && !io::stdin().is_terminal() {
        return Err(Problem::usage("there is no terminal to ask for a password", NO_TERMINAL));
    }
    rpassword::prompt_password(text)
        .map(Zeroizing::new)
        .map_err(|error| Problem::usage("the password could not be asked for", NO_TERMINAL).because(&error))
}

fn read_all(input: impl Read, name: &str) -> Result<Password, Problem> {
    // Reserved whole, so that growing leaves no copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(PASSWORD_BYTES_MAX as usize + 1));
    input.take(PASSWORD_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| unreadable(name, &error))?;
    if bytes.len() as u64 > PASSWORD_BYTES_MAX {
        return Err(Problem::refused(
            "password",
            format!("{name} holds more than {PASSWORD_BYTES_MAX} bytes: that is no password"),
            "name the file that holds the password alone",
        ));
    }
    checked(bytes, name)
}

fn checked(bytes: Zeroizing<Vec<u8>>, name: &str) -> Result<Password, Problem> {
    // The taken bytes wipe themselves as part of the password.
    Password::from_file_bytes(bytes.to_vec()).map_err(|error| {
        Problem::refused("password", format!("the password from {name} cannot be used"), NO_TERMINAL).because(&error)
    })
}

fn unreadable(name: &str, error: &io::Error) -> Problem {
    Problem::refused("password", format!("the password could not be read from {name}"), NO_TERMINAL).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_what_the_options_say() {
        assert_eq!(Source::new(Some(Path::new("-")), None), Source::Stdin);
        assert_eq!(Source::new(Some(Path::new("p")), None), Source::File("p".into()));
        assert_eq!(Source::new(None, Some(7)), Source::Descriptor(7));
        assert_eq!(Source::new(None, None), Source::Prompt);
    }

    #[test]
    fn an_empty_password_is_refused() {
        let problem = read_all(&b"\n"[..], "p").expect_err("empty");
        assert_eq!(problem.code, "password");
    }
}
