//! A step of `keyturn recover` that fails: what is said then, and that the next run goes on.

use serde_json::Value;

use crate::recover::{assert_rows_under, assert_serving, killed, recover, states};
use crate::vault::VaultFarm;

#[test]
fn a_step_that_fails_is_named_with_what_to_do_next_and_nothing_of_what_comes_after_the_last() {
    let vault = killed(VaultFarm::new(2), "verify");
    let config = std::fs::read_to_string(vault.config(0)).expect("a configuration");
    let broken = config.replace("\"start\"", "\"not-a-verb\"");
    assert_ne!(broken, config, "the instance is started by this word");
    std::fs::write(vault.config(0), broken).expect("written");
    let failed = recover(&vault, 0, &[]);
    assert_eq!(failed.code, 4, "{}", failed.stderr);
    for words in ["a step of the recovery failed", "next:", "then run `keyturn recover` again"] {
        assert!(failed.stderr.contains(words), "{words}: {}", failed.stderr);
    }
    let said: Value = serde_json::from_str(&failed.stdout).expect("JSON");
    assert_eq!(states(&said, "failed"), ["start-instance"], "{said}");
    assert_eq!(states(&said, "planned"), ["admit-instance", "leave-mark", "discard-pending"], "{said}");
    let next = said["next_steps"].as_array().expect("a list");
    assert!(next.len() == 1 && next[0].as_str().is_some_and(|step| step.contains("here again")), "{said}");
    assert_rows_under(&vault, "old");

    std::fs::write(vault.config(0), config).expect("written");
    for number in 0..2 {
        recover(&vault, number, &[]).done();
    }
    assert_serving(&vault, "old");
}
