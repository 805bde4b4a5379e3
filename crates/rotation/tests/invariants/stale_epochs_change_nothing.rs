//! Whatever is reported of work in another epoch than the present one changes nothing but the clock.

use proptest::prelude::*;
use rotation::{Entry, Epoch, Event, FaultCode, Outcome, State, apply, pending};

use crate::support::{fault, good_answer, in_epoch};
use crate::world::{World, config, scripts};

fn check_unchanged(before: &State, event: Event) {
    let mut after = before.clone();
    let outcome = apply(&mut after, &Entry { at: before.now, event: event.clone() });
    assert_eq!(outcome, Ok(Outcome::Unchanged), "{event:?}");
    assert_eq!(after, *before, "{event:?}");
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn stale_epochs_change_nothing(script in scripts()) {
        let mut moment = 0_usize;
        World::play(&script, |world, _| {
            // One report per moment: of another piece of work, another epoch and another kind each time.
            moment += 1;
            let work = pending(&world.state);
            if work.is_empty() {
                return;
            }
            let one = &work[moment % work.len()];
            let epoch = Epoch::new([one.epoch.get() - 1, one.epoch.get() + 1, 0][moment % 3]);
            let assignment = in_epoch(&one.id(), epoch);
            let fault = fault(FaultCode::NodeUnreachable);
            check_unchanged(
                &world.state,
                match moment % 4 {
                    0 => Event::WorkFailed { assignment, fault },
                    1 => Event::DeadlineMissed { assignment, fault },
                    2 => Event::LeaseExpired { assignment },
                    _ => {
                        let answer = good_answer(&world.state.rotations[&one.rotation], one);
                        Event::WorkDone { assignment, answer }
                    }
                },
            );
        });
    }

    #[test]
    fn reports_of_earlier_epochs_change_nothing_when_they_come_late(script in scripts()) {
        World::play(&script, |_, applied| {
            for entry in applied {
                let (Event::WorkDone { assignment, .. }
                | Event::WorkFailed { assignment, .. }
                | Event::DeadlineMissed { assignment, .. }
                | Event::LeaseExpired { assignment }) = &entry.entry.event
                else {
                    continue;
                };
                let present =
                    entry.before.rotations.get(&assignment.rotation).is_some_and(|r| r.epoch == assignment.epoch);
                if !present {
                    assert_eq!(entry.result, Ok(Outcome::Unchanged), "{:?}", entry.entry.event);
                }
            }
        });
    }
}
