//! `keyturn pki`: the farm's certificate authority and the certificates of every role.

mod init;
mod issue;
mod show;

use clap::Subcommand;

use crate::exit::Exit;
use crate::problem::Problem;

/// The file of the authority's certificate, in its directory.
const CA_CERTIFICATE: &str = "ca.pem";
/// The file of the authority's key, in its directory.
const CA_KEY: &str = "ca.key";

/// What can be done with certificates.
#[derive(Debug, Subcommand)]
pub(crate) enum Pki {
    /// Make a certificate authority for a new farm
    Init(init::Init),
    /// Issue a certificate to a coordinator, an agent, an operator or a viewer
    Issue(issue::Issue),
    /// Show who a certificate speaks for, and until when
    Show(show::Show),
}

impl Pki {
    /// Does it.
    pub(crate) fn run(self) -> Result<Exit, Problem> {
        match self {
            Self::Init(verb) => verb.run(),
            Self::Issue(verb) => verb.run(),
            Self::Show(verb) => verb.run(),
        }
    }
}
