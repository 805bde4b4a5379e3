//! The text of a table's or an index's definition for its copy: under another name, and without foreign keys, which
//! would make the parent's deletions reach into a copy that nobody reads. What SQLite makes of it is compared with the
//! original afterwards; so what is not understood here is found out there.

use std::ops::Range;

use crate::table::quote;

/// A token of SQL; white space and comments are none.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Token<'s> {
    at: Range<usize>,
    text: &'s str,
}

impl Token<'_> {
    /// Whether it is this keyword. Quoted it is a name.
    fn is(&self, keyword: &str) -> bool {
        self.text.eq_ignore_ascii_case(keyword)
    }
}

/// The definition of the table's copy; none where it is not of the form in which SQLite keeps definitions.
pub(super) fn of_table(sql: &str, name: &str) -> Option<String> {
    let tokens = tokens(sql);
    let [create, table, old, open, ..] = &tokens[..] else { return None };
    if !(create.is("CREATE") && table.is("TABLE") && open.text == "(") {
        return None;
    }
    let mut copy = format!("CREATE TABLE main.{}", quote(name));
    let mut from = old.at.end;
    for gone in foreign_keys(&tokens) {
        copy.push_str(&sql[from..gone.start]);
        // A space, or the words before and after would become one.
        copy.push(' ');
        from = gone.end;
    }
    copy.push_str(&sql[from..]);
    Some(copy)
}

/// The definition of the copy's index.
pub(super) fn of_index(sql: &str, name: &str, table: &str) -> Option<String> {
    let tokens = tokens(sql);
    let mut words = tokens.iter();
    if !words.next()?.is("CREATE") {
        return None;
    }
    let mut word = words.next()?;
    let unique = if word.is("UNIQUE") {
        word = words.next()?;
        " UNIQUE"
    } else {
        ""
    };
    let (_, on, of) = (words.next()?, words.next()?, words.next()?);
    if !(word.is("INDEX") && on.is("ON")) {
        return None;
    }
    Some(format!("CREATE{unique} INDEX main.{} ON {}{}", quote(name), quote(table), &sql[of.at.end..]))
}

/// The stretches of text that define foreign keys, in order and apart from each other.
fn foreign_keys(tokens: &[Token<'_>]) -> Vec<Range<usize>> {
    let mut gone: Vec<Range<usize>> = Vec::new();
    let mut depth = 0_usize;
    let mut at = 0;
    while at < tokens.len() {
        let (mut first, mut next) = (at, at + 1);
        match tokens[at].text {
            "(" => depth += 1,
            ")" => depth = depth.saturating_sub(1),
            _ if depth == 1 && tokens[at].is("REFERENCES") => next = after_references(tokens, at),
            _ if depth == 1 && tokens[at].is("FOREIGN") => {
                next = (at..tokens.len())
                    .find(|at| tokens[*at].is("REFERENCES"))
                    .map_or(tokens.len(), |references| after_references(tokens, references));
            }
            _ => {}
        }
        if next > at + 1 {
            if first >= 2 && tokens[first - 2].is("CONSTRAINT") {
                first -= 2;
            }
            if tokens[at].is("FOREIGN") && first >= 1 && tokens[first - 1].text == "," {
                first -= 1;
            }
            gone.push(tokens[first].at.start..tokens[next - 1].at.end);
        }
        at = next;
    }
    gone
}

/// The token after `REFERENCES table (columns) ON … MATCH … DEFERRABLE …`.
fn after_references(tokens: &[Token<'_>], references: usize) -> usize {
    let is = |at: usize, keyword: &str| tokens.get(at).is_some_and(|token| token.is(keyword));
    let mut at = references + 2;
    if is(at, "(") {
        while at < tokens.len() && !is(at, ")") {
            at += 1;
        }
        at += 1;
    }
    loop {
        at += if is(at, "ON") {
            // SET NULL, SET DEFAULT and NO ACTION are two words.
            if is(at + 2, "SET") || is(at + 2, "NO") { 4 } else { 3 }
        } else if is(at, "MATCH") {
            2
        } else if is(at, "DEFERRABLE") || is(at, "NOT") && is(at + 1, "DEFERRABLE") {
            let words = if is(at, "NOT") { 2 } else { 1 };
            if is(at + words, "INITIALLY") { words + 2 } else { words }
        } else {
            return at.min(tokens.len());
        };
    }
}

/// SQL taken apart. A quote or comment that is never closed goes to the end.
fn tokens(sql: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = sql.char_indices().peekable();
    while let Some((start, first)) = rest.next() {
        let after = &sql[start..];
        let length = match first {
            _ if first.is_ascii_whitespace() => continue,
            '-' if after.starts_with("--") => {
                let end = after.find('\n').unwrap_or(after.len());
                skip(&mut rest, start + end);
                continue;
            }
            '/' if after.starts_with("/*") => {
                let end = after[2..].find("*/").map_or(after.len(), |end| end + 4);
                skip(&mut rest, start + end);
                continue;
            }
            '"' | '\'' | '`' => quoted(after, first),
            '[' => after.find(']').map_or(after.len(), |end| end + 1),
            _ if is_word(first) => after.find(|char| !is_word(char)).unwrap_or(after.len()),
            _ => first.len_utf8(),
        };
        tokens.push(Token { at: start..start + length, text: &sql[start..start + length] });
        skip(&mut rest, start + length);
    }
    tokens
}

fn skip(rest: &mut std::iter::Peekable<std::str::CharIndices<'_>>, to: usize) {
    while rest.next_if(|(at, _)| *at < to).is_some() {}
}

fn is_word(char: char) -> bool {
    char.is_ascii_alphanumeric() || char == '_' || char == '$' || !char.is_ascii()
}

/// The length of what is quoted, where the quote stands twice for itself.
fn quoted(text: &str, quote: char) -> usize {
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, char)) = chars.next() {
        if char == quote && chars.next_if(|(_, next)| *next == quote).is_none() {
            return at + 1;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_table_keeps_its_text_and_loses_its_name_and_foreign_keys() {
        for (sql, copy) in [
            ("CREATE TABLE t(a)", "(a)"),
            ("CREATE TABLE \"a \"\"b\" /* ( */ (a INT)", " /* ( */ (a INT)"),
            ("CREATE TABLE [t(]\n(a -- ,) REFERENCES\n, b)", "\n(a -- ,) REFERENCES\n, b)"),
            ("CREATE TABLE t(a INT REFERENCES p, b)", "(a INT  , b)"),
            (
                "CREATE TABLE t(a INT CONSTRAINT fk REFERENCES p(x, y) ON DELETE SET NULL NOT NULL)",
                "(a INT   NOT NULL)",
            ),
            (
                "CREATE TABLE t(a REFERENCES p ON UPDATE NO ACTION ON DELETE CASCADE MATCH FULL \
                 NOT DEFERRABLE INITIALLY DEFERRED UNIQUE)",
                "(a   UNIQUE)",
            ),
            ("CREATE TABLE t(a, FOREIGN KEY (a) REFERENCES p (x) DEFERRABLE, CHECK (a > 1))", "(a , CHECK (a > 1))"),
            ("CREATE TABLE t(a, CONSTRAINT x FOREIGN KEY(a) REFERENCES p) STRICT", "(a ) STRICT"),
            (
                "CREATE TABLE t(a DEFAULT 'REFERENCES', \"foreign\", c CHECK(c <> 'x' ))",
                "(a DEFAULT 'REFERENCES', \"foreign\", c CHECK(c <> 'x' ))",
            ),
        ] {
            assert_eq!(of_table(sql, "copy"), Some(format!("CREATE TABLE main.\"copy\"{copy}")), "{sql}");
        }
        for sql in ["CREATE TABLE a.b(c)", "CREATE VIRTUAL TABLE t USING fts5(a)", "", "CREATE TABLE t AS SELECT 1"] {
            assert_eq!(of_table(sql, "copy"), None, "{sql}");
        }
    }

    #[test]
    fn an_index_keeps_everything_behind_its_table() {
        assert_eq!(
            of_index("CREATE UNIQUE INDEX `i``` ON [t] (a COLLATE NOCASE DESC) WHERE a > 'ON t'", "c_i0", "c").unwrap(),
            "CREATE UNIQUE INDEX main.\"c_i0\" ON \"c\" (a COLLATE NOCASE DESC) WHERE a > 'ON t'"
        );
        assert_eq!(
            of_index("CREATE INDEX i ON t(lower(a))", "x", "c").unwrap(),
            "CREATE INDEX main.\"x\" ON \"c\"(lower(a))"
        );
        assert_eq!(of_index("CREATE TRIGGER i ON t(a)", "x", "c"), None);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(sql in "[a-zA-Z0-9_ ()\"'`\\[\\],/*\\-\\nÄé]{0,120}") {
            let _ = of_table(&sql, "c");
            let _ = of_table(&format!("CREATE TABLE t({sql}"), "c");
            let _ = of_index(&sql, "i", "c");
            // Every token is where it says, and none overlap.
            let tokens = tokens(&sql);
            for token in &tokens {
                prop_assert_eq!(&sql[token.at.clone()], token.text);
            }
            prop_assert!(tokens.windows(2).all(|pair| pair[0].at.end <= pair[1].at.start));
        }
    }
}
