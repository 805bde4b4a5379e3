//! The body of the fuzz target `value` as a property test, bounded, in every run.

use proptest::prelude::*;

#[path = "../../../tests/fuzz/bodies/value.rs"]
mod value;

/// Bytes that begin as values do, so that more than the first check is reached.
fn nearly_a_value() -> impl Strategy<Value = Vec<u8>> {
    let head = prop_oneof![
        Just(vec![0x0d, 0x0c, 2, 0, 1, 0, 2, 0]),
        Just(vec![0x0d, 0x0c, 2, 0, 0, 0, 1, 0]),
        Just(b"DQwCAAEAAgA".to_vec()),
        Just(b"DQwCAAAAAQA".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..9),
    ];
    let rest = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        "[A-Za-z0-9+/_-]{0,200}={0,2}[ \\n]{0,2}".prop_map(String::into_bytes),
    ];
    (head, rest).prop_map(|(head, rest)| [head, rest].concat())
}

proptest! {
    #[test]
    fn any_bytes_may_stand_where_a_value_should(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        value::check(&bytes);
    }

    #[test]
    fn so_may_what_is_nearly_one(bytes in nearly_a_value()) {
        value::check(&bytes);
    }
}
