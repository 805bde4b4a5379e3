//! `keyturn pki issue`: a certificate and its key, for one holder in one role.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;
use wire::pki::{Authority, Role};
use zeroize::Zeroizing;

use super::{CA_CERTIFICATE, CA_KEY};
use crate::exit::Exit;
use crate::files::{read, refuse_existing, write_new};
use crate::output::{OutputArgs, fields};
use crate::problem::Problem;

/// Certificates of a farm's own authority are renewed once a year with a margin.
const DAYS_DEFAULT: u32 = 397;
/// Beyond ten years a certificate outlives every plan to renew it.
const DAYS_MAX: i64 = 3650;

/// For whom.
#[derive(Debug, Args)]
pub(crate) struct Issue {
    /// What the holder is
    #[arg(value_enum)]
    role: RoleName,
    /// Its name: a node's id, a coordinator's number, a person's name
    name: String,
    /// A host name or address that clients call it by; repeat for several. Coordinators and agents need one
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<String>,
    /// The directory with ca.pem and ca.key; it gets ROLE-NAME.pem and ROLE-NAME.key
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// For how many days it is valid
    #[arg(long, value_name = "N", default_value_t = DAYS_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=DAYS_MAX))]
    days: u32,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleName {
    /// One of the replicas that hold the rotation's state
    Coordinator,
    /// The agent of one node; its name is the node's id
    Agent,
    /// A person or program that may start rotations
    Operator,
    /// A person or program that may look
    Viewer,
}

impl RoleName {
    const fn role(self) -> Role {
        match self {
            Self::Coordinator => Role::Coordinator,
            Self::Agent => Role::Agent,
            Self::Operator => Role::Operator,
            Self::Viewer => Role::Viewer,
        }
    }

    /// One of them in words.
    const fn one(self) -> &'static str {
        match self {
            Self::Coordinator => "a coordinator",
            Self::Agent => "an agent",
            Self::Operator => "an operator",
            Self::Viewer => "a viewer",
        }
    }

    /// Whether others call it, so that its certificate must say by which name.
    const fn listens(self) -> bool {
        match self {
            Self::Coordinator | Self::Agent => true,
            Self::Operator | Self::Viewer => false,
        }
    }
}

#[derive(Serialize)]
struct Made {
    farm: String,
    role: &'static str,
    name: String,
    hosts: Vec<String>,
    days: u32,
    certificate: PathBuf,
    key: PathBuf,
}

impl Issue {
    /// Issues it.
    pub(crate) fn run(self) -> Result<Exit, Problem> {
        let role = self.role.role();
        if self.role.listens() && self.hosts.is_empty() {
            return Err(Problem::usage(
                format!("the certificate of {} must name the hosts that it is called by", self.role.one()),
                "add --host NAME-OR-ADDRESS, once for each",
            ));
        }
        // As the coordinators compare it: `01` is not the number 1.
        let is_number = self.name.parse::<u64>().is_ok_and(|number| number.to_string() == self.name);
        if role == Role::Coordinator && !is_number {
            return Err(Problem::usage(
                format!("the name of a coordinator is its number, and {} is none", self.name),
                "give the id of its configuration, for example 4",
            ));
        }
        let text = |name: &str, what: &str| {
            let bytes = Zeroizing::new(read(&self.dir.join(name), what)?);
            // Not text becomes text that is no PEM, which the authority refuses with a reason.
            Ok::<_, Problem>(Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned()))
        };
        let refused = |message: String, error: &wire::pki::PkiError| {
            Problem::refused("pki", message, "correct what is named and run it again").because(error)
        };
        let (certificate, key) = (text(CA_CERTIFICATE, "authority's certificate")?, text(CA_KEY, "authority's key")?);
        let authority = Authority::from_pem(&certificate, &key)
            .map_err(|error| refused(format!("the authority in {} cannot be used", self.dir.display()), &error))?;
        let issued = authority
            .issue(role, &self.name, &self.hosts, self.days)
            .map_err(|error| refused(format!("the certificate of {role} {} was not issued", self.name), &error))?;
        let stem = format!("{role}-{}", self.name);
        let made = Made {
            farm: authority.farm().to_owned(),
            role: role.as_str(),
            certificate: self.dir.join(format!("{stem}.pem")),
            key: self.dir.join(format!("{stem}.key")),
            name: self.name,
            hosts: self.hosts,
            days: self.days,
        };
        refuse_existing(&made.certificate)?;
        write_new(&made.key, issued.key_pem.as_bytes())?;
        write_new(&made.certificate, issued.certificate_pem.as_bytes())?;
        self.output.print(&made, || {
            fields(&[
                ("Holder", format!("{} {} of {}", made.role, made.name, made.farm)),
                ("Hosts", made.hosts.join(", ")),
                ("Valid", format!("{} days", made.days)),
                ("Certificate", made.certificate.display().to_string()),
                ("Key", made.key.display().to_string()),
            ])
        })?;
        Ok(Exit::Done)
    }
}
