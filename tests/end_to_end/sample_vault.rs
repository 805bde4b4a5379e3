//! What a node's configuration says of the sample vault: its tables, its settings, and the commands that control it. Also
//! for the tests of the command line.

/// The vault's tables, as docs/by-hand.md has them.
pub(crate) const TARGETS: &str = r#"
version = 1

[[table]]
name = "connections"
key = ["id"]
column = [{ name = "credentials", encoding = "raw" }]

[[table]]
name = "user_vault_entries"
key = ["id"]
column = [
  { name = "password", encoding = "base64", aad = "user_vault_entries.password" },
  { name = "notes", encoding = "base64" },
]

[[table]]
name = "documentation"
key = ["slug"]
column = [{ name = "body", encoding = "base64" }]

[[table]]
name = "attachments"
key = ["entry_id", "file_name"]
column = [{ name = "content", encoding = "raw" }]
"#;

/// The vault's own settings.
pub(crate) fn settings(port: u16, database_url: &str, store: &str, hostkey: &str) -> String {
    format!(
        "listen = \"127.0.0.1:{port}\"\ndatabase_url = \"{database_url}\"\nstore = \"{store}\"\nhostkey = \"{hostkey}\"\n"
    )
}

/// The lines of `[instance]` in an agent's configuration, for the vault in this folder.
pub(crate) fn commands(folder: &str) -> String {
    [("drain", 15), ("offline", 30), ("start", 25), ("observe", 5), ("canary", 5), ("admit", 5)]
        .map(|(verb, deadline)| {
            let words = [env!("CARGO_BIN_EXE_keyturn"), "sample-vault", verb, "--dir", folder];
            let words = words.map(|word| format!("\"{word}\"")).join(", ");
            format!("{verb} = {{ command = [{words}], deadline_s = {deadline} }}\n")
        })
        .concat()
}
