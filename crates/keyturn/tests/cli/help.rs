//! The help of every command, held against a checked-in text, so that a change of the command line is seen in review.
//!
//! After an intended change: `KEYTURN_UPDATE_SNAPSHOTS=1 cargo test -p keyturn --test cli help`.

use std::path::Path;

use crate::support::run;

/// The help of `command` and of everything below it, depth first, each under its name.
fn collect(command: &[String], into: &mut Vec<(String, String)>) {
    let arguments = command.iter().cloned().chain(["--help".to_owned()]);
    let help = run(arguments).done();
    into.push((format!("keyturn {}", command.join(" ")).trim_end().to_owned(), help.clone()));
    let section = help.split("\nCommands:\n").nth(1).unwrap_or_default();
    for line in section.lines().take_while(|line| !line.is_empty()) {
        // Names stand at the first indent; what is deeper is a description that was wrapped.
        let name =
            line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')).and_then(|rest| rest.split(' ').next());
        if let Some(name) = name.filter(|name| *name != "help") {
            collect(&[command, &[name.to_owned()]].concat(), into);
        }
    }
}

fn all() -> Vec<(String, String)> {
    let mut pages = Vec::new();
    collect(&[], &mut pages);
    pages
}

#[test]
fn help_is_as_checked_in() {
    let text: String = all().iter().map(|(name, help)| format!("=== {name}\n{help}\n")).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/help.txt");
    if std::env::var_os("KEYTURN_UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, &text).expect("the snapshot is written");
    }
    let expected = std::fs::read_to_string(&path).expect("the snapshot exists");
    for (line, (now, then)) in text.lines().zip(expected.lines()).enumerate() {
        assert_eq!(now, then, "line {} of tests/cli/help.txt", line + 1);
    }
    assert_eq!(text.lines().count(), expected.lines().count(), "tests/cli/help.txt has another length");
}

#[test]
fn the_tree_is_the_contract() {
    let names: Vec<String> = all().into_iter().map(|(name, _)| name).collect();
    let expected = [
        "demo",
        "soak",
        "coordinator",
        "coordinator list",
        "coordinator add",
        "coordinator replace",
        "coordinator remove",
        "agent",
        "pki init",
        "pki issue",
        "pki show",
        "key generate",
        "key export",
        "key import",
        "key inspect",
        "node enroll",
        "node list",
        "node remove",
        "db scan",
        "db doctor",
        "db bench",
        "rotation plan",
        "rotation start",
        "rotation status",
        "rotation watch",
        "rotation abort",
        "rotation pause",
        "rotation resume",
        "rotation retry",
        "rotation throttle",
        "rotation report",
        "rotation retire",
        "rotation list",
        "completions",
    ];
    for command in expected {
        assert!(names.contains(&format!("keyturn {command}")), "{command} is missing: {names:?}");
    }
    assert!(names.iter().all(|name| !name.contains("sample-vault") && !name.contains("balancer")), "{names:?}");
}

#[test]
fn no_option_takes_a_secret() {
    let harmless = [
        "--password-file <PATH>",
        "--password-fd <N>",
        "--current-password-file <PATH>",
        "--current-password-fd <N>",
        "--raw-key-file <FILE>",
        "--key <FILE>",
        "--key <ID>",
    ];
    let words = ["password", "secret", "key", "token", "passphrase"];
    let mut seen = 0;
    for (command, help) in all() {
        for line in help.lines().map(str::trim_start).filter(|line| line.starts_with('-') && !line.starts_with("- ")) {
            let option = &line[line.find("--").expect("every option has a long name")..];
            if words.iter().any(|word| option.split(' ').next().is_some_and(|name| name.contains(word))) {
                assert!(harmless.iter().any(|known| option.starts_with(known)), "{command}: {option}");
                seen += 1;
            }
        }
        assert!(!help.contains("[env:"), "{command} reads an option from the environment");
    }
    assert!(seen > 10, "the options were not found in the help");
}

#[test]
fn commands_that_print_data_take_the_output_option() {
    let silent = ["coordinator", "agent", "completions", "node remove"];
    for (command, help) in all().iter().filter(|(_, help)| !help.contains("\nCommands:\n")) {
        let prints = !silent.iter().any(|silent| command.ends_with(silent));
        assert_eq!(help.contains("-o, --output <FORMAT>"), prints, "{command}");
    }
}

#[test]
fn completions_are_written_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(["completions", shell]).done();
        assert!(script.contains("rotation") && script.contains("keyturn"), "{shell}");
    }
}
