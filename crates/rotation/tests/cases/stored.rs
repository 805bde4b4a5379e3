//! What is stored and sent: state and entries survive postcard and JSON, at every moment of a rotation and its undo.

use rotation::{Entry, Phase, State};

use crate::support::Farm;

fn check_stored(farm: &Farm) {
    let bytes = postcard::to_stdvec(&farm.state).expect("a state has a postcard form");
    assert_eq!(postcard::from_bytes::<State>(&bytes).as_ref(), Ok(&farm.state));
    let text = serde_json::to_string(&farm.state).expect("a state has a JSON form");
    assert_eq!(serde_json::from_str::<State>(&text).expect("what was written is read"), farm.state);
}

#[test]
fn the_state_survives_storing_at_every_moment() {
    let mut farm = Farm::requested(2);
    while farm.turn() {
        check_stored(&farm);
    }
    let mut farm = Farm::at(2, Phase::Start);
    farm.abort();
    while farm.turn() {
        check_stored(&farm);
    }
}

#[test]
fn entries_and_rejections_survive_storing() {
    let mut farm = Farm::at(2, Phase::Approval);
    let statement = crate::support::statement(farm.plan(), crate::support::NEW);
    let event = farm.start_event(crate::support::authorization(&statement));
    let entry = farm.entry(event);
    let bytes = postcard::to_stdvec(&entry).unwrap();
    assert_eq!(postcard::from_bytes::<Entry>(&bytes).unwrap(), entry);

    let rejection = farm.refused(farm.start_event(crate::support::authorization(&{
        let mut other = statement;
        other.farm = "other".to_owned();
        other
    })));
    let bytes = postcard::to_stdvec(&rejection).unwrap();
    assert_eq!(postcard::from_bytes::<rotation::Rejection>(&bytes).unwrap(), rejection);
}

#[test]
fn a_state_in_mid_rotation_is_small() {
    let farm = Farm::at(3, Phase::Verify);
    let bytes = postcard::to_stdvec(&farm.state).unwrap().len();
    assert!(bytes < 8 * 1024, "{bytes} bytes for three nodes and six shards");
}

#[test]
fn texts_of_codes_are_those_of_serde() {
    for code in rotation::RejectionCode::ALL {
        assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
    }
    for code in rotation::FaultCode::ALL {
        assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
    }
    for phase in Phase::ALL {
        assert_eq!(serde_json::to_value(phase).unwrap(), phase.as_str());
    }
    for step in rotation::UndoStep::ALL {
        assert_eq!(serde_json::to_value(step).unwrap(), step.as_str());
    }
}
