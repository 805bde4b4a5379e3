//! A rotation while it runs, where nobody watches: one bounded line for every change of where it stands or of who is waited
//! for, and for everything else that moves at most one line every few seconds.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use wire::v1;

use super::rotation::{RotationView, WaitingView};
use super::status::{moves_rows, rows_words, standing, waiting_words};
use crate::output::{date_time, duration};

/// Between two lines with nothing new but numbers and troubles: a log is read, not watched.
const PAUSE: Duration = Duration::from_secs(5);
/// Rows are spoken of at every tenth of the shards.
const SHARE_STEPS: u32 = 10;
/// At most this many of those that are waited for are named; all of a large farm would fill the screen.
const WAITING_MAX: usize = 3;
/// Of what somebody is waited for, characters. A trouble is said whole by the fault that it may end in.
const WHAT_CHARS_MAX: usize = 120;

/// What was written so far.
#[derive(Debug, Default)]
pub(super) struct Log {
    said: Option<Said>,
    /// The last remark and when it was written.
    remark: Option<(String, Instant)>,
}

/// What the last line was about.
#[derive(Debug)]
struct Said {
    at: Instant,
    change: String,
    movement: String,
    phases_ended: usize,
}

impl Log {
    /// The line for this state, if it is worth one. `since` is how long ago it was received.
    pub(super) fn line(&mut self, rotation: &v1::Rotation, since: Duration, now: Instant) -> Option<String> {
        let view = RotationView::from(rotation);
        let (change, movement) = (change(&view), movement(&view));
        let known = self.said.as_ref().map(|said| said.phases_ended);
        let worth = self.said.as_ref().is_none_or(|said| {
            let due = now.saturating_duration_since(said.at) >= PAUSE;
            said.change != change || said.phases_ended < ended(&view) || due && said.movement != movement
        });
        worth.then(|| {
            let line = line(&view, known.unwrap_or(ended(&view)), since);
            self.said = Some(Said { at: now, change, movement, phases_ended: ended(&view) });
            line
        })
    }

    /// Whether something that is said in between is news.
    pub(super) fn remark(&mut self, text: &str, now: Instant) -> bool {
        let known = |(last, at): &(String, Instant)| last == text && now.saturating_duration_since(*at) < PAUSE;
        let news = !self.remark.as_ref().is_some_and(known);
        if news {
            self.remark = Some((text.to_owned(), now));
        }
        news
    }
}

fn ended(view: &RotationView) -> usize {
    view.phases.iter().filter(|phase| phase.ended_ms.is_some()).count()
}

/// What is worth a line at once: where it stands, and by name and work who is waited for.
fn change(view: &RotationView) -> String {
    let one = |waiting: &WaitingView| format!("{}:{}", waiting.node.as_deref().unwrap_or_default(), work(waiting));
    // Shards move from node to node all the time; their share is the news. Of a rotation that has ended only that is.
    let waiting: BTreeSet<String> = if view.outcome != "running" || moves_rows(view) {
        BTreeSet::new()
    } else {
        view.waiting.iter().map(one).collect()
    };
    format!("{} {} {}", view.outcome, standing(view), waiting.into_iter().collect::<Vec<_>>().join(","))
}

/// What may wait for its line: the share of the rows, and how the work goes.
fn movement(view: &RotationView) -> String {
    let progress = &view.progress;
    if moves_rows(view) {
        return (progress.shards_done * SHARE_STEPS / progress.shards_total.max(1)).to_string();
    }
    view.waiting.iter().map(|waiting| cut(&waiting.what)).collect::<Vec<_>>().join(",")
}

/// The work alone: the leader adds what it heard of it after a comma or colon.
fn work(waiting: &WaitingView) -> &str {
    let end = waiting.what.find([',', ':']).filter(|_| waiting.node.is_some());
    &waiting.what[..end.unwrap_or(waiting.what.len())]
}

/// The one line of a change.
fn line(view: &RotationView, phases_known: usize, since: Duration) -> String {
    let now_ms = view.now_ms.saturating_add(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    let mut line = format!("{} {}", date_time(now_ms), standing(view));
    // Short phases come and go between two messages.
    let times = view.phases.iter().filter_map(|phase| Some((phase, phase.ended_ms?))).skip(phases_known);
    for (phase, ended_ms) in times {
        line.push_str(&format!("; {} took {}", phase.phase, duration(ended_ms.saturating_sub(phase.started_ms))));
    }
    if view.outcome == "running" {
        if moves_rows(view) {
            line.push_str(&format!("; rows {}", rows_words(view)));
        } else if !view.waiting.is_empty() {
            line.push_str(&format!("; waiting for {}", waiting_list(view, now_ms)));
        }
    }
    if view.downtime_ms > 0 {
        line.push_str(&format!("; downtime {}", duration(view.downtime_ms)));
    }
    line
}

fn waiting_list(view: &RotationView, now_ms: u64) -> String {
    let short = |waiting: &WaitingView| {
        let short = WaitingView { what: cut(&waiting.what), ..waiting.clone() };
        waiting_words(&short, now_ms)
    };
    let mut list: Vec<String> = view.waiting.iter().take(WAITING_MAX).map(short).collect();
    if view.waiting.len() > WAITING_MAX {
        list.push(format!("and {} more", view.waiting.len() - WAITING_MAX));
    }
    list.join(", ")
}

/// In one line and of bounded length.
fn cut(text: &str) -> String {
    let mut words = text.split_whitespace().flat_map(|word| [" ", word]).skip(1).flat_map(str::chars);
    let mut short: String = words.by_ref().take(WHAT_CHARS_MAX).collect();
    if words.next().is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(node: &str, what: &str, since_ms: u64) -> v1::Waiting {
        v1::Waiting { node: node.to_owned(), what: what.to_owned(), since_ms, until_ms: 0 }
    }

    /// Three nodes are being taken offline.
    fn quiesce() -> v1::Rotation {
        let mut rotation = v1::Rotation {
            now_ms: 1_769_868_309_000,
            phases: vec![v1::PhaseTime { name: "quiesce".to_owned(), started_ms: 1_769_868_303_000, ended_ms: 0 }],
            waiting: ["node-1", "node-2", "node-3"]
                .map(|node| waiting(node, "take-offline", 1_769_868_303_000))
                .to_vec(),
            ..Default::default()
        };
        rotation.set_outcome(v1::Outcome::Running);
        rotation.set_phase(v1::Phase::Quiesce);
        rotation
    }

    fn reencrypt(shards_done: u32) -> v1::Rotation {
        let mut rotation = quiesce();
        rotation.set_phase(v1::Phase::Reencrypt);
        rotation.phases[0].ended_ms = 1_769_868_309_500;
        rotation.phases.push(v1::PhaseTime { name: "reencrypt".to_owned(), started_ms: 1, ended_ms: 0 });
        rotation.downtime_ms = 12_000;
        rotation.progress = Some(v1::RotationProgress {
            shards_total: 60,
            shards_done,
            rows_total: 20_000,
            rows_done: 10_000,
            rows_per_second: 4567.8,
            time_left_ms: 2_200,
            ..Default::default()
        });
        rotation
    }

    /// What is written of states that arrive at these milliseconds.
    fn written(states: &[(u64, v1::Rotation)]) -> Vec<String> {
        let (mut log, begin) = (Log::default(), Instant::now());
        let line = |(at, rotation): &(u64, v1::Rotation)| {
            log.line(rotation, Duration::ZERO, begin + Duration::from_millis(*at))
        };
        states.iter().filter_map(line).collect()
    }

    #[test]
    fn a_change_of_phase_is_a_line_that_says_how_long_the_last_one_took() {
        assert_eq!(
            written(&[(0, quiesce()), (100, reencrypt(30))]),
            [
                "2026-01-31 14:05:09Z quiesce; waiting for node-1 (take-offline, 6.0s), node-2 (take-offline, 6.0s), \
                 node-3 (take-offline, 6.0s)",
                "2026-01-31 14:05:09Z reencrypt; quiesce took 6.5s; rows 10,000 of 20,000, 30 of 60 shards, 4,567/s, \
                 2.2s left; downtime 12s",
            ]
        );
    }

    #[test]
    fn clocks_are_no_change_and_names_works_and_pauses_are() {
        let state = |change: fn(&mut v1::Rotation)| {
            let mut state = quiesce();
            change(&mut state);
            state
        };
        let count = |change: fn(&mut v1::Rotation)| written(&[(0, quiesce()), (60_000, state(change))]).len();
        assert_eq!(count(|state| state.now_ms += 60_000), 1);
        assert_eq!(count(|state| state.waiting.iter_mut().for_each(|one| one.since_ms += 1)), 1);
        assert_eq!(count(|state| state.waiting.reverse()), 1);
        let at_once = |change: fn(&mut v1::Rotation)| written(&[(0, quiesce()), (1, state(change))]).len();
        assert_eq!(at_once(|state| drop(state.waiting.pop())), 2);
        assert_eq!(at_once(|state| state.waiting[0].what = "drain".to_owned()), 2);
        assert_eq!(at_once(|state| state.paused = true), 2);
    }

    #[test]
    fn whatever_else_moves_is_a_line_every_five_seconds_at_most() {
        let troubled = |attempt: u64| {
            let mut state = quiesce();
            state.waiting[1].what = format!("take-offline, trying again: attempt {attempt} failed");
            state
        };
        let states: Vec<_> = (0..100).map(|number| (number * 150, troubled(number))).collect();
        assert_eq!(written(&states).len(), 3, "at 0 s, 5 s and 10 s");
        let shares: Vec<_> = (0..60).map(|shard| (u64::from(shard) * 200, reencrypt(shard))).collect();
        assert_eq!(written(&shares).len(), 3);
        assert_eq!(written(&[(0, reencrypt(30)), (60_000, reencrypt(31))]).len(), 1, "less than a tenth");
    }

    #[test]
    fn lines_are_bounded_whatever_goes_wrong_on_however_many_nodes() {
        let mut state = quiesce();
        let trouble = "take-offline, trying again: it said\nsomething ".to_owned() + &"very long ".repeat(500);
        state.waiting = (0..256).map(|number| waiting(&format!("node-{number}"), &trouble, 1)).collect();
        let [line] = &written(&[(0, state)])[..] else { panic!("one line") };
        assert!(line.ends_with(", and 253 more"), "{line}");
        assert!(line.chars().count() < 3 * (WHAT_CHARS_MAX + 60), "{line}");
        assert!(line.contains("it said something very") && line.contains('…') && !line.contains('\n'), "{line}");
    }

    #[test]
    fn the_same_remark_is_not_made_again_and_again() {
        let (mut log, begin) = (Log::default(), Instant::now());
        assert!(log.remark("lost", begin));
        assert!(!log.remark("lost", begin + Duration::from_secs(4)));
        assert!(log.remark("found", begin + Duration::from_secs(4)));
        assert!(log.remark("lost", begin + Duration::from_secs(5)));
    }
}
