//! A refused request leaves the state exactly as it was, its clock included, and says what was refused and what to do.

use proptest::prelude::*;
use rotation::{Entry, Event, Millis, Phase, RotationOptions, apply};

use crate::support::{hash, node, retirement, rotation_id};
use crate::world::{World, config, scripts};

proptest! {
    #![proptest_config(config())]

    #[test]
    fn refusals_change_nothing(script in scripts()) {
        let mut moment = 0_usize;
        World::play(&script, |world, applied| {
            for entry in applied {
                if let Err(rejection) = &entry.result {
                    assert!(!rejection.message.is_empty() && !rejection.next_step.is_empty());
                    assert_eq!(entry.before, world.state, "{rejection}");
                }
            }
            // What an operator can ask, another thing in each moment: done, or refused without a trace.
            moment += 1;
            let (rotation, by) = (world.id(), "bob".to_owned());
            let options = RotationOptions { hold_at: Some(Phase::Preflight), ..RotationOptions::default() };
            let requests = [
                Event::FarmFounded { cluster: crate::support::cluster(), farm: "another".to_owned() },
                Event::NodeEnrolled { node: node(9), address: "nowhere".to_owned() },
                Event::NodeRemoved { node: node(9) },
                Event::RotationRequested { rotation: rotation_id(9_999), by: by.clone(), options },
                Event::AbortRequested { rotation, by: by.clone() },
                Event::PauseRequested { rotation, by: by.clone() },
                Event::ResumeRequested { rotation, by: by.clone() },
                Event::RetryRequested { rotation, by: by.clone() },
                Event::ThrottleRequested { rotation, by: by.clone(), rows_per_second: Some(0) },
                Event::RetireRequested { rotation, by, word: retirement(rotation, hash("another plan")) },
            ];
            let event = requests[moment % requests.len()].clone();
            let mut after = world.state.clone();
            let at = Millis::new(world.state.now.get() + 1);
            if apply(&mut after, &Entry { at, event: event.clone() }).is_err() {
                assert_eq!(after, world.state, "{event:?}");
            }
        });
    }
}
