//! Every test that docs/reliability.md names exists, in the file that it names.

use std::fs;
use std::path::{Path, PathBuf};

/// The short names of folders, as in the table at the head of the page; any other is a crate's source.
const FOLDERS: [(&str, &str); 9] = [
    ("cases", "crates/rotation/tests/cases"),
    ("invariants", "crates/rotation/tests/invariants"),
    ("engine", "crates/reencrypt/tests/engine"),
    ("agent", "crates/agent/tests/agent"),
    ("points", "crates/agent/tests/points"),
    ("farm", "crates/coordinator/tests/farm"),
    ("cli", "crates/keyturn/tests/cli"),
    ("end_to_end", "tests/end_to_end"),
    ("architecture", "tests/architecture"),
];

/// An identifier with fewer underscores is taken for a word of its own, not for the name of a test.
const UNDERSCORES_MIN: usize = 3;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The files that a name such as `keys/store` or `engine/rotate` stands for; none, if it is no name of a file.
fn files(name: &str) -> Vec<PathBuf> {
    let (folder, rest) = name.split_once('/').unwrap_or((name, ""));
    let mut bases = Vec::new();
    if let Some((_, path)) = FOLDERS.iter().find(|(short, _)| *short == folder) {
        bases.push(root().join(path).join(rest));
    }
    bases.push(root().join("crates").join(folder).join("src").join(rest.strip_prefix("src/").unwrap_or(rest)));
    bases.push(root().join(name));
    let mut files = Vec::new();
    for base in bases {
        let beside =
            |suffix: &str| PathBuf::from(format!("{}{suffix}", base.display().to_string().trim_end_matches('/')));
        // A script is named as it is.
        let plain = [beside(".rs"), beside("_tests.rs"), base.clone()];
        files.extend(plain.into_iter().filter(|path| path.is_file()));
        files.extend(sources(&base));
    }
    files
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

/// The names of functions in a file, and of the modules that a macro makes of one for each database.
fn tests(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).expect("a source file is UTF-8");
    let name = |line: &str| {
        let line = line.trim_start().trim_start_matches("pub(crate) ").trim_start_matches("async ");
        let rest = line.strip_prefix("fn ")?;
        Some(rest.chars().take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '_').collect())
    };
    text.lines().filter_map(name).collect()
}

/// Whether a name, in which `…` stands for anything, is this one.
fn is(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('…');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut open = false;
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        open = part.is_empty();
    }
    rest.is_empty() || open
}

/// Whether the first part of a path is one of our folders.
fn is_ours(path: &str) -> bool {
    let Some((first, _)) = path.split_once('/') else { return false };
    FOLDERS.iter().any(|(short, _)| *short == first)
        || root().join("crates").join(first).is_dir()
        || ["crates", "tests"].contains(&first)
}

fn is_name(span: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_' || letter == '…';
    span.chars().all(plain) && span.matches('_').count() >= UNDERSCORES_MIN
}

#[test]
fn every_test_that_the_page_names_exists() {
    let page = fs::read_to_string(root().join("docs/reliability.md")).expect("the page exists");
    let mut wrong = Vec::new();
    let mut checked = 0;
    for (number, line) in page.lines().enumerate() {
        let mut file = String::new();
        // What stands between a pair of backticks.
        for span in line.split('`').skip(1).step_by(2) {
            let (named, test) = span.split_once(": ").map_or((None, span), |(file, test)| (Some(file), test));
            let is_file = !span.contains(['#', ' ', '<', '-', '…']) && is_ours(span);
            if let Some(named) = named.or(is_file.then_some(span)) {
                named.clone_into(&mut file);
                if files(named).is_empty() {
                    wrong.push(format!("line {}: there is no file {named}", number + 1));
                    continue;
                }
            }
            if file.is_empty() || (named.is_none() && !is_name(test)) {
                continue;
            }
            checked += 1;
            if !files(&file).iter().any(|path| tests(path).iter().any(|name| is(test, name))) {
                wrong.push(format!("line {}: {file} has no test {test}", number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "docs/reliability.md:\n{}", wrong.join("\n"));
    assert!(checked > 100, "{checked} names are too few: the page is read wrongly");
}
