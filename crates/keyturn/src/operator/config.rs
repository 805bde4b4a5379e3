//! Where the coordinators are and who asks: options of the command line, or the operator's configuration file.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;
use wire::tls::{Tls, TlsFiles};

use super::Coordinators;
use crate::problem::Problem;

const EXAMPLE: &str = "compare it with deploy/examples/operator.toml";

/// How to reach the coordinators.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct OperatorArgs {
    /// The operator's configuration [default: operator.toml in keyturn's folder of $XDG_CONFIG_HOME or ~/.config]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The coordinators' addresses, https://host:port, with commas between
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',')]
    coordinators: Vec<String>,
    /// The farm's certificate authority, PEM
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The operator's certificate, PEM
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// The certificate's key, PEM
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

/// The operator's configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// `https://host:port`, all replicas.
    coordinators: Vec<String>,
    /// Relative paths are relative to the file.
    tls: TlsFiles,
}

/// What is needed to call.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Settings {
    coordinators: Vec<String>,
    tls: TlsFiles,
}

impl OperatorArgs {
    /// Reads the files; connects to nobody yet.
    pub(crate) fn coordinators(&self) -> Result<Coordinators, Problem> {
        let settings = self.settings()?;
        if settings.coordinators.is_empty() {
            return Err(Problem::usage("no coordinator is named", "add --coordinators https://host:port,…"));
        }
        let tls = Tls::load(&settings.tls).map_err(|error| {
            Problem::refused(
                "certificates",
                "the operator's certificate cannot be used",
                "look at --ca, --certificate and --key, or at [tls] of the operator's configuration",
            )
            .because(&error)
        })?;
        Coordinators::new(tls, settings.coordinators)
    }

    /// Options of the command line win over the file, which is not even read when they are complete.
    fn settings(&self) -> Result<Settings, Problem> {
        if let (false, Some(ca), Some(certificate), Some(key)) =
            (self.coordinators.is_empty(), &self.ca, &self.certificate, &self.key)
        {
            let tls = TlsFiles { ca: ca.clone(), certificate: certificate.clone(), key: key.clone() };
            return Ok(Settings { coordinators: self.coordinators.clone(), tls });
        }
        let path = match &self.config {
            Some(path) => path.clone(),
            None => default_path().filter(|path| path.exists()).ok_or_else(|| {
                Problem::usage(
                    "it is not said where the coordinators are",
                    "add --config FILE, or --coordinators with --ca, --certificate and --key, \
                     or write ~/.config/keyturn/operator.toml",
                )
            })?,
        };
        let file = read_file(&path)?;
        Ok(Settings {
            coordinators: if self.coordinators.is_empty() { file.coordinators } else { self.coordinators.clone() },
            tls: TlsFiles {
                ca: self.ca.clone().unwrap_or(file.tls.ca),
                certificate: self.certificate.clone().unwrap_or(file.tls.certificate),
                key: self.key.clone().unwrap_or(file.tls.key),
            },
        })
    }
}

fn read_file(path: &Path) -> Result<File, Problem> {
    let unusable = || {
        Problem::refused(
            "configuration",
            format!("the operator's configuration {} cannot be used", path.display()),
            EXAMPLE,
        )
    };
    let text = std::fs::read_to_string(path).map_err(|error| unusable().because(&error))?;
    let file: File = toml::from_str(&text).map_err(|error| unusable().because(&error))?;
    Ok(File { tls: file.tls.relative_to(path.parent().unwrap_or(Path::new(""))), ..file })
}

/// `$XDG_CONFIG_HOME/keyturn/operator.toml`, or the same under `~/.config`.
fn default_path() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CONFIG_HOME").filter(|path| path.is_absolute()).or_else(|| Some(set("HOME")?.join(".config")));
    Some(base?.join("keyturn").join("operator.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_a_configuration() {
        let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/examples/operator.toml"));
        let file = read_file(path).expect("the example is valid");
        assert_eq!(file.coordinators.len(), 3);
        assert!(file.tls.ca.starts_with(path.parent().expect("a file has a folder")));
    }

    #[test]
    fn complete_options_need_no_file() {
        let args = OperatorArgs {
            coordinators: vec!["https://a:1".to_owned()],
            ca: Some("ca.pem".into()),
            certificate: Some("o.pem".into()),
            key: Some("o.key".into()),
            config: Some("/does/not/exist".into()),
        };
        assert_eq!(args.settings().expect("complete").coordinators, ["https://a:1"]);
        let incomplete = OperatorArgs { key: None, ..args };
        assert_eq!(incomplete.settings().expect_err("the file is missing").code, "configuration");
    }
}
