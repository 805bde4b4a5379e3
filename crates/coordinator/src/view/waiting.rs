//! Who is waited for, since when, and what ends it: the domain's list, with what the leader has heard since.

use rotation::{Rotation, Waiting};
use wire::v1;

use super::View;

impl View<'_> {
    /// Everything that a rotation waits for now.
    pub(super) fn waiting(&self, rotation: &Rotation) -> Vec<v1::Waiting> {
        rotation::waiting(self.state, rotation).into_iter().map(|waiting| self.with_hint(waiting)).collect()
    }

    fn with_hint(&self, waiting: Waiting) -> v1::Waiting {
        let hint = waiting.assignment.as_ref().and_then(|id| self.hints.get(id));
        let what = match hint {
            Some(hint) if hint.trouble.is_some() => {
                format!("{}, trying again: {}", waiting.what, hint.trouble.as_deref().unwrap_or_default())
            }
            Some(hint) if !hint.waiting_for.is_empty() => format!("{}: {}", waiting.what, hint.waiting_for),
            Some(_) | None => waiting.what,
        };
        v1::Waiting {
            node: waiting.node.map(String::from).unwrap_or_default(),
            what,
            since_ms: hint.map_or(waiting.since, |hint| hint.since).get(),
            until_ms: hint.map(|hint| hint.until).or(waiting.until).map_or(0, |until| until.get()),
        }
    }
}
