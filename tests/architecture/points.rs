//! Fail points are for tests alone: nothing asks for them by default, the binary holds none, and the test run arms them.

use std::fs;
use std::process::Command;

use serde_json::Value;

/// What the name of every armed point begins with (`fail_points::PREFIX`), and the variable that arms them.
const TRACES: [&str; 2] = ["keyturn-fail-point:", "KEYTURN_FAIL_POINTS"];

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().expect("a list").iter().map(|text| text.as_str().expect("a text")).collect()
}

#[test]
fn no_default_and_no_dependency_arms_a_fail_point() {
    let metadata = metadata();
    let mut armed = Vec::new();
    for package in metadata["packages"].as_array().expect("a list of packages") {
        let name = package["name"].as_str().expect("a name");
        for (feature, implies) in package["features"].as_object().expect("features") {
            let asks = texts(implies).iter().any(|implied| implied.contains("armed"));
            if asks || feature == "armed" {
                armed.push(format!("{name}/{feature}"));
            }
        }
        // Tests' dependencies too: cargo unites the features of a build.
        for dependency in package["dependencies"].as_array().expect("a list of dependencies") {
            assert!(!texts(&dependency["features"]).contains(&"armed"), "{name} arms {}", dependency["name"]);
        }
    }
    armed.sort();
    assert_eq!(armed, ["agent/armed", "fail-points/armed"], "and neither is called `default`");
}

/// How many lines of the binary that the tests run hold a text.
fn lines_with(text: &str) -> u32 {
    let output = Command::new("grep")
        .args(["--count", "--text", "--fixed-strings", text, env!("CARGO_BIN_EXE_keyturn")])
        .output()
        .expect("grep runs");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("grep counts")
}

#[test]
fn the_binary_has_no_fail_point() {
    assert!(lines_with("keyturn-encryption-config") > 0, "what is in it is found");
    for trace in TRACES {
        assert_eq!(lines_with(trace), 0, "the binary holds {trace}");
        let source = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../fail-points/src/armed.rs"));
        assert!(source.expect("the source of the points").contains(trace), "armed, it would");
    }
}

#[test]
fn the_test_run_arms_them() {
    let command = "cargo test --workspace --locked --features agent/armed --test points";
    let run = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/run")).expect("tests/run exists");
    assert!(run.contains(command), "tests/run does not run them");
}
