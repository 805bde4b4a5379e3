//! A temporary server on a copy of somebody's whole PostgreSQL server, as `pg_basebackup` makes one: verified against its
//! manifest first. It is started with a configuration of our own, reaches nobody, and one role alone comes in, which is no superuser.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown, fchown,
};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{Uid, User};
use tokio::io::AsyncWriteExt as _;
use tokio_util::sync::CancellationToken;

use super::binaries::Binaries;
use super::room::room_aside;
use super::temporary::{self, TemporaryServer};

/// What our server is told instead of what the copied one was: no archive, no standby, no library of anybody's is in it. Index
/// expressions and checks are not called by a server that vacuums by itself, and no subscription fetches anything.
const CONFIGURATION: &str = "listen_addresses = ''
max_prepared_transactions = 1000
autovacuum = off
max_logical_replication_workers = 0
jit = off
fsync = off
";

/// Since this version event triggers may be called at a login, and there is a setting that calls none.
const EVENT_TRIGGERS_SINCE: u32 = 17;

/// Files of the copied server that say what ours is to do.
const ORDERS: [&str; 3] = ["postgresql.auto.conf", "standby.signal", "recovery.signal"];

/// Digits and a line's end.
const VERSION_BYTES_MAX: u64 = 16;

/// Bits of a mode that let others than the owner write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// A running server on the copy. Both are gone when it is dropped.
#[derive(Debug)]
pub struct CopiedServer {
    server: TemporaryServer,
    url: String,
}

impl CopiedServer {
    /// Copies this directory, verifies the copy, and starts a server on it. `look` sees the copy before anybody else does, so
    /// what it answers is true of what the server is started on.
    pub async fn start<T: Send + 'static>(
        backup: &Path,
        database: &str,
        look: impl FnOnce(&Path) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<(Self, T)> {
        ensure!(
            !database.starts_with('-') && !database.contains(char::is_control),
            "a database of the name {database:?} cannot be looked at"
        );
        let version = version(backup)?;
        let binaries = Binaries::of_version(version)?;
        let folder = temporary::folder("keyturn-pg-").context("creating a folder for PostgreSQL")?;
        // Who copies has the folder: it goes when nobody copies into it any more.
        let (from, user, wanted) = (backup.to_owned(), binaries.user().cloned(), CancellationToken::new());
        let unwanted = wanted.clone();
        let _wanted = wanted.drop_guard();
        let copied = tokio::task::spawn_blocking(move || {
            let data = folder.path().join("data");
            room_aside(bytes(&from).with_context(|| format!("measuring {}", from.display()))?)?;
            copy(&from, &from, &data, None, user.as_ref(), &unwanted)?;
            close_tablespaces(&data)?;
            let seen = look(&data)?;
            let copied = open(&data).context("opening the copy")?;
            // Nobody else has come in so far. From here on the server's user may put anything into the place of anything.
            own(folder.path(), user.as_ref())?;
            anyhow::Ok((folder, copied, seen))
        });
        let (folder, copied, seen) = copied.await.context("copying the backup")??;
        let data = folder.path().join("data");
        let mut verify = binaries.command("pg_verifybackup");
        verify.args(["--exit-on-error", "--quiet"]).arg(&data).stdout(Stdio::null());
        temporary::run(verify, "pg_verifybackup").await?;

        // Nobody can have made a role of this name beforehand.
        let role = format!("keyturn_prover_{}", uuid::Uuid::new_v4().simple());
        let event_triggers = if version >= EVENT_TRIGGERS_SINCE { "event_triggers = off\n" } else { "" };
        let orders = [
            ("postgresql.conf", &format!("{CONFIGURATION}{event_triggers}")),
            ("pg_hba.conf", &format!("local all {role} trust\n")),
            ("pg_ident.conf", &String::new()),
        ];
        for name in ORDERS {
            remove(&inside(&copied).join(name)).with_context(|| format!("removing {name} from the copy"))?;
        }
        for (name, text) in orders {
            write(&copied, name, text, binaries.user()).with_context(|| format!("writing {name} into the copy"))?;
        }
        make_role(&binaries, &data, &role, database).await?;
        let server = TemporaryServer::on(binaries, folder, &role, database).await?;
        let url = server.url(&role, database);
        Ok((Self { server, url }, seen))
    }

    /// The URL of the database, for a role that may read and write every table, and do nothing else.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Ends the server and removes the copy.
    pub async fn end(self) -> anyhow::Result<()> {
        self.server.stop().await
    }
}

/// The major version that wrote it.
fn version(backup: &Path) -> anyhow::Result<u32> {
    let reading = "reading PG_VERSION of the backup";
    let file = open(&backup.join("PG_VERSION")).context(reading)?;
    let text = io::read_to_string(file.take(VERSION_BYTES_MAX)).context(reading)?;
    text.trim().parse().with_context(|| format!("{text:?} is no version of PostgreSQL"))
}

/// Opens a file or a folder, and no link: whoever may write the backup may put one there at any time, to a file that we alone
/// may read. What is opened is looked at afterwards, so nothing waits for the other end of a pipe.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits()).open(path)
}

/// The size of a folder or a file. Anything else is for [`copy`] to refuse.
fn bytes(from: &Path) -> io::Result<u64> {
    let Ok(opened) = open(from) else { return Ok(0) };
    let found = opened.metadata()?;
    if !found.is_dir() {
        return Ok(found.len());
    }
    let inside = inside(&opened);
    fs::read_dir(&inside)?
        .try_fold(0_u64, |sum, entry| Ok(sum.saturating_add(bytes(&inside.join(entry?.file_name()))?)))
}

/// Copies a folder or a plain file, for its owner alone. `from` leads through the very folders that were opened, whatever is put
/// into their places meanwhile; `shown` is what people call it. Whoever owns the folder (`owner`) may have given a file of
/// somebody else's a name in it, and must not get a copy that way.
fn copy(
    from: &Path,
    shown: &Path,
    into: &Path,
    owner: Option<u32>,
    user: Option<&User>,
    unwanted: &CancellationToken,
) -> anyhow::Result<()> {
    ensure!(!unwanted.is_cancelled(), "the copy is no longer wanted");
    let copying = || format!("copying {}", shown.display());
    let opened = match open(from) {
        // A link leads out of the backup: into a tablespace, or to the log. The other is a socket.
        Err(error) if [Errno::ELOOP, Errno::ENXIO].iter().any(|no| error.raw_os_error() == Some(*no as i32)) => None,
        opened => Some(opened.with_context(copying)?),
    };
    let found = opened.as_ref().map(File::metadata).transpose().with_context(copying)?;
    let trusted = [Some(0), Some(Uid::effective().as_raw()), user.map(|user| user.uid.as_raw())];
    if let Some(found) = &found {
        // Catalogs say what code a server runs, so who may write them may do whatever the server's user may.
        ensure!(
            trusted.contains(&Some(found.uid())) && found.mode() & WRITABLE_BY_OTHERS == 0,
            "others than its owner may write {}, or it is another user's than keyturn's, root's or the server's",
            shown.display()
        );
        let foreign = owner.is_some_and(|owner| owner != found.uid());
        ensure!(
            !foreign || found.is_dir() || found.nlink() == 1,
            "{} has another name elsewhere, and is another user's than its folder",
            shown.display()
        );
    }
    match opened.zip(found) {
        Some((file, found)) if found.is_file() => {
            let mut copied =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(into).with_context(copying)?;
            io::copy(&mut &file, &mut copied).with_context(copying)?;
        }
        Some((folder, found)) if found.is_dir() => {
            DirBuilder::new().mode(0o700).create(into).with_context(copying)?;
            let inside = inside(&folder);
            for entry in fs::read_dir(&inside).with_context(copying)? {
                let name = entry.with_context(copying)?.file_name();
                let (from, shown, into) = (inside.join(&name), shown.join(&name), into.join(&name));
                copy(&from, &shown, &into, Some(found.uid()), user, unwanted)?;
            }
        }
        Some(_) | None => bail!(
            "{} is neither a file nor a folder: a backup with tablespaces or links is not looked at",
            shown.display()
        ),
    }
    own(into, user)
}

/// The folder in which a server makes links to its tablespaces, as its log and its map of them say. Those of the copied server
/// may be on this machine, in use: nothing may lead there.
fn close_tablespaces(data: &Path) -> anyhow::Result<()> {
    let links = data.join("pg_tblspc");
    let mut found = fs::read_dir(&links).context("reading pg_tblspc of the copy")?;
    ensure!(found.next().is_none(), "a backup with tablespaces is not looked at");
    fs::set_permissions(&links, Permissions::from_mode(0o500)).context("closing pg_tblspc of the copy")
}

fn own(path: &Path, user: Option<&User>) -> anyhow::Result<()> {
    let Some(user) = user else { return Ok(()) };
    chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
        .with_context(|| format!("giving {} to the user {}", path.display(), user.name))
}

/// Leads into the very folder that was opened, whatever has its name by now.
fn inside(folder: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes a file anew into a folder that is its user's: what that user has put there under this name is not written through.
fn write(folder: &File, name: &str, text: &str, user: Option<&User>) -> io::Result<()> {
    let path = inside(folder).join(name);
    remove(&path)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    user.map_or(Ok(()), |user| fchown(&file, Some(user.uid.as_raw()), Some(user.gid.as_raw())))
}

/// Plays the log back, and makes the role: by a server without any session, which needs no login and fires no event trigger.
async fn make_role(binaries: &Binaries, data: &Path, role: &str, database: &str) -> anyhow::Result<()> {
    let mut alone = binaries.command("postgres");
    alone.args(["--single", "-D"]).arg(data).arg(database);
    let mut alone = alone
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting PostgreSQL on the copy")?;
    let quoted = database.replace('"', "\"\"");
    // What is set for the database or for everybody goes: a library that every session loads would be loaded by ours.
    let statements = format!(
        "CREATE ROLE {role} LOGIN NOSUPERUSER BYPASSRLS\nGRANT pg_read_all_data, pg_write_all_data TO {role}\n\
         GRANT CONNECT ON DATABASE \"{quoted}\" TO {role}\n\
         ALTER DATABASE \"{quoted}\" RESET ALL\nALTER ROLE ALL RESET ALL\n"
    );
    let mut input = alone.stdin.take().context("PostgreSQL's input")?;
    // One that ended at once says why itself.
    let _ = input.write_all(statements.as_bytes()).await;
    drop(input);
    let ended = alone.wait_with_output().await.context("waiting for PostgreSQL to end")?;
    let said = String::from_utf8_lossy(&ended.stderr);
    let failed = said.lines().find(|line| ["FATAL:", "PANIC:", "ERROR:"].iter().any(|kind| line.contains(kind)));
    ensure!(
        ended.status.success() && failed.is_none(),
        "PostgreSQL does not start on the copy ({}): {}",
        ended.status,
        failed.unwrap_or(&said)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::Arc;

    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

    use super::*;

    /// How many copies must come whole, and how many must meet a link, before enough was tried.
    const TRIED_MIN: usize = 30;

    /// Every file below, as bytes.
    fn contents(folder: &Path) -> Vec<Vec<u8>> {
        let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
        entries
            .flat_map(|path| if path.is_dir() { contents(&path) } else { vec![fs::read(path).expect("a file")] })
            .collect()
    }

    #[test]
    fn what_is_exchanged_for_a_link_while_it_is_copied_leads_nowhere() {
        let place = tempfile::tempdir().expect("a folder");
        let path = |name: &str| place.path().join(name);
        for folder in ["backup/base/1", "outside/1"] {
            fs::create_dir_all(path(folder)).expect("made");
        }
        for number in 0..20 {
            fs::write(path(&format!("backup/base/1/{number}")), "of the backup").expect("written");
            fs::write(path(&format!("outside/1/{number}")), "a secret outside").expect("written");
        }
        // A file, a folder, and the folder around it, each in turn for a link to what has the same names outside.
        let exchanged =
            [("backup/base/1/7", "outside/1/7"), ("backup/base/1", "outside/1"), ("backup/base", "outside")];
        for (at, (inside, outside)) in exchanged.into_iter().enumerate() {
            let (link, inside) = (path(&format!("link-{at}")), path(inside));
            symlink(path(outside), &link).expect("linked");
            // Also told when the test fails.
            let wanted = Arc::new(());
            let exchanging = Arc::downgrade(&wanted);
            std::thread::scope(|scope| {
                let _wanted = wanted;
                scope.spawn(|| {
                    while exchanging.strong_count() > 0 {
                        renameat2(AT_FDCWD, &inside, AT_FDCWD, &link, RenameFlags::RENAME_EXCHANGE).expect("exchanged");
                    }
                });
                let (mut whole, mut refused) = (0, 0);
                while whole < TRIED_MIN || refused < TRIED_MIN {
                    let (from, into) = (path("backup"), path("copy"));
                    match copy(&from, &from, &into, None, None, &CancellationToken::new()) {
                        Ok(()) => whole += 1,
                        Err(error) => {
                            assert!(format!("{error:#}").contains("neither a file nor a folder"), "{error:#}");
                            refused += 1;
                        }
                    }
                    assert!(bytes(&from).expect("measured") <= 20 * 13, "what is outside is not measured");
                    let seen = contents(&into);
                    assert!(seen.iter().all(|content| content == b"of the backup"), "{inside:?}");
                    fs::remove_dir_all(&into).expect("removed");
                }
            });
            // As it was, for the next.
            if fs::symlink_metadata(&inside).expect("there").is_symlink() {
                renameat2(AT_FDCWD, &inside, AT_FDCWD, &link, RenameFlags::RENAME_EXCHANGE).expect("exchanged");
            }
        }
    }

    #[test]
    fn a_file_that_its_folder_s_owner_only_gave_a_name_to_is_not_copied_for_him() {
        let place = tempfile::tempdir().expect("a folder");
        let (first, second) = (place.path().join("first"), place.path().join("second"));
        fs::write(&first, "root's").expect("written");
        fs::hard_link(&first, &second).expect("linked");
        let own = Uid::effective().as_raw();
        let copy_of = |owner| {
            let into = place.path().join("copy");
            let copied = copy(&first, &first, &into, owner, None, &CancellationToken::new());
            remove(&into).expect("removed");
            copied
        };
        copy_of(Some(own)).expect("his own");
        let refused = copy_of(Some(own + 1)).expect_err("another's");
        assert!(refused.to_string().contains("has another name elsewhere"), "{refused}");
        fs::remove_file(&second).expect("removed");
        copy_of(Some(own + 1)).expect("no other name");
    }

    #[test]
    fn nothing_is_written_through_what_the_server_s_user_put_into_the_copy() {
        let place = tempfile::tempdir().expect("a folder");
        let path = |name: &str| place.path().join(name);
        for name in ["data", "elsewhere"] {
            fs::create_dir(path(name)).expect("made");
        }
        let opened = open(&path("data")).expect("opened");
        fs::write(path("elsewhere/file"), "kept").expect("written");
        symlink(path("elsewhere/file"), path("data/pg_hba.conf")).expect("linked");
        write(&opened, "pg_hba.conf", "new", None).expect("written");
        assert_eq!(fs::read_to_string(path("data/pg_hba.conf")).expect("a file"), "new");
        assert_eq!(fs::read_to_string(path("elsewhere/file")).expect("a file"), "kept");

        fs::rename(path("data"), path("moved")).expect("moved");
        symlink(path("elsewhere"), path("data")).expect("linked");
        write(&opened, "pg_ident.conf", "new", None).expect("written");
        assert!(path("moved/pg_ident.conf").exists() && !path("elsewhere/pg_ident.conf").exists());
    }
}
