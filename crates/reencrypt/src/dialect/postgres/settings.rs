//! Settings of a database, as `pg_db_role_setting` stores them, written as SQL that sets the same and can do nothing else.
//! Whoever may alter a role, be it their own, may have stored any text there.

use super::literal;
use crate::table::quote;

/// Settings whose value is a list, which is stored as it must be written; and whether its bare words are names, which the
/// server takes in lower case.
const LISTS: [(&str, bool); 6] = [
    ("local_preload_libraries", false),
    ("search_path", true),
    ("session_preload_libraries", false),
    ("shared_preload_libraries", false),
    ("temp_tablespaces", true),
    ("unix_socket_directories", false),
];

/// What stands behind `ALTER DATABASE … SET`. `None` for what the server itself would not take for a setting.
pub(super) fn assignment(stored: &str) -> Option<String> {
    let (name, value) = stored.split_once('=')?;
    let value = match LISTS.iter().find(|(list, _)| *list == name) {
        None => literal(value),
        Some((_, names)) => {
            let elements: Vec<String> = split(value, *names)?.iter().map(|element| literal(element)).collect();
            if elements.is_empty() { literal("") } else { elements.join(", ") }
        }
    };
    let name: Vec<String> = name.split('.').map(quote).collect();
    Some(format!("{} TO {value}", name.join(".")))
}

/// The elements of a list, by the rules of the server's `SplitIdentifierString`.
fn split(list: &str, names: bool) -> Option<Vec<String>> {
    let mut elements = Vec::new();
    let mut rest = list.trim_start();
    if rest.is_empty() {
        return Some(elements);
    }
    loop {
        let element;
        (element, rest) = match rest.strip_prefix('"') {
            Some(quoted) => until_quote(quoted)?,
            None => {
                let end = rest.find(|c: char| c == ',' || c.is_ascii_whitespace()).unwrap_or(rest.len());
                let bare = &rest[..end];
                if bare.is_empty() {
                    return None;
                }
                (if names { bare.to_ascii_lowercase() } else { bare.to_owned() }, &rest[end..])
            }
        };
        elements.push(element);
        rest = rest.trim_start();
        if rest.is_empty() {
            return Some(elements);
        }
        rest = rest.strip_prefix(',')?.trim_start();
    }
}

/// What stands before the closing quote, and what behind it.
fn until_quote(quoted: &str) -> Option<(String, &str)> {
    let mut element = String::new();
    let mut rest = quoted;
    loop {
        let (before, behind) = rest.split_once('"')?;
        element.push_str(before);
        match behind.strip_prefix('"') {
            Some(more) => {
                element.push('"');
                rest = more;
            }
            None => return Some((element, behind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(stored: &str, expected: Option<&str>) {
        assert_eq!(assignment(stored).as_deref(), expected, "{stored}");
    }

    #[test]
    fn lists_come_apart_and_every_element_is_a_literal() {
        check(r#"search_path="$user", Public,"a ""b""""#, Some(r#""search_path" TO '$user', 'public', 'a "b"'"#));
        check("local_preload_libraries=$libdir/Plugins/x", Some(r#""local_preload_libraries" TO '$libdir/Plugins/x'"#));
        check("search_path=", Some(r#""search_path" TO ''"#));
        check(r#"search_path="""#, Some(r#""search_path" TO ''"#));
        check("search_path=x;drop/**/role/**/y;--", Some(r#""search_path" TO 'x;drop/**/role/**/y;--'"#));
        for broken in ["search_path=a b", "search_path=\"a", "search_path=a,", "search_path"] {
            check(broken, None);
        }
    }

    #[test]
    fn other_values_are_one_literal_whatever_the_server_takes_a_backslash_for() {
        check("work_mem=4MB", Some(r#""work_mem" TO '4MB'"#));
        check("app.x=it's, \"so\"", Some(r#""app"."x" TO 'it''s, "so"'"#));
        check(r"app.x=\', now(); --", Some(r#""app"."x" TO E'\\'', now(); --'"#));
    }
}
