//! Where everything of a demo's farm lies: one folder, whole, so that it can be kept and read by another program.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rotation::NodeId;
use tempfile::TempDir;

/// The farm's name.
pub(crate) const FARM: &str = "demo";

/// Only root and who runs the demo may look into its folder: there are keys and passwords in it.
const FOLDER_MODE: u32 = 0o700;

/// A folder that is not empty, or cannot be made: wrong usage.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UnusableFolder(String);

/// The folder of a farm.
#[derive(Debug)]
pub(crate) struct Layout {
    root: PathBuf,
    /// Removes it at the end, when it is not to be kept.
    _temporary: Option<TempDir>,
}

impl Layout {
    /// The folder to keep, made or found empty; or a temporary one.
    pub(crate) fn create(keep: Option<&Path>) -> anyhow::Result<Self> {
        let (root, temporary) = match keep {
            Some(path) => {
                fs::create_dir_all(path).with_context(|| format!("creating {}", path.display()))?;
                let mut entries = fs::read_dir(path).with_context(|| format!("reading {}", path.display()))?;
                if entries.next().is_some() {
                    bail!(UnusableFolder(format!("{} is not empty; name another folder for --keep", path.display())));
                }
                (path.canonicalize().with_context(|| format!("finding {}", path.display()))?, None)
            }
            None => {
                let folder = tempfile::Builder::new().prefix("keyturn-demo-").tempdir();
                let folder = folder.context("creating a temporary folder")?;
                (folder.path().to_owned(), Some(folder))
            }
        };
        let layout = Self { root, _temporary: temporary };
        fs::set_permissions(&layout.root, fs::Permissions::from_mode(FOLDER_MODE))
            .with_context(|| format!("closing {} to others", layout.root.display()))?;
        for folder in [layout.logs(), layout.bundles(), layout.pki()] {
            fs::create_dir(&folder).with_context(|| format!("creating {}", folder.display()))?;
        }
        Ok(layout)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub(crate) fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    fn bundles(&self) -> PathBuf {
        self.root.join("bundles")
    }

    /// The bundle that the nodes' first keys come from.
    pub(crate) fn first_bundle(&self) -> PathBuf {
        self.bundles().join("first.bundle")
    }

    /// The farm's keys as they were exported before the rotation.
    pub(crate) fn current_bundle(&self) -> PathBuf {
        self.bundles().join("current.bundle")
    }

    /// The new key.
    pub(crate) fn new_bundle(&self) -> PathBuf {
        self.bundles().join("new.bundle")
    }

    /// The password of all of them.
    pub(crate) fn password_file(&self) -> PathBuf {
        self.bundles().join("password")
    }

    pub(crate) fn targets(&self) -> PathBuf {
        self.root.join("targets.toml")
    }

    pub(crate) fn operator_config(&self) -> PathBuf {
        self.root.join("operator.toml")
    }

    pub(crate) fn report(&self) -> PathBuf {
        self.root.join("report.json")
    }

    /// The object that the demo prints.
    pub(crate) fn result(&self) -> PathBuf {
        self.root.join("result.json")
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.root.join("farm.json")
    }
}

/// One node: its agent and its instance.
#[derive(Debug, Clone)]
pub(crate) struct NodePlace {
    pub(crate) id: NodeId,
    pub(crate) folder: PathBuf,
    /// Where the agent listens.
    pub(crate) listen: SocketAddr,
    /// Where the others reach it; another address when a proxy stands before it.
    pub(crate) reach: SocketAddr,
    /// Where the instance listens.
    pub(crate) instance: SocketAddr,
}

impl NodePlace {
    /// The name of the agent's process and log.
    pub(crate) fn agent_name(&self) -> String {
        format!("agent-{}", self.id)
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder.join("agent.toml")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.folder.join("store")
    }

    pub(crate) fn hostkey(&self) -> PathBuf {
        self.folder.join("hostkey")
    }

    pub(crate) fn instance_folder(&self) -> PathBuf {
        self.folder.join("instance")
    }
}

/// One coordinator.
#[derive(Debug, Clone)]
pub(crate) struct CoordinatorPlace {
    pub(crate) id: u64,
    pub(crate) folder: PathBuf,
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// Where the others reach it.
    pub(crate) reach: SocketAddr,
}

impl CoordinatorPlace {
    /// The name of its process and log.
    pub(crate) fn name(&self) -> String {
        format!("coordinator-{}", self.id)
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder.join("coordinator.toml")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }
}

/// The address as Keyturn writes it.
pub(crate) fn https(address: SocketAddr) -> String {
    format!("https://{address}")
}

/// Writes a file that only its owner may read.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(content))
        .with_context(|| format!("writing {}", path.display()))
}
