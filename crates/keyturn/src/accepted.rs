//! The file of values that may stay undecryptable: what an operator accepts by table, column, key and digest.

use std::path::Path;

use rotation::UndecryptableValue;
use serde::Deserialize;

use crate::files;
use crate::problem::Problem;

/// A whole answer of `rotation plan` or `db doctor`, of which the list alone counts.
#[derive(Deserialize)]
struct Answer {
    undecryptable: Vec<UndecryptableValue>,
}

/// Reads it: the list, or an answer that has it.
pub(crate) fn read(path: &Path) -> Result<Vec<UndecryptableValue>, Problem> {
    let bytes = files::read(path, "list of accepted values")?;
    // Which of the two forms it is shows by its first character, so that the message speaks of the right one.
    let list = if bytes.trim_ascii_start().starts_with(b"{") {
        serde_json::from_slice::<Answer>(&bytes).map(|answer| answer.undecryptable)
    } else {
        serde_json::from_slice(&bytes)
    };
    list.map_err(|error| {
        Problem::refused(
            "accepted-values",
            format!("{} is no list of undecryptable values", path.display()),
            "write the output of `keyturn rotation plan -o json` or `keyturn db doctor -o json` to a file and take out what \
             you do not accept",
        )
        .because(&error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_values_are_read_in_both_forms() {
        let value = r#"{"table":"t","column":"c","key":"[1]","raw_digest":"00000000000000000000000000000000000000000000000000000000000000aa","reason":"broken"}"#;
        let folder = tempfile::tempdir().expect("a folder");
        for text in [format!("[{value}]"), format!("{{\"id\":\"x\",\"undecryptable\":[{value}]}}")] {
            let path = folder.path().join("accepted.json");
            std::fs::write(&path, text).expect("written");
            let list = read(&path).expect("read");
            assert_eq!((list.len(), list[0].key.0.as_str()), (1, "[1]"));
        }
    }
}
