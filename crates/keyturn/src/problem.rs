//! What an operator sees when something goes wrong: a code, what was being done, the causes, and what to do next.

use std::error::Error;
use std::fmt::Write as _;

use crate::exit::Exit;
use crate::output::Paint;

/// No error has more causes than this; the limit ends a chain that points at itself.
const CAUSES_MAX: usize = 16;

/// An expected failure of a verb. Holds no secret.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Problem {
    /// Stable, for scripts: `wrong-password`.
    pub(crate) code: String,
    /// What was being done, naming the thing.
    pub(crate) message: String,
    /// Why, outermost first.
    pub(crate) causes: Vec<String>,
    /// What to do now.
    pub(crate) next_step: String,
    /// The exit code it leads to.
    pub(crate) exit: Exit,
}

impl Problem {
    fn new(exit: Exit, code: &str, message: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), causes: Vec::new(), next_step: next_step.into(), exit }
    }

    /// Refused or failed, with nothing left to undo.
    pub(crate) fn refused(code: &str, message: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self::new(Exit::Refused, code, message, next_step)
    }

    /// Something is half done, and an operator is needed.
    pub(crate) fn stuck(code: &str, message: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self::new(Exit::Stuck, code, message, next_step)
    }

    /// The command line was wrong in a way that only shows when it is carried out.
    pub(crate) fn usage(message: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", message, next_step)
    }

    /// Nobody answered, or nobody leads.
    pub(crate) fn unreachable(code: &str, message: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self::new(Exit::Unreachable, code, message, next_step)
    }

    /// Says why: the error and everything below it.
    #[must_use]
    pub(crate) fn because(mut self, error: &(dyn Error + 'static)) -> Self {
        self.causes.extend(causes(error));
        self
    }

    /// The text for standard error.
    pub(crate) fn render(&self, paint: Paint) -> String {
        let mut text = format!("{}: {}", paint.red(&format!("error[{}]", self.code)), self.message);
        for cause in &self.causes {
            // Writing to a String cannot fail.
            let _ = write!(text, "\n  because: {cause}");
        }
        if !self.next_step.is_empty() {
            let _ = write!(text, "\n  {} {}", paint.bold("next:"), self.next_step);
        }
        text
    }
}

/// The messages of an error and of everything below it, without repetitions.
pub(crate) fn causes(error: &(dyn Error + 'static)) -> Vec<String> {
    let mut list: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next.filter(|_| list.len() < CAUSES_MAX) {
        let text = error.to_string();
        // Some libraries repeat their source in their own message.
        if list.last().is_none_or(|last| !last.ends_with(&text)) {
            list.push(text);
        }
        next = error.source();
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_problem_shows_code_causes_and_next_step() {
        let error = Outer(std::io::Error::other("inner"));
        let problem = Problem::refused("no-file", "a.bundle cannot be read", "give the file's path").because(&error);
        assert_eq!(
            problem.render(Paint::plain()),
            "error[no-file]: a.bundle cannot be read\n  because: outer\n  because: inner\n  next: give the file's path"
        );
        assert_eq!(problem.exit.code(), 1);
    }
}
