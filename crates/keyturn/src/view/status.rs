//! A rotation for people: where it stands, who is waited for, since when, and what went wrong.

use wire::v1;

use super::rotation::{BudgetView, RotationView, WaitingView};
use crate::output::{Paint, Table, counted, date_time, duration, fields, thousands};

/// Everything about one rotation.
pub(crate) fn status_text(rotation: &v1::Rotation, paint: Paint) -> String {
    let view = RotationView::from(rotation);
    let mut parts = vec![head(rotation, &view, paint)];
    if !view.waiting.is_empty() {
        let mut table = Table::new(&["WAITING-FOR", "SINCE", "GIVES-UP-IN", "WHAT"]);
        for waiting in &view.waiting {
            let left = waiting.until_ms.map(|until| duration(until.saturating_sub(view.now_ms)));
            table.row([
                waiting.node.clone().unwrap_or_else(|| "operator".to_owned()),
                duration(view.now_ms.saturating_sub(waiting.since_ms)),
                left.unwrap_or_else(|| "never".to_owned()),
                waiting.what.clone(),
            ]);
        }
        parts.push(table.render());
    }
    if !view.nodes.is_empty() {
        let mut table = Table::new(&["NODE", "KEY", "STATE", "OFFLINE-SINCE", "ADMITTED", "CANARY"]);
        for node in &view.nodes {
            table.row([
                node.id.clone(),
                node.key_after.clone().or_else(|| node.key_before.clone()).unwrap_or_default(),
                node_state(node).to_owned(),
                date_time(node.offline_at_ms.unwrap_or(0)),
                date_time(node.admitted_at_ms.unwrap_or(0)),
                if node.canary_ok { "ok" } else { "" }.to_owned(),
            ]);
        }
        parts.push(table.render());
    }
    if !view.phases.is_empty() {
        let mut table = Table::new(&["PHASE", "STARTED", "TOOK"]);
        for phase in &view.phases {
            let took = phase.ended_ms.map(|ended| duration(ended.saturating_sub(phase.started_ms)));
            table.row([phase.phase.clone(), date_time(phase.started_ms), took.unwrap_or_default()]);
        }
        parts.push(table.render());
    }
    let faults = faults_text(rotation, paint);
    if !faults.is_empty() {
        parts.push(faults);
    }
    parts.join("\n\n")
}

fn node_state(node: &super::rotation::NodeView) -> &'static str {
    match (node.held, node.offline_at_ms, node.admitted_at_ms) {
        (true, _, _) => "held",
        (false, Some(_), None) => "offline",
        (false, Some(_), Some(_)) => "admitted",
        (false, None, _) => "serving",
    }
}

fn head(rotation: &v1::Rotation, view: &RotationView, paint: Paint) -> String {
    let standing = standing(view);
    let standing = match rotation.outcome() {
        v1::Outcome::Completed => paint.green(&standing),
        v1::Outcome::Stuck => paint.red(&standing),
        v1::Outcome::RolledBack | v1::Outcome::Refused => paint.yellow(&standing),
        v1::Outcome::Unspecified | v1::Outcome::Running | v1::Outcome::Withdrawn => standing,
    };
    let mut list = vec![
        ("Rotation", view.id.clone()),
        ("Standing", standing),
        ("Requested", format!("{} by {}", date_time(view.requested_at_ms), view.requested_by)),
    ];
    if let Some(ended) = view.ended_at_ms {
        list.push(("Ended", date_time(ended)));
    }
    list.push(("Old key", view.old_key.clone().unwrap_or_default()));
    list.push(("New key", view.new_key.clone().unwrap_or_default()));
    if moves_rows(view) {
        list.push(("Rows", rows_words(view)));
    }
    if let Some(limit) = view.throttle_rows_per_second.filter(|_| view.ended_at_ms.is_none()) {
        list.push(("Throttle", format!("at most {} a second", counted(limit.into(), "row"))));
    }
    if view.downtime_ms > 0 {
        list.push(("Downtime", duration(view.downtime_ms)));
    }
    if let Some(forecast) = view.downtime_forecast_ms {
        let throttled = if view.throttle_rows_per_second.is_some() { " at this throttle" } else { "" };
        list.push(("Forecast", format!("about {} offline{throttled}", duration(forecast))));
    }
    list.extend(view.budget.map(|budget| ("Budget", budget_words(&budget, view.now_ms))));
    list.extend(kept(view).map(|words| ("Kept", words)));
    if view.leader_changes > 0 {
        list.push(("Leader changes", view.leader_changes.to_string()));
    }
    if !view.next_steps.is_empty() {
        list.push(("What to do", view.next_steps.join("\n")));
    }
    fields(&list)
}

/// Which original tables are still kept, or when they were dropped; nothing where there were none.
pub(super) fn kept(view: &RotationView) -> Option<String> {
    if let Some(at) = view.retired_at_ms {
        return Some(format!("nothing; the original tables were dropped {}", date_time(at)));
    }
    let tables = view.kept_tables.join(", ");
    let retire = match &view.retired_by {
        Some(by) => format!("being dropped, asked for by {by}"),
        None => format!("until `keyturn rotation retire {}`", view.id),
    };
    (!tables.is_empty()).then(|| format!("the originals of {tables}; {retire}"))
}

/// `20m, 3m used, 17m left; 6m to go, 4m back; undone in 12m unless the way forward is shorter by then`.
pub(super) fn budget_words(budget: &BudgetView, now_ms: u64) -> String {
    let mut words = duration(budget.max_downtime_ms);
    if budget.used_ms > 0 {
        let left = match budget.used_ms.checked_sub(budget.max_downtime_ms) {
            Some(over) if over > 0 => format!("exceeded by {}", duration(over)),
            Some(_) | None => format!("{} left", duration(budget.left_ms)),
        };
        words.push_str(&format!(", {} used, {left}", duration(budget.used_ms)));
    }
    if let (Some(forward), Some(back)) = (budget.forward_ms, budget.back_ms) {
        words.push_str(&format!("; {} to go, {} back", duration(forward), duration(back)));
    }
    let then = match (budget.turns_back_at_ms, budget.spent_at_ms, budget.on_budget) {
        (_, Some(_), "continue") => "could not be kept, and going on as was asked for".to_owned(),
        (_, Some(_), _) => "would not have been kept, so it was undone".to_owned(),
        (Some(at), None, "continue") => {
            format!(
                "cannot be kept any more in {} unless the way forward is shorter by then",
                duration(at.saturating_sub(now_ms))
            )
        }
        (Some(at), None, _) => {
            format!("undone in {} unless the way forward is shorter by then", duration(at.saturating_sub(now_ms)))
        }
        (None, None, "continue") if budget.used_ms == 0 => "goes on if it is exceeded".to_owned(),
        (None, None, _) if budget.used_ms == 0 => "undone in time to be back within it".to_owned(),
        (None, None, _) => return words,
    };
    format!("{words}; {then}")
}

/// `reencrypt`, `undo:restore-rows (from verify), paused`, `completed`.
pub(super) fn standing(view: &RotationView) -> String {
    let place = match &view.undo_step {
        Some(step) => format!("undo:{step} (from {})", view.phase),
        // The phase is reached before the rotation has ended: its evidence is still being written.
        None if view.phase == "completed" => "completing".to_owned(),
        None => view.phase.to_owned(),
    };
    let paused = if view.paused { ", paused" } else { "" };
    match view.outcome {
        "running" => format!("{place}{paused}"),
        "stuck" => format!("stuck at {place}"),
        "completed" => "completed".to_owned(),
        ended => format!("{} ({place})", ended.replace('_', " ")),
    }
}

/// Whether rows are being read or written now; only then is their progress news.
pub(super) fn moves_rows(view: &RotationView) -> bool {
    let moving = match &view.undo_step {
        Some(step) => matches!(step.as_str(), "restore-rows" | "verify-rows"),
        None => matches!(view.phase, "reencrypt" | "verify"),
    };
    moving && view.outcome == "running" && view.progress.shards_total > 0
}

/// `12,345 of 20,000, 31 of 60 shards, 4,567/s, 2s left`.
pub(super) fn rows_words(view: &RotationView) -> String {
    let progress = &view.progress;
    let mut words = format!(
        "{} of {}, {} of {}",
        thousands(progress.rows_done),
        thousands(progress.rows_total),
        progress.shards_done,
        counted(progress.shards_total.into(), "shard")
    );
    if view.outcome == "running" && progress.rows_per_second >= 1.0 {
        // Cut to whole rows: a fraction of a row per second says nothing.
        words.push_str(&format!(", {}/s", thousands(progress.rows_per_second as u64)));
    }
    if let Some(left) = progress.time_left_ms.filter(|_| view.outcome == "running") {
        words.push_str(&format!(", {} left", duration(left)));
    }
    words
}

/// `node-2 (take-offline, 3s, gives up in 26s)`.
pub(super) fn waiting_words(waiting: &WaitingView, now_ms: u64) -> String {
    let since = duration(now_ms.saturating_sub(waiting.since_ms));
    let until = match waiting.until_ms {
        Some(until) => format!(", gives up in {}", duration(until.saturating_sub(now_ms))),
        None => String::new(),
    };
    match &waiting.node {
        Some(node) => format!("{node} ({}, {since}{until})", waiting.what),
        // Its words say whom.
        None => format!("{} ({since}{until})", waiting.what),
    }
}

/// What went wrong, newest last, each with its next step; empty when nothing did.
pub(crate) fn faults_text(rotation: &v1::Rotation, paint: Paint) -> String {
    rotation.faults.iter().map(|fault| fault_text(fault, paint)).collect::<Vec<_>>().join("\n")
}

/// One fault: code, node, message, next step.
pub(super) fn fault_text(fault: &v1::Fault, paint: Paint) -> String {
    let place = if fault.node.is_empty() { String::new() } else { format!(" on {}", fault.node) };
    let mut text = format!("{}{place}: {}", paint.red(&format!("fault[{}]", fault.code)), fault.message);
    if !fault.next_step.is_empty() {
        text.push_str(&format!("\n  {} {}", paint.bold("next:"), fault.next_step));
    }
    text
}

/// What a verb that waited for the end prints: a few lines.
pub(crate) fn summary_text(rotation: &v1::Rotation, paint: Paint) -> String {
    let view = RotationView::from(rotation);
    let progress = &view.progress;
    let mut list = vec![("Rotation", view.id.clone()), ("Standing", standing(&view))];
    let rows: u64 = progress.tables.iter().map(|table| table.rows).sum();
    match rotation.outcome() {
        v1::Outcome::Completed => {
            list.push(("Rows", format!("{} of {} verified", thousands(progress.rows_verified), thousands(rows))));
            list.push(("Key", format!("{} -> {}", rotation.old_key, rotation.new_key)));
        }
        v1::Outcome::RolledBack => list.push(("Key", rotation.old_key.clone())),
        v1::Outcome::Unspecified
        | v1::Outcome::Running
        | v1::Outcome::Refused
        | v1::Outcome::Withdrawn
        | v1::Outcome::Stuck => {}
    }
    if view.downtime_ms > 0 {
        list.push(("Downtime", duration(view.downtime_ms)));
    }
    list.extend(kept(&view).map(|words| ("Kept", words)));
    let held: Vec<&str> = view.nodes.iter().filter(|node| node.held).map(|node| node.id.as_str()).collect();
    if !held.is_empty() {
        list.push(("Held", format!("{}: kept offline until they have followed", held.join(", "))));
    }
    if !view.next_steps.is_empty() {
        list.push(("What to do", view.next_steps.join("\n")));
    }
    let head = fields(&list);
    let faults = faults_text(rotation, paint);
    if faults.is_empty() { head } else { format!("{head}\n\n{faults}") }
}
