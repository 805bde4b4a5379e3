//! The nodes' disks: real folders, whose changes pass through here. A process may die just before or just after any change
//! to a file; a dead one changes nothing any more; and what was not flushed may be gone afterwards, the newest first.
//!
//! The C library's functions are replaced in this test's executable, so that no code under test has a seam for it, and a
//! place that forgets to flush is found out. A process sees its node's disk under a name of its own (`node-1.3`, a link to
//! `node-1`), by which its calls are told from those of the process before.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, OsStr, c_char, c_int};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use rotation::NodeId;

use crate::world::{World, lock};

/// Of ten thousand crashes, those after which something that was not flushed is gone.
const LOSES: u64 = 6_000;

/// How a change is taken back.
#[derive(Debug)]
enum Undo {
    /// The name was given anew.
    Remove(PathBuf),
    /// The name was taken away; its file is kept beside.
    PutBack { kept: PathBuf, name: PathBuf },
    /// It was moved, and may have taken the place of another file, which is kept beside.
    MoveBack { from: PathBuf, to: PathBuf, kept: Option<PathBuf> },
}

/// What of a node's disk is not flushed.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    /// Changes of names, oldest first, each with the folder whose flushing makes it last.
    names: Vec<(PathBuf, Undo)>,
    /// Files whose content was written and not flushed.
    contents: BTreeSet<PathBuf>,
    kept: u64,
}

thread_local! {
    static WORLD: RefCell<Option<(PathBuf, Weak<World>)>> = const { RefCell::new(None) };
    /// Which file or folder a descriptor is of; those of the nodes' disks alone.
    static OPEN: RefCell<BTreeMap<c_int, (NodeId, PathBuf)>> = const { RefCell::new(BTreeMap::new()) };
}

/// From here on changes in this folder are watched.
pub(crate) fn watch(folder: &Path, world: &Arc<World>) {
    WORLD.set(Some((folder.to_owned(), Arc::downgrade(world))));
}

/// A path on a process's disk.
struct Place {
    world: Arc<World>,
    node: NodeId,
    process: String,
    /// Where it really is.
    path: PathBuf,
}

/// Whose a path is, if it is on the disk of a process.
fn place(path: *const c_char) -> Option<Place> {
    if path.is_null() {
        return None;
    }
    #[expect(unsafe_code, reason = "a C library's function gets its arguments as C gives them")]
    // SAFETY: callers of the replaced functions give a string that ends with a zero byte, as their contract says.
    let path = unsafe { CStr::from_ptr(path) };
    let path = Path::new(OsStr::from_bytes(path.to_bytes()));
    let (folder, world) = WORLD.with(|world| world.try_borrow().ok()?.clone())?;
    let rest = path.strip_prefix(&folder).ok()?;
    let mut parts = rest.components();
    let disk = parts.next()?.as_os_str().to_str()?;
    let (node, number) = disk.split_once('.')?;
    Some(Place {
        world: world.upgrade()?,
        node: node.parse().ok()?,
        process: format!("{node}/{number}"),
        path: folder.join(node).join(parts.as_path()),
    })
}

impl Place {
    /// Whether its process lives. Chance may end it here.
    fn survives(&self, doing: &str) -> bool {
        let Self { world, node, process, path } = self;
        let lives = || world.nodes[node].running().is_some_and(|(running, _)| running.name == *process);
        if lives() && world.misfortune(world.rates.dies_at_files) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            world.say(format_args!("{process}: dies when it {doing} {}", kind(&name)));
            world.nodes[node].kill(world);
        }
        lives()
    }

    fn note(&self, folder: &Path, undo: Undo) {
        lock(&self.world.nodes[&self.node].journal).names.push((folder.to_owned(), undo));
    }

    /// Keeps the file of this name, if there is one, for the case that the change is taken back.
    fn keep(&self, name: &Path) -> Option<PathBuf> {
        let kept = {
            let mut journal = lock(&self.world.nodes[&self.node].journal);
            journal.kept += 1;
            name.ancestors().find(|path| path.ends_with(self.node.as_str()))?.join(format!("kept-{}", journal.kept))
        };
        fs::hard_link(name, &kept).ok()?;
        Some(kept)
    }
}

/// A file's name without what differs between runs of a seed.
fn kind(name: &str) -> &str {
    let end = name.find(|letter: char| letter.is_ascii_digit() || letter == '-').unwrap_or(name.len());
    &name[..end]
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// The process of a node has died: what was not flushed may be gone.
pub(crate) fn crash(world: &World, node: &NodeId) {
    let mut journal = std::mem::take(&mut *lock(&world.nodes[node].journal));
    let loses = !journal.names.is_empty() || !journal.contents.is_empty();
    if loses && world.below(10_000) < LOSES {
        let kept = usize::try_from(world.below(journal.names.len() as u64 + 1)).unwrap_or(0);
        let lost = journal.names.len() - kept;
        world.say(format_args!("{node}: {lost} changes of names and {} contents are lost", journal.contents.len()));
        for path in &journal.contents {
            // Its length was written, its bytes were not.
            if let Ok(length) = fs::metadata(path).map(|metadata| metadata.len()) {
                let _ = fs::write(path, vec![0; usize::try_from(length).unwrap_or(0)]);
            }
        }
        while journal.names.len() > kept {
            match journal.names.pop() {
                Some((_, Undo::Remove(path))) => drop(fs::remove_file(path)),
                Some((_, Undo::PutBack { kept, name })) => drop(fs::rename(kept, name)),
                Some((_, Undo::MoveBack { from, to, kept })) => {
                    let _ = fs::rename(&from, to);
                    if let Some(kept) = kept {
                        let _ = fs::rename(kept, from);
                    }
                }
                None => {}
            }
        }
    }
    forget(&journal);
}

/// The files that were kept for changes that last are not needed any more.
fn forget(journal: &Journal) {
    for (_, undo) in &journal.names {
        if let Undo::PutBack { kept, .. } | Undo::MoveBack { kept: Some(kept), .. } = undo {
            let _ = fs::remove_file(kept);
        }
    }
}

fn fail() -> c_int {
    #[expect(unsafe_code, reason = "the C library's way to say why a call failed")]
    // SAFETY: the address of this thread's own errno.
    unsafe {
        *libc::__errno_location() = libc::EIO;
    }
    -1
}

/// The C library's `open64`. It takes its third argument only with some flags, and callers leave it out otherwise; on the
/// machines that Linux runs on it is passed where a third argument always is.
#[expect(unsafe_code, reason = "the C library's function is replaced; the arguments are its caller's word")]
#[unsafe(no_mangle)]
extern "C" fn open64(path: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int {
    // SAFETY: the same arguments go to the kernel, which checks the pointer.
    let open = || unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, mode) } as c_int;
    let Some(place) = place(path) else { return open() };
    let is_written = flags & (libc::O_WRONLY | libc::O_RDWR) != 0;
    if is_written && !place.survives("opens") {
        return fail();
    }
    let is_new = is_written && flags & libc::O_CREAT != 0 && !place.path.exists();
    let descriptor = open();
    if descriptor < 0 {
        return descriptor;
    }
    OPEN.with_borrow_mut(|open| open.insert(descriptor, (place.node.clone(), place.path.clone())));
    if is_written {
        lock(&place.world.nodes[&place.node].journal).contents.insert(place.path.clone());
    }
    if is_new {
        place.note(parent(&place.path), Undo::Remove(place.path.clone()));
    }
    descriptor
}

/// The C library's `fsync`.
#[expect(unsafe_code, reason = "the C library's function is replaced")]
#[unsafe(no_mangle)]
extern "C" fn fsync(descriptor: c_int) -> c_int {
    let known = OPEN.with_borrow(|open| open.get(&descriptor).cloned());
    let world = WORLD.with_borrow(|world| world.as_ref().and_then(|(_, world)| world.upgrade()));
    let (Some((node, path)), Some(world)) = (known, world) else {
        // SAFETY: a number goes to the kernel.
        return unsafe { libc::syscall(libc::SYS_fsync, descriptor) } as c_int;
    };
    let Some((running, _)) = world.nodes[&node].running() else { return fail() };
    if world.misfortune(world.rates.dies_at_files) {
        world.say(format_args!("{}: dies when it flushes", running.name));
        world.nodes[&node].kill(&world);
        return fail();
    }
    let mut journal = lock(&world.nodes[&node].journal);
    journal.contents.remove(&path);
    let (flushed, left) = std::mem::take(&mut journal.names).into_iter().partition(|(folder, _)| *folder == path);
    journal.names = left;
    forget(&Journal { names: flushed, ..Journal::default() });
    0
}

/// The C library's `rename`.
#[expect(unsafe_code, reason = "the C library's function is replaced; the arguments are its caller's word")]
#[unsafe(no_mangle)]
extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: the same arguments go to the kernel, which checks the pointers.
    let rename = || unsafe { libc::syscall(libc::SYS_renameat, libc::AT_FDCWD, from, libc::AT_FDCWD, to) } as c_int;
    let (Some(source), Some(target)) = (place(from), place(to)) else { return rename() };
    if !source.survives("renames") {
        return fail();
    }
    let replaced = target.keep(&target.path);
    let done = rename();
    if done == 0 {
        let undo = Undo::MoveBack { from: target.path.clone(), to: source.path.clone(), kept: replaced };
        target.note(parent(&target.path), undo);
        let mut journal = lock(&source.world.nodes[&source.node].journal);
        if journal.contents.remove(&source.path) {
            journal.contents.insert(target.path.clone());
        }
        drop(journal);
        source.survives("has renamed");
    }
    done
}

/// The C library's `linkat`.
#[expect(unsafe_code, reason = "the C library's function is replaced; the arguments are its caller's word")]
#[unsafe(no_mangle)]
extern "C" fn linkat(from_at: c_int, from: *const c_char, to_at: c_int, to: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the same arguments go to the kernel, which checks the pointers.
    let link = || unsafe { libc::syscall(libc::SYS_linkat, from_at, from, to_at, to, flags) } as c_int;
    let Some(target) = place(to) else { return link() };
    if !target.survives("links") {
        return fail();
    }
    let done = link();
    if done == 0 {
        target.note(parent(&target.path), Undo::Remove(target.path.clone()));
        target.survives("has linked");
    }
    done
}

/// The C library's `unlink`.
#[expect(unsafe_code, reason = "the C library's function is replaced; the argument is its caller's word")]
#[unsafe(no_mangle)]
extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: the same argument goes to the kernel, which checks the pointer.
    let unlink = || unsafe { libc::syscall(libc::SYS_unlinkat, libc::AT_FDCWD, path, 0) } as c_int;
    let Some(target) = place(path) else { return unlink() };
    if !target.survives("deletes") {
        return fail();
    }
    let kept = target.keep(&target.path);
    let done = unlink();
    if done == 0 {
        if let Some(kept) = kept {
            target.note(parent(&target.path), Undo::PutBack { kept, name: target.path.clone() });
        }
        target.survives("has deleted");
    }
    done
}
