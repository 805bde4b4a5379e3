//! A small file system of a test's own, which fills up. Other crates' tests share this file.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Mounted for as long as the test runs. Only root can mount one.
pub(crate) struct SmallDisk {
    path: PathBuf,
    /// Its folder, if it is our own.
    folder: Option<TempDir>,
}

impl SmallDisk {
    /// For PostgreSQL, in a folder of its own.
    pub(crate) fn mount(size: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("kt-small-").tempdir_in("/tmp").expect("a folder");
        let mut disk = Self::mount_on(folder.path().to_owned(), size, "uid=postgres,gid=postgres");
        disk.folder = Some(folder);
        disk
    }

    /// Over a folder that is there.
    pub(crate) fn mount_on(path: PathBuf, size: &str, owner: &str) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "only root can mount a small file system; run the tests as root");
        run("mount", &["-t", "tmpfs", "-o", &format!("size={size},mode=0700,{owner}"), "tmpfs"], &path);
        Self { path, folder: None }
    }

    /// Somebody makes room.
    pub(crate) fn grow(&self, size: &str) {
        run("mount", &["-o", &format!("remount,size={size}")], &self.path);
    }

    /// Something else takes all that is left.
    pub(crate) fn fill(&self) {
        let mut file = std::fs::File::create(self.path.join("other")).expect("a name needs no room");
        let part = vec![1; 64 * 1024];
        while file.write_all(&part).is_ok() {}
        // Less than a part may be left.
        while file.write_all(&part[..512]).is_ok() {}
    }

    /// And lets it go again.
    pub(crate) fn clear(&self) {
        std::fs::remove_file(self.path.join("other")).expect("it was filled");
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

fn run(program: &str, arguments: &[&str], path: &Path) {
    let output = Command::new(program).args(arguments).arg(path).output().expect("mount runs");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}
