//! Colour, where there is somebody to see it: a terminal, without `NO_COLOR`.

use std::io::IsTerminal;

/// Every code that is written here.
pub(super) const CODES: [&str; 5] = ["0", "1", "1;31", "32", "33"];

/// Paints text, or leaves it as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Paint {
    coloured: bool,
}

impl Paint {
    /// For standard error.
    pub(crate) fn stderr() -> Self {
        Self { coloured: std::io::stderr().is_terminal() && allowed() }
    }

    /// For standard output.
    pub(crate) fn stdout() -> Self {
        Self { coloured: std::io::stdout().is_terminal() && allowed() }
    }

    /// Never any colour.
    #[cfg(test)]
    pub(crate) const fn plain() -> Self {
        Self { coloured: false }
    }

    /// Whether there is any colour.
    pub(crate) const fn is_coloured(self) -> bool {
        self.coloured
    }

    fn wrap(self, code: &str, text: &str) -> String {
        debug_assert!(CODES.contains(&code), "{code} would be withheld");
        if self.coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Something failed.
    pub(crate) fn red(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    /// Something is well.
    pub(crate) fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// Something deserves attention.
    pub(crate) fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }

    /// Something stands out.
    pub(crate) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }
}

/// `NO_COLOR` forbids colour when it is set to anything but nothing (no-color.org); a dumb terminal cannot show it.
fn allowed() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
}
