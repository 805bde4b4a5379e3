//! The ledger in the database refuses late workers only. Work that the state calls for is never below an agent's fence
//! and never refused by the ledger: the world itself asserts both, here with nothing else to look at.

use proptest::prelude::*;

use crate::world::{World, config, scripts};

proptest! {
    #![proptest_config(config())]

    #[test]
    fn live_work_is_never_superseded(script in scripts()) {
        World::play(&script, |_, _| {}).calm_down();
    }
}
