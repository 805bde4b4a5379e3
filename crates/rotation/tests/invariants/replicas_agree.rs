//! The same entries give the same state on every replica, also on one that began from a stored snapshot.

use proptest::prelude::*;
use rotation::{State, apply};

use crate::world::{World, config, scripts};

proptest! {
    #![proptest_config(config())]

    #[test]
    fn replicas_agree(script in scripts(), snapshot_at in 0..200_usize) {
        let mut replica: Option<State> = None;
        let mut moment = 0;
        World::play(&script, |world, applied| {
            if let Some(replica) = &mut replica {
                for entry in applied {
                    assert_eq!(apply(replica, &entry.entry), entry.result);
                }
                assert_eq!(*replica, world.state);
            } else if moment >= snapshot_at {
                let stored = postcard::to_stdvec(&world.state).expect("a state can be stored");
                replica = Some(postcard::from_bytes(&stored).expect("what was stored can be read"));
            }
            moment += 1;
        });
    }
}
