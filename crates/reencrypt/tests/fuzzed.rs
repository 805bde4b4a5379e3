//! The body of the fuzz target `targets` as a property test, bounded, in every run.

use proptest::prelude::*;

#[path = "../../../tests/fuzz/bodies/targets.rs"]
mod targets;

/// Lines of which a targets.toml consists, and some of which none does, in any order.
fn nearly_targets() -> impl Strategy<Value = String> {
    let name = prop_oneof![Just("\"t\"".to_owned()), Just("\"\"".to_owned()), "\"[a-z.]{1,3}\"", "'[^'\\n\\r]{0,3}'"];
    let line = prop_oneof![
        4 => Just("[[table]]".to_owned()),
        4 => Just("[[table.column]]".to_owned()),
        2 => Just("[[exclude]]".to_owned()),
        4 => name.clone().prop_map(|name| format!("name = {name}")),
        2 => name.clone().prop_map(|name| format!("table = {name}")),
        1 => name.clone().prop_map(|name| format!("schema = {name}")),
        3 => name.clone().prop_map(|name| format!("key = [{name}]")),
        2 => name.clone().prop_map(|name| format!("columns = [{name}]")),
        1 => name.clone().prop_map(|name| format!("reason = {name}")),
        1 => Just("encoding = \"base64\"".to_owned()),
        1 => name.prop_map(|name| format!("aad = {name}")),
        1 => Just("aad = \"hex:0\"".to_owned()),
        1 => "\\PC{0,12}",
    ];
    proptest::collection::vec(line, 0..14).prop_map(|lines| format!("version = 1\n{}", lines.join("\n")))
}

/// Files that are right.
fn targets() -> impl Strategy<Value = String> {
    let quoted = || "[a-zA-Z_.\"\\\\é\u{7f}\\n]{1,6}".prop_map(|name| toml::Value::String(name).to_string());
    let column = (quoted(), any::<bool>(), proptest::option::of(quoted())).prop_map(|(name, base64, aad)| {
        let encoding = if base64 { "encoding = \"base64\"\n" } else { "" };
        let aad = aad.map_or(String::new(), |aad| format!("aad = {aad}\n"));
        format!("[[table.column]]\nname = {name}\n{encoding}{aad}")
    });
    let table = (quoted(), quoted(), proptest::collection::vec(column, 1..3))
        .prop_map(|(name, key, columns)| format!("[[table]]\nname = {name}\nkey = [{key}]\n{}", columns.concat()));
    let exclude = (quoted(), quoted(), quoted()).prop_map(|(table, column, reason)| {
        format!("[[exclude]]\ntable = {table}\ncolumns = [{column}]\nreason = {reason}\n")
    });
    (proptest::collection::vec(table, 1..4), proptest::collection::vec(exclude, 0..3))
        .prop_map(|(tables, excludes)| format!("version = 1\n{}{}", tables.concat(), excludes.concat()))
}

proptest! {
    #[test]
    fn any_text_may_stand_where_targets_should(text in "\\PC*") {
        targets::check(&text);
    }

    #[test]
    fn so_may_what_is_nearly_one(text in nearly_targets()) {
        targets::check(&text);
    }

    #[test]
    fn what_is_right_is_written_and_read_again_as_the_same(text in targets()) {
        targets::check(&text);
    }
}
