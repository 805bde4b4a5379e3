//! A tiny instance: a shell script whose state lies in files. Like a real one it reads its key when it starts and
//! keeps it until it stops, whatever happens to `encryption.config` meanwhile.

use std::fmt::Write as _;
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keys::value::{Cipher, Encoding};
use keys::{KeyStore, StoreConfig};

/// Longer than anything here takes; only so that a failure ends.
const PATIENCE: Duration = Duration::from_secs(60);

/// `$1` is the verb. `state` holds what `observe` prints; `memory` is what the process read when it started. Files
/// named `stubborn` and `lie` make it misbehave; a pipe `hang-VERB` makes the verb hang once it has said so in the
/// pipe, a pipe `tell-VERB` makes it say when it is done.
const SCRIPT: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 1
echo "$1" >> log
[ -p "hang-$1" ] && { echo hanging > "hang-$1"; exec sleep 1000; }
case "$1" in
drain) echo drained > state ;;
offline) [ -e stubborn ] || { echo offline > state; rm -rf memory; } ;;
start) cp -r application memory; echo started > state ;;
observe) if [ -e lie ]; then cat lie; else cat state; fi ;;
canary)
  [ -d memory ] || { echo "no process listens" >&2; exit 1; }
  KEYTURN_TEST_CANARY="$(cat)" KEYTURN_TEST_INSTANCE="$PWD" \
    "$(cat opener)" --exact support::instance::opens_the_canary --nocapture | sed -n 's/.*canary=//p'
  ;;
admit) echo online > state ;;
esac
[ -p "tell-$1" ] && echo done > "tell-$1"
exit 0
"#;

/// The process of the instance as far as it opens values: started by the script's `canary`, with the keys that the
/// instance read when it started. Run by itself it has nothing to open.
#[test]
fn opens_the_canary() {
    let (Ok(canary), Ok(folder)) = (std::env::var("KEYTURN_TEST_CANARY"), std::env::var("KEYTURN_TEST_INSTANCE"))
    else {
        return;
    };
    let folder = Path::new(&folder);
    let keys = store(folder, &folder.join("memory")).current().unwrap();
    let opened = Cipher::new(&keys.active().secret).open(canary.trim().as_bytes(), Encoding::Base64, b"").unwrap();
    println!("canary={}", String::from_utf8(opened.plaintext.to_vec()).unwrap());
}

fn store(folder: &Path, directory: &Path) -> KeyStore {
    KeyStore::new(StoreConfig {
        directory: directory.to_owned(),
        hostkey: folder.join("hostkey"),
        machine_id: folder.join("machine-id"),
    })
}

/// The instance and the key store it reads.
pub(crate) struct Instance {
    folder: PathBuf,
}

impl Instance {
    /// Installs it in a folder, offline and without a key.
    pub(crate) fn install(folder: PathBuf) -> Self {
        fs::create_dir_all(folder.join("application")).unwrap();
        fs::write(folder.join("instance.sh"), SCRIPT).unwrap();
        fs::write(folder.join("opener"), std::env::current_exe().unwrap().as_os_str().as_encoded_bytes()).unwrap();
        fs::write(folder.join("machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
        fs::write(folder.join("log"), "").unwrap();
        let instance = Self { folder };
        instance.set("offline");
        instance
    }

    /// Its key store.
    pub(crate) fn store(&self) -> KeyStore {
        store(&self.folder, &self.folder.join("application"))
    }

    /// Starts it as an operating system does at boot: online, with whatever key is in the store.
    pub(crate) fn boot(&self) {
        let memory = self.folder.join("memory");
        fs::create_dir_all(&memory).unwrap();
        fs::copy(self.store().path(), memory.join("encryption.config")).unwrap();
        self.set("online");
    }

    /// Ends its process behind everybody's back.
    pub(crate) fn stop(&self) {
        fs::remove_dir_all(self.folder.join("memory")).unwrap();
        self.set("offline");
    }

    /// What it is doing.
    pub(crate) fn state(&self) -> String {
        fs::read_to_string(self.folder.join("state")).unwrap().trim().to_owned()
    }

    fn set(&self, state: &str) {
        fs::write(self.folder.join("state"), format!("{state}\n")).unwrap();
    }

    /// Every verb it was called with.
    pub(crate) fn calls(&self, verb: &str) -> usize {
        fs::read_to_string(self.folder.join("log")).unwrap().lines().filter(|line| *line == verb).count()
    }

    /// Writes one of the files that make it misbehave, or any other.
    pub(crate) fn write(&self, name: &str, content: &str) {
        fs::write(self.folder.join(name), content).unwrap();
    }

    /// Makes a pipe, `hang-VERB` or `tell-VERB`, and hears when the script writes to it.
    pub(crate) fn listen(&self, name: &str) -> impl Future<Output = ()> + use<> {
        let path = self.folder.join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (tell, told) = tokio::sync::oneshot::channel();
        // A thread of its own: it may wait for ever when the test fails, and must hold nothing up then.
        std::thread::spawn(move || tell.send(fs::read(path)));
        let name = name.to_owned();
        async move {
            let heard = tokio::time::timeout(PATIENCE, told).await;
            heard.unwrap_or_else(|_| panic!("nothing was heard through {name}")).unwrap().unwrap();
        }
    }

    /// Takes one of its files away.
    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.folder.join(name)).unwrap();
    }

    /// The files beside `encryption.config`.
    pub(crate) fn application_files(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.folder.join("application"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// The sections of the agent's configuration that speak of it.
    pub(crate) fn configuration(&self) -> String {
        let folder = self.folder.display();
        let mut text = format!(
            "[store]\ndirectory = \"{folder}/application\"\nhostkey = \"{folder}/hostkey\"\n\
             machine_id = \"{folder}/machine-id\"\n[instance]\n"
        );
        for (verb, deadline_s) in
            [("drain", 60), ("offline", 10), ("start", 10), ("observe", 10), ("canary", 20), ("admit", 10)]
        {
            writeln!(
                text,
                "{verb} = {{ command = [\"sh\", \"{folder}/instance.sh\", \"{verb}\"], deadline_s = {deadline_s} }}"
            )
            .unwrap();
        }
        text
    }
}
