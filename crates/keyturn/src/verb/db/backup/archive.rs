//! An archive of the application's folder as it is: `encryption.config` and what is configured beside it.

use std::fs::File;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use agent::BackupJob;
use rotation::{FolderArchive, Millis};
use tokio::io::AsyncReadExt as _;

use super::files::{self, Folder};
use super::said::first_error;
use super::tools::{modified_ms, program};
use crate::problem::Problem;

/// A folder of settings takes seconds; one that takes longer than this holds something else.
const TIME_MAX: Duration = Duration::from_secs(60 * 60);
/// What is left free on the disk: one part of so many.
const LEFT_FREE: u64 = 10;

pub(super) async fn archive(job: &BackupJob<'_>) -> Result<FolderArchive, Problem> {
    (job.told)("another backup into the same folder to end");
    let place = Folder::enter(&job.settings.directory).await?;
    let folder = &job.config.store.directory;
    let name = format!("{}-{}-folder.tar", job.name, job.config.node);
    let whole = place.path_of(&name);
    if !whole.exists() {
        (job.told)("the application's folder to be archived");
        let free = files::free_bytes(&job.settings.directory)?;
        let partial = place.partial(&name);
        write(folder, partial.create()?, free - free / LEFT_FREE).await?;
        partial.keep()?;
    }
    let (bytes, digest) = files::digest(&whole).await?;
    let made_at = Millis::new(modified_ms(&whole));
    Ok(FolderArchive { path: whole.display().to_string(), bytes, digest, made_at })
}

/// Archives a folder into a file, which has at most so many bytes then.
async fn write(folder: &Path, file: File, bytes_max: u64) -> Result<(), Problem> {
    let problem = |what: &str| {
        Problem::refused(
            "archive",
            format!("the application's folder {} {what}", folder.display()),
            "look at its rights, and whether it holds more than the application's settings",
        )
    };
    let failed = |error: &std::io::Error| problem("could not be archived").because(error);
    let mut tar = program("tar");
    tar.args(["--create", "--sparse", "--file", "-", "--directory"]).arg(folder).arg(".");
    tar.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut tar = tar.spawn().map_err(|error| failed(&error))?;
    let written = tar.stdout.take();
    let copying = async move {
        let mut file = tokio::fs::File::from_std(file);
        let Some(written) = written else { return Ok(0) };
        // Dropped at its limit, which ends the command.
        let copied = tokio::io::copy(&mut written.take(bytes_max.saturating_add(1)), &mut file).await?;
        file.sync_all().await.map(|()| copied)
    };
    let both = tokio::time::timeout(TIME_MAX, async { tokio::join!(copying, tar.wait_with_output()) }).await;
    let (copied, ended) = both.map_err(|_| problem("was not archived within an hour"))?;
    if copied.map_err(|error| failed(&error))? > bytes_max {
        return Err(problem("does not fit on the disk of the backups; a tenth of what is free is left"));
    }
    let Output { status, stderr, .. } = ended.map_err(|error| failed(&error))?;
    // 1: a file changed while it was read. The application serves, and its own files are its own affair.
    if matches!(status.code(), Some(0 | 1)) {
        return Ok(());
    }
    Err(problem(&format!("was not archived: {}", first_error(&stderr))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hole_takes_no_space_and_what_does_not_fit_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let holes = File::create(folder.path().join("holes")).expect("made");
        holes.set_len(1 << 30).expect("a hole");
        let archive = tempfile::tempfile().expect("a file");
        write(folder.path(), archive.try_clone().expect("shared"), 100_000).await.expect("it fits");
        assert!(archive.metadata().expect("a file").len() < 100_000);
        std::fs::write(folder.path().join("full"), vec![7; 200_000]).expect("written");
        let archive = tempfile::tempfile().expect("a file");
        let refused = write(folder.path(), archive.try_clone().expect("shared"), 100_000).await.expect_err("too large");
        assert!(refused.message.contains("does not fit"), "{}", refused.message);
        assert!(archive.metadata().expect("a file").len() <= 100_001);
    }
}
