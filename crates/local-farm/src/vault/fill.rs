//! Fills an instance's database with sample entries under its current key, for a farm that is built by hand.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Parser;

use super::folder::Folder;
use crate::database::Database;
use crate::seed::content::Counts;
use crate::seed::seed;

/// Fewer would leave tables with the same kind of value only.
const ROWS_MIN: u64 = 100;

/// Where the instance lives, and how much is wanted.
#[derive(Debug, Parser)]
pub(super) struct Seed {
    /// The instance's folder, with its instance.toml.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// How many entries, over four tables.
    #[arg(long, default_value_t = 20_000, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(ROWS_MIN..))]
    rows: u64,
}

impl Seed {
    /// Creates the tables and fills them.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let settings = Folder::new(self.dir).settings()?;
        let keys = settings.key_store().current().context("opening encryption.config")?;
        if let Some(path) = settings.database_url.strip_prefix("sqlite://") {
            // Made here and nowhere else: a server that creates a database by a mistyped name hides the mistake.
            if let Err(error) = std::fs::File::create_new(path) {
                bail!("{path} cannot be made anew: {error}; seed an empty farm only");
            }
        }
        let database = Database::open(&settings.database_url, "sample-vault", 1)?;
        let seeded = seed(&database, &keys.active().secret, Counts::of(self.rows)).await;
        database.close().await;
        seeded
    }
}
