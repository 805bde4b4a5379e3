//! A rotation while it runs, on standard error: on a terminal a few lines that are drawn again and again, elsewhere a log.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use rotation::Phase;
use wire::v1;

use super::log::Log;
use super::rotation::RotationView;
use super::status::{fault_text, moves_rows, rows_words, standing, waiting_words};
use crate::output::{Paint, duration, plain};

/// Width of the bar, characters.
const BAR_CHARS: usize = 30;
/// How much further the rest of a broken line is indented.
const INDENT: usize = 2;
/// When the terminal does not tell its width.
const WIDTH_DEFAULT: usize = 100;
/// At most this many of those that are waited for are named; a large farm would fill the screen.
const WAITING_MAX: usize = 5;

/// Shows a rotation while it runs.
#[derive(Debug)]
pub(crate) struct Live {
    terminal: bool,
    paint: Paint,
    /// How many lines stand on the screen and are to be drawn over.
    drawn: usize,
    /// What was written when it is no terminal.
    log: Log,
    shown: Option<Shown>,
}

/// What was shown last.
#[derive(Debug)]
struct Shown {
    rotation: v1::Rotation,
    received: Instant,
}

impl Live {
    /// On standard error, as a terminal if it is one.
    pub(crate) fn new() -> Self {
        Self {
            terminal: io::stderr().is_terminal(),
            paint: Paint::stderr(),
            drawn: 0,
            log: Log::default(),
            shown: None,
        }
    }

    /// Shows how it stands now.
    pub(crate) fn update(&mut self, rotation: &v1::Rotation) {
        let before = self.shown.as_ref().map(|shown| shown.rotation.faults.as_slice()).unwrap_or_default();
        let news: Vec<String> =
            new_faults(before, &rotation.faults).iter().map(|fault| fault_text(fault, self.paint)).collect();
        let now = Instant::now();
        self.shown = Some(Shown { rotation: rotation.clone(), received: now });
        if self.terminal {
            self.draw(&news);
        } else {
            let line = self.log.line(rotation, Duration::ZERO, now);
            let text: String = line.into_iter().chain(news).map(|line| line + "\n").collect();
            self.write(&plain(&text));
        }
    }

    /// On a terminal draws again with the clocks moved on; elsewhere writes the line that had to wait for its time.
    pub(crate) fn tick(&mut self) {
        let Some(shown) = &self.shown else { return };
        if self.terminal {
            self.draw(&[]);
        } else if let Some(line) = self.log.line(&shown.rotation, shown.received.elapsed(), Instant::now()) {
            self.write(&plain(&(line + "\n")));
        }
    }

    /// Says something in between, for example that the connection was lost.
    pub(crate) fn say(&mut self, text: &str) {
        if self.terminal {
            self.draw(&[text.to_owned()]);
        } else if self.log.remark(text, Instant::now()) {
            self.write(&plain(&format!("{text}\n")));
        }
    }

    /// Draws the lines anew, with `above` left standing over them.
    fn draw(&mut self, above: &[String]) {
        let width = terminal_size::terminal_size_of(io::stderr()).map_or(WIDTH_DEFAULT, |(width, _)| width.0.into());
        let lines = self.shown.as_ref().map(|shown| {
            let since = u64::try_from(shown.received.elapsed().as_millis()).unwrap_or(u64::MAX);
            lines(&shown.rotation, since)
        });
        let lines: Vec<String> = lines.into_iter().flatten().flat_map(|line| wrap(&line, width)).collect();
        let mut text = String::new();
        if self.drawn > 0 {
            // Up to the first of our lines, and clear to the end of the screen.
            text.push_str(&format!("\x1b[{}A\r\x1b[J", self.drawn));
        }
        for line in above.iter().chain(&lines) {
            text.push_str(&plain(line));
            text.push('\n');
        }
        self.drawn = lines.len();
        self.write(&text);
    }

    fn write(&self, text: &str) {
        let mut out = io::stderr().lock();
        // Whoever closed standard error does not want to see it.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

/// Breaks a line at its blanks so that the terminal does not: it would take up more lines than are counted. What goes on
/// is indented further.
fn wrap(line: &str, width: usize) -> Vec<String> {
    let indent = line.len() - line.trim_start().len();
    let further = " ".repeat(indent + INDENT);
    // The last column stays free, or some terminals break there by themselves.
    let room = width.saturating_sub(1).max(further.len() + 1);
    let mut lines = vec![String::new()];
    for word in line.split_inclusive(' ') {
        let mut word: Vec<char> = word.chars().collect();
        while !word.is_empty() {
            let current = lines.last_mut().expect("there is always a line");
            let used = current.chars().count();
            let visible = word.iter().rposition(|c| *c != ' ').map_or(0, |last| last + 1);
            if used + visible <= room {
                current.extend(word.drain(..));
            } else if used > further.len() {
                lines.push(further.clone());
            } else {
                // Longer than a line: cut where the line ends.
                current.extend(word.drain(..room - used));
            }
        }
    }
    lines.iter().map(|line| line.trim_end().to_owned()).collect()
}

/// Faults of `after` that are not in `before`. The list is capped from its front, and a fault that repeats moves to its end,
/// so they are told apart by content.
fn new_faults<'a>(before: &[v1::Fault], after: &'a [v1::Fault]) -> Vec<&'a v1::Fault> {
    after.iter().filter(|fault| !before.contains(fault)).collect()
}

/// The lines of a terminal, `since_ms` after the state was received.
fn lines(rotation: &v1::Rotation, since_ms: u64) -> Vec<String> {
    let view = RotationView::from(rotation);
    let now_ms = view.now_ms.saturating_add(since_ms);
    let running = view.outcome == "running";
    let mut first = format!("{}   {}", view.id, standing(&view));
    if view.downtime_ms > 0 {
        let offline =
            running && view.nodes.iter().any(|node| node.offline_at_ms.is_some() && node.admitted_at_ms.is_none());
        let downtime = if offline { view.downtime_ms.saturating_add(since_ms) } else { view.downtime_ms };
        first.push_str(&format!("   downtime {}", duration(downtime)));
    }
    let mut lines = vec![first, format!("  {}", way(&view, now_ms))];
    if moves_rows(&view) {
        let progress = &view.progress;
        let done = u64::from(progress.shards_done).max(progress.rows_done);
        let total = if progress.rows_total > 0 { progress.rows_total } else { u64::from(progress.shards_total) };
        lines.push(format!("  {}   {}", bar(done, total), rows_words(&view)));
    }
    if running && !view.waiting.is_empty() {
        lines.push(format!("  waiting for {}", waiting_list(&view, now_ms)));
    }
    lines
}

fn waiting_list(view: &RotationView, now_ms: u64) -> String {
    let mut list: Vec<String> =
        view.waiting.iter().take(WAITING_MAX).map(|waiting| waiting_words(waiting, now_ms)).collect();
    if view.waiting.len() > WAITING_MAX {
        list.push(format!("and {} more", view.waiting.len() - WAITING_MAX));
    }
    list.join(", ")
}

/// The phases gone through with their times, the present one, and those still to come.
fn way(view: &RotationView, now_ms: u64) -> String {
    let mut words: Vec<String> = view
        .phases
        .iter()
        .map(|phase| match phase.ended_ms {
            Some(ended) => format!("{} {}", phase.phase, duration(ended.saturating_sub(phase.started_ms))),
            None => format!(">{} {}", phase.phase, duration(now_ms.saturating_sub(phase.started_ms))),
        })
        .collect();
    if view.outcome == "running" && view.undo_step.is_none() {
        let place = Phase::ALL.iter().position(|phase| phase.as_str() == view.phase).unwrap_or(Phase::ALL.len());
        words.extend(Phase::ALL.iter().skip(place + 1).map(|phase| format!("({})", phase.as_str())));
    }
    words.join("  ")
}

fn bar(done: u64, total: u64) -> String {
    let done = done.min(total);
    // Nothing to do is none of it done.
    let part = |of: usize| usize::try_from(done * of as u64 / total.max(1)).unwrap_or(of);
    let (filled, percent) = (part(BAR_CHARS), part(100));
    format!("[{}{}] {percent:3} %", "#".repeat(filled), "-".repeat(BAR_CHARS - filled))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rotation() -> v1::Rotation {
        let mut rotation = v1::Rotation {
            id: "01890a5d".to_owned(),
            now_ms: 1_769_868_309_000,
            downtime_ms: 12_000,
            nodes: vec![v1::RotationNode { id: "node-1".to_owned(), offline_at_ms: 1, ..Default::default() }],
            phases: vec![
                v1::PhaseTime {
                    name: "quiesce".to_owned(),
                    started_ms: 1_769_868_300_000,
                    ended_ms: 1_769_868_303_000,
                },
                v1::PhaseTime { name: "reencrypt".to_owned(), started_ms: 1_769_868_303_000, ended_ms: 0 },
            ],
            waiting: vec![v1::Waiting {
                node: "node-2".to_owned(),
                what: "reencrypt-shard".to_owned(),
                since_ms: 1_769_868_305_000,
                until_ms: 1_769_868_319_000,
            }],
            progress: Some(v1::RotationProgress {
                shards_total: 60,
                shards_done: 30,
                rows_total: 20_000,
                rows_done: 10_000,
                rows_per_second: 4567.8,
                time_left_ms: 2_200,
                ..Default::default()
            }),
            ..Default::default()
        };
        rotation.set_outcome(v1::Outcome::Running);
        rotation.set_phase(v1::Phase::Reencrypt);
        rotation
    }

    #[test]
    fn a_terminal_shows_phase_rows_speed_time_left_downtime_and_who_is_waited_for() {
        assert_eq!(
            lines(&rotation(), 1_000),
            [
                "01890a5d   reencrypt   downtime 13s",
                "  quiesce 3.0s  >reencrypt 7.0s  (verify)  (activate)  (start)  (admit)  (completed)",
                "  [###############---------------]  50 %   10,000 of 20,000, 30 of 60 shards, 4,567/s, 2.2s left",
                "  waiting for node-2 (reencrypt-shard, 5.0s, gives up in 9.0s)",
            ]
        );
    }

    #[test]
    fn only_new_faults_are_shown_even_when_the_list_is_capped() {
        let fault = |text: &str| v1::Fault { message: text.to_owned(), ..Default::default() };
        let check = |before: &[&str], after: &[&str], wanted: &[&str]| {
            let faults = |texts: &[&str]| texts.iter().map(|text| fault(text)).collect::<Vec<_>>();
            let (before, after) = (faults(before), faults(after));
            let new: Vec<&str> = new_faults(&before, &after).into_iter().map(|fault| &*fault.message).collect();
            assert_eq!(new, wanted);
        };
        check(&[], &["a"], &["a"]);
        check(&["a"], &["a"], &[]);
        check(&["a"], &["a", "b"], &["b"]);
        check(&["a", "b"], &["b", "c"], &["c"]);
        // One that repeats.
        check(&["a", "b"], &["b", "a"], &[]);
    }

    #[test]
    fn lines_are_broken_before_the_terminal_breaks_them() {
        assert_eq!(wrap("  one two three", 80), ["  one two three"]);
        assert_eq!(wrap("  one two three", 11), ["  one two", "    three"]);
        assert_eq!(wrap("  https://a-long-address", 12), ["  https://a", "    -long-a", "    ddress"]);
        assert_eq!(wrap("abc def", 1), ["abc", "  d", "  e", "  f"]);
        assert_eq!(wrap("", 80), [""]);
    }

    #[test]
    fn an_undo_shows_its_step_and_promises_no_phases() {
        let mut rotation = rotation();
        rotation.undo_step = "restore-rows".to_owned();
        let lines = lines(&rotation, 0);
        assert_eq!(lines[0], "01890a5d   undo:restore-rows (from reencrypt)   downtime 12s");
        assert!(!lines[1].contains("(verify)"), "{}", lines[1]);
    }
}
