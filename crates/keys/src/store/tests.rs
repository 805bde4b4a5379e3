//! The store's files in every state that a crash, a copy or an accident can leave them in.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rotation::RotationId;
use tempfile::TempDir;

use super::durable::crash;
use super::*;
use crate::sealed::RecipientKey;
use crate::{KeyEntry, KeyState, SecretKey};

/// 2023-11-14 22:13:20 UTC.
const AT_MS: u64 = 1_700_000_000_000;
const DATED: &str = "encryption.20231114-221320.config";
/// No operation of the store makes as many changes.
const CRASH_POINTS_MAX: u32 = 100;

/// A host with a store in temporary directories.
struct TestHost {
    directory: TempDir,
    store: KeyStore,
}

impl TestHost {
    fn empty() -> Self {
        let directory = TempDir::new().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("app")).unwrap();
        fs::create_dir(at("state")).unwrap();
        fs::write(at("machine-id"), format!("{}\n", hex::encode(crate::secret::random_bytes(16)))).unwrap();
        let store = KeyStore::new(StoreConfig {
            directory: at("app"),
            hostkey: at("etc/hostkey"),
            machine_id: at("machine-id"),
        });
        Self { directory, store }
    }

    fn with(set: &KeySet) -> Self {
        let host = Self::empty();
        host.store.create(set).unwrap();
        host
    }

    fn app(&self, name: &str) -> PathBuf {
        self.directory.path().join("app").join(name)
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.app("")).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn active(&self) -> KeyId {
        self.store.current().unwrap().active().secret.id()
    }
}

fn old() -> KeySet {
    KeySet::new("demo", SecretKey::from_bytes(vec![1; 32]).unwrap(), 5)
}

fn new() -> KeySet {
    let secret = SecretKey::from_bytes(vec![2; 32]).unwrap();
    old().promote(KeyEntry { state: KeyState::Active, created_at_ms: 6, secret }, 7)
}

fn id(set: &KeySet) -> KeyId {
    set.active().secret.id()
}

fn rotation() -> RotationId {
    "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap()
}

fn other_rotation() -> RotationId {
    "01890a5d-ac96-774b-bcce-b302099a8058".parse().unwrap()
}

fn pending_name() -> String {
    names::pending(&rotation())
}

#[test]
fn the_whole_way_and_back() {
    let host = TestHost::with(&old());
    assert_eq!(host.store.current().unwrap(), old());
    assert_eq!(host.store.pending().unwrap(), None);

    host.store.put_pending(&rotation(), &new()).unwrap();
    assert_eq!(host.active(), id(&old()), "nothing is live yet");
    assert_eq!(host.store.pending().unwrap(), Some(new()));

    assert_eq!(host.store.activate(&rotation(), id(&new()), AT_MS).unwrap(), id(&new()));
    assert_eq!(host.store.current().unwrap(), new());
    assert_eq!(host.names(), [DATED, "encryption.config"]);

    assert_eq!(host.store.restore(id(&old())).unwrap(), id(&old()));
    assert_eq!(host.store.current().unwrap(), old());
    host.store.discard_pending().unwrap();
    assert_eq!(host.names(), [DATED, "encryption.config"]);
}

#[test]
fn everything_twice_is_everything_once() {
    let host = TestHost::with(&old());
    host.store.create(&old()).unwrap();
    for _ in 0..2 {
        host.store.put_pending(&rotation(), &new()).unwrap();
    }
    for _ in 0..2 {
        assert_eq!(host.store.activate(&rotation(), id(&new()), AT_MS).unwrap(), id(&new()));
    }
    host.store.put_pending(&rotation(), &new()).unwrap();
    assert_eq!(host.names(), [DATED, "encryption.config"], "a late repetition leaves no key pending");
    for _ in 0..2 {
        assert_eq!(host.store.restore(id(&old())).unwrap(), id(&old()));
    }
    for _ in 0..2 {
        host.store.discard_pending().unwrap();
    }
}

/// Lets `change` die at each of its points in turn, looks at what is left, does it again and looks at the end.
fn survives(
    prepare: impl Fn() -> TestHost,
    change: impl Fn(&TestHost) -> Result<(), StoreError>,
    between: impl Fn(&TestHost),
    end: impl Fn(&TestHost),
) {
    for point in 0..CRASH_POINTS_MAX {
        let host = prepare();
        let died = crash::at(point, || change(&host)).is_some();
        between(&host);
        change(&host).unwrap();
        end(&host);
        // And a crash after the last change, before anybody heard of it, is doing it a second time.
        change(&host).unwrap();
        end(&host);
        if !died {
            assert!(point > 1, "a durable change has at least a write and a flush");
            return;
        }
    }
    panic!("the change never ended");
}

#[test]
fn a_crash_at_any_point_of_the_first_write() {
    survives(
        TestHost::empty,
        |host| host.store.create(&old()),
        |host| {
            assert!(matches!(
                host.store.current(),
                Ok(_) | Err(StoreError::Missing { .. } | StoreError::HostkeyMissing { .. })
            ))
        },
        |host| assert_eq!(host.store.current().unwrap(), old()),
    );
}

#[test]
fn a_crash_at_any_point_of_storing_the_pending_key() {
    survives(
        || {
            let host = TestHost::with(&old());
            host.store.put_pending(&other_rotation(), &new()).unwrap();
            host
        },
        |host| host.store.put_pending(&rotation(), &new()),
        |host| {
            assert_eq!(host.active(), id(&old()));
            host.store.pending().expect("what is pending is whole");
        },
        |host| {
            assert_eq!(host.store.pending().unwrap(), Some(new()));
            assert_eq!(host.names(), [pending_name(), "encryption.config".to_owned()]);
        },
    );
}

#[test]
fn a_crash_at_any_point_of_activation() {
    survives(
        || {
            let host = TestHost::with(&old());
            host.store.put_pending(&rotation(), &new()).unwrap();
            host
        },
        |host| host.store.activate(&rotation(), id(&new()), AT_MS).map(drop),
        |host| {
            let active = host.active();
            assert!(active == id(&old()) || active == id(&new()), "encryption.config always exists and opens");
            // Whatever happened, the way back is open.
            let way_back = KeyStore::restore(&host.store, id(&old()));
            assert_eq!(way_back.unwrap(), id(&old()));
            // And so is the way forward, if the pending key was used up by the part that was done.
            host.store.put_pending(&rotation(), &new()).unwrap();
        },
        |host| {
            assert_eq!(host.active(), id(&new()));
            assert_eq!(host.names(), [DATED, "encryption.config"]);
        },
    );
}

#[test]
fn a_crash_at_any_point_of_activation_and_straight_on() {
    survives(
        || {
            let host = TestHost::with(&old());
            host.store.put_pending(&rotation(), &new()).unwrap();
            host
        },
        |host| host.store.activate(&rotation(), id(&new()), AT_MS).map(drop),
        |_| {},
        |host| {
            assert_eq!(host.store.current().unwrap(), new());
            assert_eq!(host.names(), [DATED, "encryption.config"]);
        },
    );
}

#[test]
fn a_crash_at_any_point_of_restoring() {
    survives(
        || {
            let host = TestHost::with(&old());
            host.store.put_pending(&rotation(), &new()).unwrap();
            host.store.activate(&rotation(), id(&new()), AT_MS).unwrap();
            host
        },
        |host| host.store.restore(id(&old())).map(drop),
        |host| assert!([id(&old()), id(&new())].contains(&host.active())),
        |host| assert_eq!(host.store.current().unwrap(), old()),
    );
}

#[test]
fn a_crash_at_any_point_of_setting_the_new_keys_aside_and_restoring() {
    survives(
        || {
            let host = TestHost::with(&old());
            host.store.put_pending(&rotation(), &new()).unwrap();
            host.store.activate(&rotation(), id(&new()), AT_MS).unwrap();
            host
        },
        |host| {
            // As an agent does it: once the old key is back, nothing is left to set aside.
            if host.active() == id(&new()) {
                host.store.set_aside(&rotation())?;
            }
            host.store.restore(id(&old())).map(drop)
        },
        |host| {
            let pending = host.store.pending().unwrap().map(|set| id(&set));
            let holds_new = host.active() == id(&new()) || pending == Some(id(&new()));
            assert!(holds_new, "rows may be under the new key, and this node can open them");
        },
        |host| {
            assert_eq!(host.store.current().unwrap(), old());
            assert_eq!(host.store.pending().unwrap(), Some(new()));
        },
    );
}

#[test]
fn a_crash_at_any_point_of_discarding() {
    survives(
        || {
            let host = TestHost::with(&old());
            host.store.put_pending(&rotation(), &new()).unwrap();
            fs::write(host.app(&format!("{}.tmp", pending_name())), b"{\"form").unwrap();
            fs::write(host.app("encryption.config.tmp"), b"").unwrap();
            host
        },
        |host| host.store.discard_pending(),
        |host| assert_eq!(host.active(), id(&old())),
        |host| assert_eq!(host.names(), ["encryption.config"]),
    );
}

#[test]
fn a_crash_at_any_point_of_keeping_the_recipient_key() {
    let key = RecipientKey::generate();
    survives(
        || TestHost::with(&old()),
        |host| host.store.put_recipient(&host.state(), &rotation(), &key),
        |host| drop(host.store.recipient(&host.state(), &rotation()).unwrap()),
        |host| {
            let kept = host.store.recipient(&host.state(), &rotation()).unwrap().unwrap();
            assert_eq!(kept.public_hex(), key.public_hex());
        },
    );
}

#[test]
fn files_left_by_a_crash_in_each_intermediate_state() {
    // Linked, not yet renamed.
    let host = TestHost::with(&old());
    host.store.put_pending(&rotation(), &new()).unwrap();
    fs::hard_link(host.app("encryption.config"), host.app(DATED)).unwrap();
    assert_eq!(host.store.activate(&rotation(), id(&new()), AT_MS).unwrap(), id(&new()));
    assert_eq!(host.names(), [DATED, "encryption.config"]);

    // Renamed, and the answer was lost.
    assert_eq!(host.store.activate(&rotation(), id(&new()), AT_MS).unwrap(), id(&new()));

    // A half-written file beside each place.
    fs::write(host.app("encryption.config.tmp"), b"{\"format\":").unwrap();
    assert_eq!(host.store.restore(id(&old())).unwrap(), id(&old()));
    fs::write(host.app(&format!("{}.tmp", pending_name())), b"").unwrap();
    host.store.put_pending(&rotation(), &new()).unwrap();
    assert_eq!(host.store.pending().unwrap(), Some(new()));
}

#[test]
fn another_dated_file_of_the_same_second_is_kept() {
    let host = TestHost::with(&old());
    host.store.put_pending(&rotation(), &new()).unwrap();
    let foreign = TestHost::with(&old());
    fs::copy(foreign.app("encryption.config"), host.app(DATED)).unwrap();
    let before = fs::read(host.app(DATED)).unwrap();
    host.store.activate(&rotation(), id(&new()), AT_MS).unwrap();
    assert_eq!(fs::read(host.app(DATED)).unwrap(), before);
    assert_eq!(host.names(), ["encryption.20231114-221320-002.config", DATED, "encryption.config"]);
    assert_eq!(host.store.restore(id(&old())).unwrap(), id(&old()), "the file that opens is found, not the first");
}

#[test]
fn restoring_judges_by_key_and_not_by_name() {
    let host = TestHost::with(&old());
    host.store.put_pending(&rotation(), &new()).unwrap();
    host.store.activate(&rotation(), id(&new()), AT_MS).unwrap();
    fs::rename(host.app(DATED), host.app("encryption.20010101-000000.config")).unwrap();
    fs::copy(host.app("encryption.config"), host.app("encryption.20300101-000000.config")).unwrap();
    fs::write(host.app("encryption.20310101-000000.config"), b"damaged").unwrap();
    assert_eq!(host.store.restore(id(&old())).unwrap(), id(&old()));

    let unknown = KeyId::new([9; 16]);
    let error = host.store.restore(unknown).unwrap_err();
    assert!(matches!(error, StoreError::NoFileWithKey { key, files: 3, .. } if key == unknown));
    assert_eq!(host.active(), id(&old()));
}

#[test]
fn restoring_repairs_a_current_file_that_is_gone_or_damaged() {
    for damage in [None, Some(&b"{\"format\""[..])] {
        let host = TestHost::with(&old());
        host.store.put_pending(&rotation(), &new()).unwrap();
        host.store.activate(&rotation(), id(&new()), AT_MS).unwrap();
        match damage {
            None => fs::remove_file(host.app("encryption.config")).unwrap(),
            Some(content) => fs::write(host.app("encryption.config"), content).unwrap(),
        }
        assert_eq!(host.store.restore(id(&old())).unwrap(), id(&old()));
        assert_eq!(host.store.current().unwrap(), old());
    }
}

#[test]
fn an_application_that_writes_into_its_file_does_not_change_the_dated_one() {
    let host = TestHost::with(&old());
    host.store.put_pending(&rotation(), &new()).unwrap();
    host.store.activate(&rotation(), id(&new()), AT_MS).unwrap();
    host.store.restore(id(&old())).unwrap();
    let dated = fs::read(host.app(DATED)).unwrap();
    fs::write(host.app("encryption.config"), b"overwritten").unwrap();
    assert_eq!(fs::read(host.app(DATED)).unwrap(), dated);
}

#[test]
fn a_key_that_is_not_pending_is_not_activated() {
    let host = TestHost::with(&old());
    let error = host.store.activate(&rotation(), id(&new()), AT_MS).unwrap_err();
    assert!(matches!(error, StoreError::NothingPending { .. }));
    host.store.put_pending(&rotation(), &new()).unwrap();
    let error = host.store.activate(&rotation(), KeyId::new([9; 16]), AT_MS).unwrap_err();
    assert!(matches!(error, StoreError::PendingDiffers { found, .. } if found == id(&new())));
    let error = host.store.activate(&other_rotation(), id(&new()), AT_MS).unwrap_err();
    assert!(matches!(error, StoreError::NothingPending { .. }));
    assert_eq!(host.names(), [pending_name(), "encryption.config".to_owned()], "nothing was touched");
}

#[test]
fn a_first_file_is_never_overwritten() {
    let host = TestHost::with(&old());
    let error = host.store.create(&new()).unwrap_err();
    assert!(matches!(error, StoreError::AlreadyExists { key, .. } if key == id(&old())));
    assert_eq!(host.store.current().unwrap(), old());
}

#[test]
fn a_copied_store_says_so_and_opens_nothing() {
    let (host, other) = (TestHost::with(&old()), TestHost::with(&new()));
    fs::copy(host.app("encryption.config"), other.app("encryption.config")).unwrap();
    let error = other.store.current().unwrap_err();
    assert!(matches!(error, StoreError::OtherHost { .. }));
    assert!(error.to_string().contains("another host"), "{error}");
    assert!(error.next_step().contains("keyturn key import"));
    assert!(matches!(other.store.create(&old()), Err(StoreError::OtherHost { .. })));
    assert!(matches!(other.store.restore(id(&old())), Err(StoreError::OtherHost { .. })));

    // With the hint forged to this host's, it still opens nothing.
    let read = |host: &TestHost| fs::read_to_string(host.app("encryption.config")).unwrap();
    let hint = |text: &str| text.split("\"host_hint\":\"").nth(1).unwrap()[..16].to_owned();
    let fresh = TestHost::with(&old());
    let forged = read(&host).replace(&hint(&read(&host)), &hint(&read(&fresh)));
    fs::write(fresh.app("encryption.config"), forged).unwrap();
    assert!(matches!(fresh.store.current(), Err(StoreError::Unreadable { source: Unreadable::Altered, .. })));
}

#[test]
fn another_machine_id_or_another_hosts_secret_is_another_host() {
    let host = TestHost::with(&old());
    let machine_id = host.directory.path().join("machine-id");
    let before = fs::read(&machine_id).unwrap();
    fs::write(&machine_id, "00000000000000000000000000000000\n").unwrap();
    assert!(matches!(host.store.current(), Err(StoreError::OtherHost { .. })));
    fs::write(&machine_id, before.trim_ascii_end()).unwrap();
    host.store.current().expect("the line end is not part of the id");
    for nothing in ["", "\n", "uninitialized\n"] {
        fs::write(&machine_id, nothing).unwrap();
        assert!(matches!(host.store.current(), Err(StoreError::MachineId { .. })));
    }
}

#[test]
fn the_hosts_secret_is_there_whole_and_private() {
    let host = TestHost::with(&old());
    let hostkey = host.directory.path().join("etc/hostkey");
    assert_eq!(fs::metadata(&hostkey).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!host.store.ensure_hostkey().unwrap(), "made once");

    fs::set_permissions(&hostkey, PermissionsExt::from_mode(0o640)).unwrap();
    assert!(matches!(host.store.current(), Err(StoreError::HostkeyExposed { mode: 0o640, .. })));
    fs::set_permissions(&hostkey, PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(&hostkey, [0; 31]).unwrap();
    assert!(matches!(host.store.current(), Err(StoreError::HostkeyLength { length: 31, .. })));
    fs::remove_file(&hostkey).unwrap();
    assert!(matches!(host.store.current(), Err(StoreError::HostkeyMissing { .. })));
    assert!(matches!(host.store.create(&old()), Err(StoreError::HostkeyMissing { .. })));
    assert!(!hostkey.exists(), "a lost secret is not covered up by a new one");
}

#[test]
fn files_of_the_store_are_for_their_owner_alone() {
    let host = TestHost::with(&old());
    host.store.put_pending(&rotation(), &new()).unwrap();
    for name in host.names() {
        assert_eq!(fs::metadata(host.app(&name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
}

/// An application under another user than the agent reads its file after a rotation as it did before.
#[test]
fn who_may_read_the_current_file_stays_who_may_read_it() {
    let host = TestHost::with(&old());
    let mode = || fs::metadata(host.store.path()).unwrap().permissions().mode() & 0o777;
    fs::set_permissions(host.store.path(), fs::Permissions::from_mode(0o640)).unwrap();
    host.store.put_pending(&rotation(), &new()).unwrap();
    host.store.activate(&rotation(), id(&new()), AT_MS).unwrap();
    assert_eq!((host.active(), mode()), (id(&new()), 0o640));
    host.store.set_aside(&rotation()).unwrap();
    host.store.restore(id(&old())).unwrap();
    assert_eq!((host.active(), mode()), (id(&old()), 0o640));
}

#[test]
fn a_file_cut_at_any_byte_is_unreadable_and_nothing_worse() {
    let host = TestHost::with(&old());
    let whole = fs::read(host.app("encryption.config")).unwrap();
    // Without the line end at its end it is whole.
    for length in 0..whole.len() - 1 {
        fs::write(host.app("encryption.config"), &whole[..length]).unwrap();
        let error = host.store.current().unwrap_err();
        assert!(
            matches!(error, StoreError::Unreadable { source: Unreadable::Malformed { .. }, .. }),
            "{length}: {error}"
        );
    }
}

#[test]
fn foreign_files_are_named_for_what_they_are() {
    let host = TestHost::with(&old());
    let whole = fs::read_to_string(host.app("encryption.config")).unwrap();
    let read = |text: String| {
        fs::write(host.app("encryption.config"), text).unwrap();
        host.store.current().unwrap_err()
    };
    assert!(matches!(read(whole.replace("\"version\":1", "\"version\":2")), StoreError::Version { version: 2, .. }));
    assert!(matches!(read(whole.replace("\"hostkey\"", "\"tpm2\"")), StoreError::Protector { .. }));
    let other = whole.replace("keyturn-encryption-config", "keyturn-recipient-key");
    assert!(matches!(read(other), StoreError::Unreadable { source: Unreadable::Format(_), .. }));
    assert!(matches!(read("<xml/>".to_owned()), StoreError::Unreadable { .. }));
    assert!(matches!(read("x".repeat(2 * 1024 * 1024)), StoreError::File { .. }));
    let ciphertext = whole.split("\"ciphertext\":\"").nth(1).unwrap().split('"').next().unwrap();
    let damaged = read(whole.replace(ciphertext, "####"));
    assert!(matches!(damaged, StoreError::Unreadable { source: Unreadable::Ciphertext, .. }));
    let altered = whole.replace(ciphertext, &ciphertext.replace(&ciphertext[60..64], "AAAA"));
    assert!(matches!(read(altered), StoreError::Unreadable { source: Unreadable::Altered, .. }));
}

#[test]
fn a_recipient_key_does_not_pass_for_keys_nor_for_another_rotations() {
    let host = TestHost::with(&old());
    let key = RecipientKey::generate();
    host.store.put_recipient(&host.state(), &rotation(), &key).unwrap();
    let file = |rotation: &RotationId| host.state().join(format!("recipient-{rotation}.key"));
    fs::copy(file(&rotation()), file(&other_rotation())).unwrap();
    let error = host.store.recipient(&host.state(), &other_rotation()).unwrap_err();
    assert!(matches!(error, StoreError::Unreadable { source: Unreadable::Altered, .. }));

    let renamed =
        fs::read_to_string(file(&rotation())).unwrap().replace("keyturn-recipient-key", "keyturn-encryption-config");
    fs::write(host.app("encryption.config"), renamed).unwrap();
    assert!(matches!(host.store.current(), Err(StoreError::Unreadable { source: Unreadable::Altered, .. })));
}

#[test]
fn one_recipient_key_is_kept_until_it_is_deleted() {
    let host = TestHost::with(&old());
    let state = host.state();
    host.store.put_recipient(&state, &other_rotation(), &RecipientKey::generate()).unwrap();
    host.store.put_recipient(&state, &rotation(), &RecipientKey::generate()).unwrap();
    assert!(host.store.recipient(&state, &other_rotation()).unwrap().is_none());
    for _ in 0..2 {
        host.store.delete_recipient(&state, &rotation()).unwrap();
    }
    assert!(host.store.recipient(&state, &rotation()).unwrap().is_none());
    assert_eq!(fs::read_dir(&state).unwrap().count(), 0);
}

#[test]
fn two_processes_do_not_change_a_store_at_once() {
    let host = TestHost::with(&old());
    let lock = Lock::take(&host.app("")).unwrap();
    let error = host.store.put_pending(&rotation(), &new()).unwrap_err();
    assert!(matches!(error, StoreError::Busy { .. }) && error.is_retryable());
    host.store.current().expect("reading needs no lock");
    // What a child has between its fork and its program.
    let _of_a_child = lock.directory.try_clone().unwrap();
    drop(lock);
    host.store.put_pending(&rotation(), &new()).unwrap();
}

#[test]
fn a_node_without_keys_says_what_to_do() {
    let host = TestHost::empty();
    let error = host.store.current().unwrap_err();
    assert!(matches!(error, StoreError::Missing { .. }));
    assert!(error.next_step().contains("keyturn key import"));
    assert!(!error.is_retryable());
}

#[test]
fn nothing_that_is_printed_holds_a_secret() {
    let host = TestHost::with(&old());
    let text = format!("{:?} {:?}", host.store, host.store.current().unwrap());
    assert!(!text.contains(&hex::encode([1; 32])) && !text.contains("[1, 1") && !text.contains("AQEBAQ"), "{text}");
}

/// A node on which the new key was activated, and the old file has any name.
fn activated(dated: &str) -> TestHost {
    let host = TestHost::with(&old());
    host.store.put_pending(&rotation(), &new()).unwrap();
    host.store.activate(&rotation(), id(&new()), AT_MS).unwrap();
    fs::rename(host.app(DATED), host.app(dated)).unwrap();
    host
}

#[test]
fn files_are_judged_by_what_they_hold() {
    let host = activated("encryption.of last year.config");
    fs::write(host.app(DATED), "somebody else's").unwrap();
    fs::write(host.app("readme.txt"), "not ours").unwrap();
    let files = host.store.files().unwrap();
    let found: Vec<_> = files.iter().map(|file| (file.name.as_str(), file.role, file.active())).collect();
    let expected = [
        ("encryption.config", FileRole::Current, Some(id(&new()))),
        (DATED, FileRole::Dated, None),
        ("encryption.of last year.config", FileRole::Other, Some(id(&old()))),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_file_is_put_back_by_two_renames_and_none_is_lost() {
    let host = activated(DATED);
    for _ in 0..2 {
        host.store.put_back(DATED, id(&old())).unwrap();
        assert_eq!(host.active(), id(&old()));
        assert_eq!(host.names(), ["encryption.config", "encryption.config.bak"]);
    }
    // And back again: the first .bak is put back, and gets a number meanwhile.
    host.store.put_back("encryption.config.bak", id(&new())).unwrap();
    assert_eq!(host.active(), id(&new()));
    assert_eq!(host.names(), ["encryption.config", "encryption.config.bak"]);
    assert!(host.store.put_back("encryption.config.bak", KeyId::new([9; 16])).is_err());
}

#[test]
fn an_earlier_bak_gets_a_number() {
    let host = activated(DATED);
    fs::write(host.app("encryption.config.bak"), "from the year before").unwrap();
    fs::write(host.app("encryption.config.bak.1"), "from the year before that").unwrap();
    host.store.put_back(DATED, id(&old())).unwrap();
    let names = ["encryption.config", "encryption.config.bak", "encryption.config.bak.1", "encryption.config.bak.2"];
    assert_eq!(host.names(), names);
    assert_eq!(fs::read(host.app("encryption.config.bak.2")).unwrap(), b"from the year before");
}

#[test]
fn a_crash_while_a_file_is_put_back_loses_none() {
    for point in 0..CRASH_POINTS_MAX {
        let host = activated(DATED);
        fs::write(host.app("encryption.config.bak"), "from the year before").unwrap();
        let died = crash::at(point, || host.store.put_back(DATED, id(&old()))).is_some();
        assert!([id(&old()), id(&new())].contains(&host.active()), "there always is a current one, point {point}");
        host.store.put_back(DATED, id(&old())).unwrap();
        assert_eq!(host.active(), id(&old()));
        let kept = |name: &str| fs::read(host.app(name)).unwrap();
        assert_eq!(kept("encryption.config.bak.1"), b"from the year before", "point {point}");
        assert_eq!(host.store.read(&host.app("encryption.config.bak")).unwrap(), Some(new()), "point {point}");
        if !died {
            return;
        }
    }
    panic!("it never came to its end");
}

#[test]
fn a_pipe_in_a_file_s_place_is_refused_and_not_waited_for() {
    let host = activated(DATED);
    fs::remove_file(host.app("encryption.config")).unwrap();
    nix::unistd::mkfifo(&host.app("encryption.config"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(host.store.current(), Err(StoreError::File { .. })));
}
