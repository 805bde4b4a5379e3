//! `keyturn pki init`: a certificate authority for a new farm.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use wire::pki::Authority;

use super::{CA_CERTIFICATE, CA_KEY};
use crate::exit::Exit;
use crate::files::{refuse_existing, write_new};
use crate::output::{OutputArgs, fields};
use crate::problem::Problem;

/// For which farm, and where.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The farm's name; it stands in every certificate
    #[arg(long, value_name = "NAME")]
    farm: String,
    /// The directory that gets ca.pem and ca.key; made when it does not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
struct Made {
    farm: String,
    certificate: PathBuf,
    key: PathBuf,
}

impl Init {
    /// Makes it.
    pub(crate) fn run(self) -> Result<Exit, Problem> {
        let made = Made { farm: self.farm, certificate: self.out.join(CA_CERTIFICATE), key: self.out.join(CA_KEY) };
        refuse_existing(&made.certificate)?;
        refuse_existing(&made.key)?;
        let authority = Authority::create(&made.farm).map_err(|error| {
            Problem::refused(
                "pki",
                "the certificate authority could not be made",
                "correct what is named and run it again",
            )
            .because(&error)
        })?;
        std::fs::create_dir_all(&self.out).map_err(|error| {
            Problem::refused(
                "write-file",
                format!("the directory {} could not be made", self.out.display()),
                "look at the path and at the rights of the folder above",
            )
            .because(&error)
        })?;
        // The key first: a certificate without its key would look like an authority and be none.
        write_new(&made.key, authority.key_pem().as_bytes())?;
        write_new(&made.certificate, authority.certificate_pem().as_bytes())?;
        self.output.print(&made, || {
            fields(&[
                ("Farm", made.farm.clone()),
                ("Certificate", made.certificate.display().to_string()),
                ("Key", format!("{} (keep it off the nodes)", made.key.display())),
            ])
        })?;
        Ok(Exit::Done)
    }
}
