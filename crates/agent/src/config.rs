//! The configuration file of one agent: its identity, its key store, its database, the commands of its instance.
//! Tables and commands come from here alone, never from a coordinator.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rotation::NodeId;
use serde::Deserialize;

/// The longest deadline of a command. An hour is longer than any sensible drain, and a mistyped one is found.
const DEADLINE_S_MAX: u64 = 3_600;

/// One agent's configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The node's name; the one in the agent's certificate.
    pub node: NodeId,
    /// The farm's name; the one in every certificate.
    pub farm: String,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where the fence, the held marker and the recipient key are kept. Created when it does not exist.
    pub state_dir: PathBuf,
    /// The certificate of this agent and the authority that signs all others.
    pub tls: TlsConfig,
    /// The application's keys.
    pub store: StoreConfig,
    /// The application's database.
    pub database: DatabaseConfig,
    /// The commands that drive the instance.
    pub instance: InstanceConfig,
    /// What is backed up before a rotation, where `keyturn db backup` puts backups too, and as whom they are made.
    pub backup: Option<BackupConfig>,
}

/// Files in PEM.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The farm's certificate authority.
    pub ca: PathBuf,
    /// The agent's certificate chain, leaf first.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Where the application's keys lie, and what binds them to this machine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// The folder in which the application reads `encryption.config`.
    pub directory: PathBuf,
    /// 32 random bytes that only root can read; made by `keyturn key import`.
    pub hostkey: PathBuf,
    /// The machine's identity, the other half of the binding.
    #[serde(default = "StoreConfig::default_machine_id")]
    pub machine_id: PathBuf,
}

impl StoreConfig {
    fn default_machine_id() -> PathBuf {
        PathBuf::from("/etc/machine-id")
    }
}

/// A connection string. It may hold a password, so it is never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// The string itself, for the connection alone.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseUrl(…)")
    }
}

/// The application's database and which of its tables hold ciphertexts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    /// `postgres://…` or `sqlite:///path`.
    pub url: Option<DatabaseUrl>,
    /// A file that holds the URL, so that a password need be in no other.
    pub url_file: Option<PathBuf>,
    /// PostgreSQL: the role as which the application logs in, and which is fenced.
    pub application_role: Option<String>,
    /// PostgreSQL: further roles whose sessions may stay while the application is fenced, monitoring for example.
    #[serde(default)]
    pub allowed_session_users: Vec<String>,
    /// MariaDB and MySQL: files with the URLs of its replicas, each of which is asked how far it is behind while rows are written.
    #[serde(default)]
    pub replica_url_files: Vec<PathBuf>,
    /// The registered tables: `targets.toml`.
    pub targets: PathBuf,
}

/// Whether a rotation makes a backup of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackedUpDatabase {
    /// One node makes one in Preflight.
    #[default]
    Make,
    /// Somebody else takes care of that; only the application's folder is archived.
    None,
}

/// Backups of the database and of the application's folder.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupConfig {
    /// The folder for them, for its owner alone. Made when it does not exist.
    pub directory: PathBuf,
    /// Whether a rotation makes a backup of the database.
    #[serde(default)]
    pub database: BackedUpDatabase,
    /// A file that holds the URL of a role that may read the whole database; without it the agent's own role is used.
    pub url_file: Option<PathBuf>,
    /// A file that holds the URL of a role that may make databases and rename this one, with which `keyturn recover
    /// --backup` puts one back; without it that of `url_file`.
    pub restore_url_file: Option<PathBuf>,
}

impl BackupConfig {
    /// Backups into this folder, as the agent's own role.
    pub const fn of(directory: PathBuf) -> Self {
        Self { directory, database: BackedUpDatabase::Make, url_file: None, restore_url_file: None }
    }

    /// The URL in `url_file`, which may hold a password.
    pub fn url(&self) -> Result<Option<String>, ConfigError> {
        self.url_file.as_deref().map(read_url).transpose()
    }

    /// The URL to restore with.
    pub fn restore_url(&self) -> Result<Option<String>, ConfigError> {
        self.restore_url_file.as_deref().or(self.url_file.as_deref()).map(read_url).transpose()
    }
}

/// Where a path really leads, as far as it is there already.
fn resolved(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for there in path.ancestors() {
        let Ok(real) = there.canonicalize() else { continue };
        let mut whole = real;
        for part in path.strip_prefix(there).into_iter().flat_map(Path::components) {
            match part {
                Component::ParentDir => drop(whole.pop()),
                other => whole.push(other),
            }
        }
        return whole;
    }
    path
}

fn read_url(path: &Path) -> Result<String, ConfigError> {
    let read = std::fs::read_to_string(path);
    let url =
        read.map_err(|source| ConfigError::Read { what: "the database's URL in", path: path.to_owned(), source })?;
    Ok(url.trim().to_owned())
}

/// The commands that drive the instance. None goes through a shell.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceConfig {
    /// Lets no new client reach the instance and waits for the present ones to go.
    pub drain: CommandConfig,
    /// Stops the instance so that it stays stopped after a reboot.
    pub offline: CommandConfig,
    /// Starts the instance without letting clients reach it.
    pub start: CommandConfig,
    /// Prints one word: `online`, `drained`, `started` or `offline`.
    pub observe: CommandConfig,
    /// Gets a base64 ciphertext on its standard input and prints the plaintext that the running process answered.
    pub canary: CommandConfig,
    /// Lets clients reach the instance.
    pub admit: CommandConfig,
}

/// One command: the program, its arguments, and how long it may take.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandConfig {
    command: Vec<String>,
    deadline_s: u64,
}

impl CommandConfig {
    /// A command in code; that it has a program is checked where it is taken into a [`Config`].
    pub fn new(command: Vec<String>, deadline: Duration) -> Self {
        Self { command, deadline_s: deadline.as_secs() }
    }

    /// The program.
    pub fn program(&self) -> &str {
        self.command.first().map_or("", String::as_str)
    }

    /// Its arguments.
    pub(crate) fn arguments(&self) -> &[String] {
        self.command.get(1..).unwrap_or_default()
    }

    /// How long it may take.
    pub(crate) fn deadline(&self) -> Duration {
        Duration::from_secs(self.deadline_s)
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file is not there or not readable.
    #[error("{what} {path} cannot be read; check that the path is right and the agent may read it")]
    Read {
        /// What is in the file.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, a field is missing, or one is unknown.
    #[error("the agent's configuration {path} is not valid; correct it and start again: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why, without the text of the file, which may hold a password.
        message: String,
    },
    /// Neither or both of `url` and `url_file`.
    #[error("[database] needs either url or url_file, and not both")]
    DatabaseUrl,
    /// A backup would take along what opens it.
    #[error(
        "{name}, {path}, lies in [store] directory, which backups archive: whoever has an archive would have it too; \
         move it out of there"
    )]
    Archived {
        /// What.
        name: &'static str,
        /// Where.
        path: PathBuf,
    },
    /// `command = []`.
    #[error("[instance] {name} has no program; write command = [\"/path/to/program\", \"argument\"]")]
    NoProgram {
        /// Which command.
        name: &'static str,
    },
    /// `deadline_s` is out of range.
    #[error("[instance] {name} has deadline_s = {deadline_s}; use 1 to {DEADLINE_S_MAX}")]
    Deadline {
        /// Which command.
        name: &'static str,
        /// What is written.
        deadline_s: u64,
    },
}

impl Config {
    /// Reads the file and checks it. Relative paths in it are relative to the file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            what: "the agent's configuration",
            path: path.to_owned(),
            source,
        })?;
        let parse_error = |error: toml::de::Error| {
            let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].lines().count().max(1));
            ConfigError::Parse { path: path.to_owned(), message: format!("line {line}: {}", error.message()) }
        };
        let mut config: Self = toml::from_str(&text).map_err(parse_error)?;
        let base = path.parent().unwrap_or(Path::new(""));
        let files = [
            &mut config.state_dir,
            &mut config.tls.ca,
            &mut config.tls.certificate,
            &mut config.tls.key,
            &mut config.store.directory,
            &mut config.store.hostkey,
            &mut config.store.machine_id,
            &mut config.database.targets,
        ];
        let backup = config.backup.iter_mut().flat_map(|backup| {
            [Some(&mut backup.directory), backup.url_file.as_mut(), backup.restore_url_file.as_mut()]
        });
        let database = config.database.url_file.iter_mut().chain(&mut config.database.replica_url_files);
        for file in files.into_iter().chain(database).chain(backup.flatten()) {
            *file = base.join(&*file);
        }
        config.check()?;
        Ok(config)
    }

    /// An archive of the application's folder must hold nothing of what opens it, and not itself.
    pub fn check_backup(&self, backup: &BackupConfig) -> Result<(), ConfigError> {
        let folder = resolved(&self.store.directory);
        let secrets = [
            ("[store] hostkey", Some(&self.store.hostkey)),
            ("state_dir", Some(&self.state_dir)),
            ("[tls] key", Some(&self.tls.key)),
            ("[database] url_file", self.database.url_file.as_ref()),
            ("[backup] url_file", backup.url_file.as_ref()),
            ("[backup] restore_url_file", backup.restore_url_file.as_ref()),
            ("the backup folder", Some(&backup.directory)),
        ];
        let mut secrets = secrets.into_iter().filter_map(|(name, path)| Some((name, path?)));
        match secrets.find(|(_, path)| resolved(path).starts_with(&folder)) {
            Some((name, path)) => Err(ConfigError::Archived { name, path: path.clone() }),
            None => Ok(()),
        }
    }

    /// Checks what the types do not say.
    pub fn check(&self) -> Result<(), ConfigError> {
        if let Some(backup) = &self.backup {
            self.check_backup(backup)?;
        }
        if self.database.url.is_some() == self.database.url_file.is_some() {
            return Err(ConfigError::DatabaseUrl);
        }
        for (name, command) in self.instance.commands() {
            if command.program().is_empty() {
                return Err(ConfigError::NoProgram { name });
            }
            if !(1..=DEADLINE_S_MAX).contains(&command.deadline_s) {
                return Err(ConfigError::Deadline { name, deadline_s: command.deadline_s });
            }
        }
        Ok(())
    }
}

impl InstanceConfig {
    fn commands(&self) -> [(&'static str, &CommandConfig); 6] {
        [
            ("drain", &self.drain),
            ("offline", &self.offline),
            ("start", &self.start),
            ("observe", &self.observe),
            ("canary", &self.canary),
            ("admit", &self.admit),
        ]
    }
}

impl DatabaseConfig {
    /// What the engine connects with, for this node. Reads `url_file`.
    pub fn engine(&self, node: &NodeId) -> Result<reencrypt::DatabaseConfig, ConfigError> {
        let url = match (&self.url, &self.url_file) {
            (Some(url), None) => url.expose().to_owned(),
            (None, Some(path)) => read_url(path)?,
            (None, None) | (Some(_), Some(_)) => return Err(ConfigError::DatabaseUrl),
        };
        Ok(reencrypt::DatabaseConfig {
            application_role: self.application_role.clone(),
            allowed_session_users: self.allowed_session_users.clone(),
            replica_urls: self.replica_url_files.iter().map(|path| read_url(path)).collect::<Result<_, _>>()?,
            client_name: node.to_string(),
            ..reencrypt::DatabaseConfig::new(url)
        })
    }
}

impl TlsConfig {
    /// The same files in the words of the wire.
    pub(crate) fn files(&self) -> wire::tls::TlsFiles {
        wire::tls::TlsFiles { ca: self.ca.clone(), certificate: self.certificate.clone(), key: self.key.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"
        node = "node-1"
        farm = "demo"
        listen = "127.0.0.1:7101"
        state_dir = "state"
        [tls]
        ca = "ca.pem"
        certificate = "node-1.pem"
        key = "/secret/node-1.key"
        [store]
        directory = "/etc/vault"
        hostkey = "/etc/keyturn/hostkey"
        [database]
        url = "postgres://agent:hunter2@localhost/vault"
        application_role = "vault_app"
        targets = "targets.toml"
        [instance]
        drain = { command = ["drain", "--now"], deadline_s = 30 }
        offline = { command = ["offline"], deadline_s = 30 }
        start = { command = ["start"], deadline_s = 60 }
        observe = { command = ["observe"], deadline_s = 5 }
        canary = { command = ["canary"], deadline_s = 10 }
        admit = { command = ["admit"], deadline_s = 30 }
    "#;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(&path).map(|mut config| {
            config.state_dir = config.state_dir.strip_prefix(folder.path()).unwrap().to_owned();
            config
        })
    }

    #[test]
    fn the_documented_example_is_read() {
        let config = load(EXAMPLE).unwrap();
        assert_eq!(config.node.as_str(), "node-1");
        assert_eq!(config.state_dir, Path::new("state"), "relative to the file");
        assert_eq!(config.tls.key, Path::new("/secret/node-1.key"));
        assert_eq!(config.store.machine_id, Path::new("/etc/machine-id"));
        assert_eq!(config.instance.drain.arguments(), ["--now"]);
        assert_eq!(config.database.engine(&config.node).unwrap().url, "postgres://agent:hunter2@localhost/vault");
    }

    #[test]
    fn the_password_is_never_shown() {
        assert!(!format!("{:?}", load(EXAMPLE).unwrap()).contains("hunter2"));
        let broken = EXAMPLE.replace("hunter2@localhost/vault\"", "hunter2@localhost/vault\" oops");
        let error = load(&broken).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }

    #[test]
    fn an_archive_would_hold_nothing_that_opens_it() {
        let folder = tempfile::tempdir().unwrap();
        let app = folder.path().join("app");
        std::fs::create_dir(&app).unwrap();
        std::os::unix::fs::symlink(&app, folder.path().join("link")).unwrap();
        let example = EXAMPLE.replace("/etc/vault", app.to_str().unwrap());
        let check = |from: &str, to: &str, name: &str| {
            let text = example.replace(from, to);
            assert!(load(&text).is_ok(), "without backups it is nobody's business");
            let backup = if name == "the backup folder" { to } else { "/var/backups/x" };
            let error = load(&format!("{text}\n[backup]\ndirectory = \"{backup}\"")).unwrap_err();
            assert!(matches!(&error, ConfigError::Archived { name: found, .. } if *found == name), "{name}: {error}");
        };
        let inside = |path: &str| format!("{}/{path}", folder.path().display());
        check("/etc/keyturn/hostkey", &inside("app/not/there/hostkey"), "[store] hostkey");
        check("/secret/node-1.key", &inside("link/node-1.key"), "[tls] key");
        check("no such text", &inside("elsewhere/../app"), "the backup folder");
        assert!(load(&format!("{example}\n[backup]\ndirectory = \"{}\"", inside("application"))).is_ok());
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            ("targets = \"targets.toml\"", "", "targets"),
            ("url = ", "urll = ", "urll"),
            ("[\"observe\"]", "[]", "observe"),
            ("deadline_s = 60", "deadline_s = 0", "start"),
            ("url = ", "url_file = \"url\"\nurl = ", "url_file"),
            ("node = \"node-1\"", "node = \"Node 1\"", "node"),
        ];
        for (from, to, expected) in cases {
            let error = load(&EXAMPLE.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(expected), "{to}: {error}");
        }
    }
}
