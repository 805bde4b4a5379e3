//! The configuration file of one coordinator replica, read and checked before anything is started.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use wire::tls::TlsFiles;

use crate::raft::VOTERS_MAX;

/// The heartbeat unless another one is configured, and the shortest, in milliseconds. Below 250 ms a busy disk makes
/// openraft send the same batch of entries for ever.
pub const HEARTBEAT_MS: u32 = 300;

/// The longest. The death of a leader is noticed after some eight heartbeats: by then more than a minute.
pub const HEARTBEAT_MS_MAX: u32 = 10_000;

/// One coordinator's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This replica's number, which is also the name in its certificate; one of `replica`, unless it joins.
    pub id: u64,
    /// The farm's name; the one in every certificate.
    pub farm: String,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where the log and the snapshots are kept. Created when it does not exist.
    pub data_dir: PathBuf,
    /// The certificate of this replica and the authority that signs all others.
    pub tls: TlsFiles,
    /// Between two heartbeats of the leader, in milliseconds, and how long a batch of entries may be on its way there and
    /// back: more than a round trip between any two replicas. All other durations of consensus grow with it, the time to
    /// notice that a leader died as well. The same in every replica; one in which it differs is named in the log.
    #[serde(default = "heartbeat_ms")]
    pub heartbeat_ms: u32,
    /// Whether this replica joins a cluster that exists: it then never founds one, and waits to be added.
    #[serde(default)]
    pub join: bool,
    /// Every replica with which the cluster is founded, this one included. Once there is a cluster its membership counts,
    /// and this no more; a replica that joins needs none.
    #[serde(rename = "replica", default)]
    pub replicas: Vec<ReplicaConfig>,
}

/// One replica as the others reach it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaConfig {
    /// Its number.
    pub id: u64,
    /// `https://host:port`.
    pub address: String,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or not readable.
    #[error("the coordinator's configuration {path} cannot be read; check the path given with --config")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, a field is missing, or one is unknown.
    #[error("the coordinator's configuration {path} is not valid; correct it and start again")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: toml::de::Error,
    },
    /// No `[[replica]]` has this replica's id.
    #[error("id = {id}, but no [[replica]] has that id; list every replica, this one included, or say join = true")]
    NotAmongReplicas {
        /// The id.
        id: u64,
    },
    /// Two `[[replica]]` have the same id.
    #[error("two [[replica]] have the id {id}; give each its own")]
    DuplicateReplica {
        /// The id.
        id: u64,
    },
    /// Not an odd number, or too many.
    #[error("{count} replicas are listed; use 1, 3 or 5, since any other number survives no more failures")]
    ReplicaCount {
        /// How many.
        count: usize,
    },
    /// Out of bounds.
    #[error(
        "heartbeat_ms = {heartbeat_ms}; give one and a half times the longest round trip between two coordinators, from \
         {HEARTBEAT_MS} to {HEARTBEAT_MS_MAX}, the same in every coordinator's configuration"
    )]
    Heartbeat {
        /// What is configured.
        heartbeat_ms: u32,
    },
    /// Not `https://host:port`.
    #[error("replica {id} has the address {address:?}; write it as https://host:port")]
    Address {
        /// The replica.
        id: u64,
        /// Its address.
        address: String,
    },
}

impl Config {
    /// Reads the file and checks it. Relative paths in it are relative to the file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let mut config: Self =
            toml::from_str(&text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source })?;
        let base = path.parent().unwrap_or(Path::new(""));
        config.data_dir = base.join(config.data_dir);
        config.tls = config.tls.relative_to(base);
        config.check()?;
        Ok(config)
    }

    /// Checks what the types do not say.
    pub fn check(&self) -> Result<(), ConfigError> {
        let heartbeat_ms = self.heartbeat_ms;
        if !(HEARTBEAT_MS..=HEARTBEAT_MS_MAX).contains(&heartbeat_ms) {
            return Err(ConfigError::Heartbeat { heartbeat_ms });
        }
        let count = self.replicas.len();
        if !self.join && (count.is_multiple_of(2) || count > VOTERS_MAX) {
            return Err(ConfigError::ReplicaCount { count });
        }
        let mut seen = BTreeMap::new();
        for replica in &self.replicas {
            if seen.insert(replica.id, ()).is_some() {
                return Err(ConfigError::DuplicateReplica { id: replica.id });
            }
            if !is_https_address(&replica.address) {
                return Err(ConfigError::Address { id: replica.id, address: replica.address.clone() });
            }
        }
        if !self.join && !seen.contains_key(&self.id) {
            return Err(ConfigError::NotAmongReplicas { id: self.id });
        }
        Ok(())
    }

    /// The addresses of all replicas by id.
    pub(crate) fn addresses(&self) -> BTreeMap<u64, String> {
        self.replicas.iter().map(|replica| (replica.id, replica.address.clone())).collect()
    }
}

fn heartbeat_ms() -> u32 {
    HEARTBEAT_MS
}

/// Whether the text is `https://host:port`, with nothing after it.
pub(crate) fn is_https_address(text: &str) -> bool {
    let Some(authority) = text.strip_prefix("https://") else { return false };
    let Some((host, port)) = authority.rsplit_once(':') else { return false };
    !host.is_empty() && !host.contains(['/', '@', ' ', '?', '#']) && port.parse::<u16>().is_ok_and(|port| port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"
        id = 2
        farm = "demo"
        listen = "127.0.0.1:7002"
        data_dir = "data"
        [tls]
        ca = "ca.pem"
        certificate = "/etc/keyturn/coordinator-2.pem"
        key = "coordinator-2.key"
        [[replica]]
        id = 1
        address = "https://127.0.0.1:7001"
        [[replica]]
        id = 2
        address = "https://127.0.0.1:7002"
        [[replica]]
        id = 3
        address = "https://[::1]:7003"
    "#;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("coordinator.toml");
        std::fs::write(&path, text).expect("write the example");
        Config::load(&path).map(|mut config| {
            let relative = config.data_dir.strip_prefix(directory.path()).expect("relative to the file").to_owned();
            config.data_dir = relative;
            config
        })
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let config = load(EXAMPLE).expect("the example is valid");
        assert_eq!(config.data_dir, Path::new("data"));
        assert_eq!(config.tls.certificate, Path::new("/etc/keyturn/coordinator-2.pem"));
        assert!(config.tls.ca.is_absolute());
    }

    #[test]
    fn a_replica_that_joins_needs_to_know_no_other() {
        let (alone, _) = EXAMPLE.split_once("[[replica]]").expect("there is one");
        load(alone).expect_err("nobody to found a cluster with");
        let config = load(&alone.replace("id = 2", "id = 4\n join = true")).expect("valid");
        assert!(config.join && config.replicas.is_empty());
        let beside = EXAMPLE.replace("id = 2\n        farm", "id = 4\n        join = true\n        farm");
        assert_eq!(load(&beside).expect("valid").replicas.len(), 3);
    }

    #[test]
    fn coordinators_that_are_far_from_each_other_say_so_within_bounds() {
        assert_eq!(load(EXAMPLE).expect("valid").heartbeat_ms, HEARTBEAT_MS);
        let with = |heartbeat: &str| load(&format!("heartbeat_ms = {heartbeat}\n{EXAMPLE}"));
        for heartbeat in [HEARTBEAT_MS, 1_500, HEARTBEAT_MS_MAX] {
            assert_eq!(with(&heartbeat.to_string()).expect("within bounds").heartbeat_ms, heartbeat);
        }
        for heartbeat in [0, HEARTBEAT_MS - 1, HEARTBEAT_MS_MAX + 1] {
            let error = with(&heartbeat.to_string()).expect_err("out of bounds").to_string();
            assert!(
                error.contains(&format!("heartbeat_ms = {heartbeat};")) && error.contains("from 300 to 10000"),
                "{error}"
            );
        }
        for no_number in ["\"1s\"", "-1", "1.5"] {
            with(no_number).expect_err("whole milliseconds");
        }
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let check = |from: &str, to: &str, expected: &str| {
            let error = load(&EXAMPLE.replace(from, to)).expect_err("refused").to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("id = 2\n        farm", "id = 7\n        farm", "no [[replica]] has that id");
        check("id = 3", "id = 1", "two [[replica]] have the id 1");
        check("https://[::1]:7003", "http://[::1]:7003", "write it as https://host:port");
        check("https://[::1]:7003", "https://host", "write it as https://host:port");
        check("farm = ", "form = ", "is not valid");

        check("[[replica]]\n        id = 3\n        address = \"https://[::1]:7003\"", "", "use 1, 3 or 5");
    }
}
