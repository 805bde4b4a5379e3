//! `keyturn pki show`: who a certificate speaks for, who vouches for it, and until when.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::prelude::X509Certificate;

use crate::exit::Exit;
use crate::files::read;
use crate::output::{OutputArgs, date_time, fields, now_ms};
use crate::problem::Problem;

/// The opening of the URI that names farm, role and holder.
const SCHEME: &str = "keyturn://";

/// Which file.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// A certificate, PEM; a chain is shown certificate by certificate
    file: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// What is shown of one certificate.
#[derive(Debug, Serialize)]
struct Certificate {
    subject: String,
    issuer: String,
    authority: bool,
    farm: Option<String>,
    role: Option<String>,
    name: Option<String>,
    hosts: Vec<String>,
    serial: String,
    not_before_ms: u64,
    not_after_ms: u64,
    expired: bool,
}

impl Show {
    /// Shows it.
    pub(crate) fn run(self) -> Result<Exit, Problem> {
        let bytes = read(&self.file, "certificate")?;
        let unreadable = |message: &str| {
            Problem::refused(
                "certificate",
                format!("{} {message}", self.file.display()),
                "name a file with a certificate in PEM, such as `keyturn pki issue` writes",
            )
        };
        let mut certificates = Vec::new();
        for block in Pem::iter_from_buffer(&bytes) {
            let block = block.map_err(|error| unreadable("is not PEM").because(&error))?;
            if block.label != "CERTIFICATE" {
                return Err(unreadable("holds something else than certificates"));
            }
            let parsed =
                block.parse_x509().map_err(|error| unreadable("holds a broken certificate").because(&error))?;
            certificates.push(Certificate::new(&parsed));
        }
        if certificates.is_empty() {
            return Err(unreadable("holds no certificate"));
        }
        self.output
            .print(&certificates, || certificates.iter().map(Certificate::table).collect::<Vec<_>>().join("\n\n"))?;
        Ok(Exit::Done)
    }
}

impl Certificate {
    fn new(parsed: &X509Certificate<'_>) -> Self {
        let names = parsed.subject_alternative_name().ok().flatten();
        let names = || names.iter().flat_map(|extension| &extension.value.general_names);
        let identity = names().find_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix(SCHEME),
            _ => None,
        });
        let mut identity = identity.map(|text| text.splitn(3, '/').map(str::to_owned)).into_iter().flatten();
        let (farm, role, name) = (identity.next(), identity.next(), identity.next());
        let hosts = names().filter_map(|name| match name {
            GeneralName::DNSName(host) => Some((*host).to_owned()),
            GeneralName::IPAddress(bytes) => address(bytes),
            _ => None,
        });
        let ms = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
        let not_after_ms = ms(parsed.validity().not_after.timestamp());
        Self {
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            authority: parsed.is_ca(),
            farm,
            role,
            name,
            hosts: hosts.collect(),
            serial: parsed.raw_serial_as_string(),
            not_before_ms: ms(parsed.validity().not_before.timestamp()),
            not_after_ms,
            expired: not_after_ms < now_ms(),
        }
    }

    fn table(&self) -> String {
        let until = date_time(self.not_after_ms);
        fields(&[
            ("Subject", self.subject.clone()),
            ("Issuer", self.issuer.clone()),
            ("Authority", if self.authority { "yes" } else { "no" }.to_owned()),
            ("Farm", self.farm.clone().unwrap_or_default()),
            ("Role", self.role.clone().unwrap_or_default()),
            ("Name", self.name.clone().unwrap_or_default()),
            ("Hosts", self.hosts.join(", ")),
            ("Serial", self.serial.clone()),
            ("From", date_time(self.not_before_ms)),
            ("Until", if self.expired { format!("{until} (expired)") } else { until }),
        ])
    }
}

/// An address as the extension holds it: 4 or 16 bytes.
fn address(bytes: &[u8]) -> Option<String> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::Ipv4Addr::from(four).to_string());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|sixteen| std::net::Ipv6Addr::from(sixteen).to_string())
}
