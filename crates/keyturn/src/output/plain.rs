//! Text that a terminal only shows. Names, messages and plans come from elsewhere, and a terminal obeys what some
//! characters say: move up, clear, write over the line that was just read.

use super::paint::CODES;

/// Stands for a character that is not shown.
pub(super) const WITHHELD: char = '\u{fffd}';

/// The text without characters that a terminal obeys, but for line ends, tabs and colours.
pub(crate) fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let length = colour_length(rest).unwrap_or(character.len_utf8());
        if length > 1 && character == '\x1b' || is_harmless(character) {
            shown.push_str(&rest[..length]);
        } else {
            shown.push(WITHHELD);
        }
        rest = &rest[length..];
    }
    shown
}

/// How long the colour is that the text begins with, if it is one that [`super::Paint`] writes: another could hide what
/// follows.
fn colour_length(text: &str) -> Option<usize> {
    let rest = text.strip_prefix("\x1b[")?;
    let begins = |code: &&&str| rest.strip_prefix(**code).is_some_and(|after| after.starts_with('m'));
    CODES.iter().find(begins).map(|code| code.len() + "\x1b[m".len())
}

fn is_harmless(character: char) -> bool {
    let reorders = matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    matches!(character, '\n' | '\t') || !character.is_control() && !reorders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_withheld() {
        assert_eq!(plain("node-1\tis höld …\n"), "node-1\tis höld …\n");
        assert_eq!(plain("\x1b[1;31merror\x1b[0m"), "\x1b[1;31merror\x1b[0m", "our own colours");
        assert_eq!(plain("\x1b[8mhidden"), "\u{fffd}[8mhidden");
        assert_eq!(plain("bad\x1b[2A\x1b[Jgood"), "bad\u{fffd}[2A\u{fffd}[Jgood");
        assert_eq!(plain("\x1b]0;title\x07\r\u{9b}2J\x1b"), "\u{fffd}]0;title\u{fffd}\u{fffd}\u{fffd}2J\u{fffd}");
        assert_eq!(plain("a\u{202e}b"), "a\u{fffd}b");
        assert_eq!(plain("\x1b["), "\u{fffd}[");
    }
}
