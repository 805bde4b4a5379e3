//! Whom to ask next: pure bookkeeping over addresses, hints and refusals while a leader is looked for.

use std::collections::VecDeque;

/// The order in which coordinators are asked. A hint jumps the queue; who has refused goes to its end.
#[derive(Debug, Clone)]
pub(super) struct Candidates {
    all: Vec<String>,
    round: VecDeque<String>,
}

impl Candidates {
    /// Begins with `first`, if one is known to lead, then all in order.
    pub(super) fn new(all: &[String], first: Option<&str>) -> Self {
        let mut candidates = Self { all: all.to_vec(), round: VecDeque::new() };
        candidates.refill();
        if let Some(first) = first {
            candidates.hint(first);
        }
        candidates
    }

    /// Somebody says that this one leads: it is asked next. A farm's certificate is checked when it is called, so an
    /// address that is not in our own list is as good as one that is.
    pub(super) fn hint(&mut self, address: &str) {
        self.round.retain(|other| other != address);
        self.round.push_front(address.to_owned());
    }

    /// The next to ask; `None` when everybody was asked, which is the moment to wait. The round after that begins
    /// by itself.
    pub(super) fn next(&mut self) -> Option<String> {
        let next = self.round.pop_front();
        if next.is_none() {
            self.refill();
        }
        next
    }

    fn refill(&mut self) {
        self.round = self.all.iter().cloned().collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<String> {
        ["a", "b", "c"].map(str::to_owned).to_vec()
    }

    fn order(candidates: &mut Candidates) -> Vec<String> {
        std::iter::from_fn(|| candidates.next()).collect()
    }

    #[test]
    fn everybody_is_asked_once_a_round() {
        let mut candidates = Candidates::new(&all(), None);
        assert_eq!(order(&mut candidates), ["a", "b", "c"]);
        assert_eq!(order(&mut candidates), ["a", "b", "c"]);
    }

    #[test]
    fn the_known_leader_comes_first_and_once() {
        let mut candidates = Candidates::new(&all(), Some("b"));
        assert_eq!(order(&mut candidates), ["b", "a", "c"]);
    }

    #[test]
    fn a_hint_jumps_the_queue_even_from_outside_the_list() {
        let mut candidates = Candidates::new(&all(), None);
        assert_eq!(candidates.next().as_deref(), Some("a"));
        candidates.hint("z");
        assert_eq!(order(&mut candidates), ["z", "b", "c"]);
    }
}
