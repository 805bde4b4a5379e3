//! `keyturn key import`: a node's first `encryption.config`; also how an existing farm's key is adopted.

use std::cmp::Ordering;
use std::path::PathBuf;

use clap::{ArgGroup, Args};
use keys::{KEY_BYTES, KeySet, SecretKey};

use super::{SetView, agent_config, store_problem};
use crate::exit::Exit;
use crate::files::read;
use crate::operator::open_bundle;
use crate::output::{OutputArgs, note, now_ms};
use crate::password::PasswordArgs;
use crate::problem::Problem;
use crate::process::forbid_core_dumps;

/// How many digits of base64 hold a key of 32 bytes, without the padding.
const BASE64_DIGITS: usize = (8 * KEY_BYTES).div_ceil(6);

/// From where, and to where.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("source").required(true).args(["bundle", "raw_key_file"]))]
pub(crate) struct Import {
    /// The agent's configuration, which names the key store
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The bundle with the farm's keys
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// A file with nothing but the bytes of the key that the application uses now
    #[arg(long, value_name = "FILE", conflicts_with_all = ["password_file", "password_fd"])]
    raw_key_file: Option<PathBuf>,
    #[command(flatten)]
    password: PasswordArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl Import {
    /// Writes it.
    pub(crate) fn run(self) -> Result<Exit, Problem> {
        forbid_core_dumps()?;
        let config = agent_config(&self.config)?;
        let mut form = None;
        let set = match (&self.bundle, &self.raw_key_file) {
            (Some(path), _) => open_bundle(path, &self.password.source())?,
            (None, Some(path)) => {
                let bytes = read(path, "key")?;
                form = text_form(&bytes);
                let secret = SecretKey::from_bytes(bytes).map_err(|error| {
                    Problem::refused(
                        "raw-key",
                        format!("{} holds no key", path.display()),
                        "name the file that holds the key's bytes",
                    )
                    .because(&error)
                })?;
                KeySet::new(&config.farm, secret, now_ms())
            }
            (None, None) => return Err(Problem::usage("nothing to import", "add --bundle or --raw-key-file")),
        };
        if set.farm() != config.farm {
            return Err(Problem::refused(
                "other-farm",
                format!("the bundle belongs to the farm {}, this node to {}", set.farm(), config.farm),
                "import the bundle of this node's farm",
            ));
        }
        if let Some(than) = other_length(set.active().secret.length_bytes()) {
            note(&format!(
                "warning: the key has {than} than {KEY_BYTES} bytes; it is accepted so that it can be rotated away. \
                 Do so soon."
            ));
            if let Some(form) = form {
                note(&format!(
                    "warning: the file seems to hold the key {form}; Keyturn takes the bytes as they are. If the \
                     application does not, remove {} and import the key's own bytes.",
                    agent::open_store(&config).path().display()
                ));
            }
        }
        let store = agent::open_store(&config);
        store
            .create(&set)
            .map_err(|error| store_problem("this node's encryption.config could not be written", &error))?;
        let view = SetView::new(&store.path(), &set);
        self.output.print(&view, || view.table())?;
        Ok(Exit::Done)
    }
}

/// How its length differs from a new key's.
fn other_length(bytes: usize) -> Option<&'static str> {
    match bytes.cmp(&KEY_BYTES) {
        Ordering::Less => Some("fewer"),
        Ordering::Equal => None,
        Ordering::Greater => Some("more"),
    }
}

/// What the bytes look like, if not like a key itself: told by their number and alphabet, since a decoded copy of a key
/// would have to be wiped.
fn text_form(bytes: &[u8]) -> Option<&'static str> {
    let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    let digits = text.strip_suffix(b"=").unwrap_or(text);
    let base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/-_".contains(byte);
    if digits.len() == BASE64_DIGITS && digits.iter().all(base64) {
        Some("as base64 text")
    } else if text.len() == 2 * KEY_BYTES && text.iter().all(u8::is_ascii_hexdigit) {
        Some("as hexadecimal text")
    } else if bytes.ends_with(b"\n") {
        Some("with a newline")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_written_as_text_is_recognized() {
        let form = |text: &str| text_form(text.as_bytes());
        let (base64, hexadecimal) = ("A/+-_z0".repeat(6) + "9", "0aF9".repeat(16));
        for end in ["", "=", "\n", "=\n", "=\r\n"] {
            assert_eq!(form(&format!("{base64}{end}")), Some("as base64 text"), "{end:?}");
        }
        for end in ["", "\n", "\r\n"] {
            assert_eq!(form(&format!("{hexadecimal}{end}")), Some("as hexadecimal text"), "{end:?}");
        }
        assert_eq!(form("a key of some length\n"), Some("with a newline"));
        assert_eq!(form("a key of some length"), None);
        assert_eq!(form(&base64[1..]), None, "another number of bytes");
        assert_eq!(text_form(&[0xff; 43]), None);
    }
}
