//! `keyturn key import`: a node's first `encryption.config`; also how an existing farm's key is adopted.

use std::path::PathBuf;

use clap::Args;
use keys::{KeySet, SecretKey};

use super::{SetView, agent_config, store_problem};
use crate::exit::Exit;
use crate::files::read;
use crate::operator::open_bundle;
use crate::output::{OutputArgs, note, now_ms};
use crate::password::PasswordArgs;
use crate::problem::Problem;
use crate::process::forbid_core_dumps;

/// From where, and to where.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The agent's configuration, which names the key store
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The bundle with the farm's keys
    #[arg(long, value_name = "FILE", required_unless_present = "raw_key_file", conflicts_with = "raw_key_file")]
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
        let set = match (&self.bundle, &self.raw_key_file) {
            (Some(path), _) => open_bundle(path, &self.password.source())?,
            (None, Some(path)) => {
                let secret = SecretKey::from_bytes(read(path, "key")?).map_err(|error| {
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
        if set.active().secret.is_weak() {
            note(
                "warning: the key has fewer than 32 bytes; it is accepted so that it can be rotated away. Do so soon.",
            );
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
