//! What a database's tool said, as far as it may travel into logs: the first error and nothing else. What follows it quotes
//! rows and statements.

/// How much of it is repeated.
const CHARS_MAX: usize = 400;

/// The first line that tells of an error, or else the first one.
pub(super) fn first_error(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let tells = |line: &&str| {
        let line = line.to_ascii_lowercase();
        ["error:", "fatal:", "panic:"].iter().any(|word| line.contains(word))
    };
    let line = lines().find(tells).or_else(|| lines().next()).unwrap_or("it said nothing");
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_statements_that_a_tool_quotes_are_left_out() {
        let said = b"pg_restore: while PROCESSING TOC:\n\
            pg_restore: from TOC entry 3341; 0 16386 TABLE DATA t postgres\n\
            pg_restore: error: COPY failed for table \"t\": ERROR:  new row for relation \"t\" violates check\x1b[2J\n\
            DETAIL:  Failing row contains (1, hunter2).\nCONTEXT:  COPY t, line 1: \"1 hunter2\"\n";
        let first = first_error(said);
        assert_eq!(
            first,
            "pg_restore: error: COPY failed for table \"t\": ERROR:  new row for relation \"t\" violates check [2J"
        );
        assert_eq!(first_error(b"\nplain words\nmore"), "plain words");
        assert_eq!(first_error(b""), "it said nothing");
        assert_eq!(first_error("é".repeat(10_000).as_bytes()).chars().count(), CHARS_MAX);
    }
}
