//! `farm.json`: where everything of a kept demo is, so that another program can check the result.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::{Value, json};
use wire::v1;

use super::summary::Summary;
use crate::farm::layout::{FARM, https, write_private};
use crate::farm::{Farm, path_text};
use crate::server::Kept;
use crate::tables::TABLES;

/// What the rotation's report says, as a script gets it; for as long as somebody can be asked.
pub(super) async fn fetch_report(farm: &Farm, rotation: &v1::Rotation) -> anyhow::Result<String> {
    farm.verbs.operate(["rotation", "report", rotation.id.as_str(), "-o", "json"]).await
}

/// Leaves the database, the report and the result, and writes the index. The farm's processes have ended.
pub(super) async fn write(farm: &Farm, rotation: &v1::Rotation, report: &str, summary: &Summary) -> anyhow::Result<()> {
    write_private(&farm.layout.report(), report.as_bytes())?;
    write_private(&farm.layout.result(), summary.json()?.as_bytes())?;
    let text = |path: PathBuf| path_text(path).map(Value::from);
    let (mut file, mut dump, mut name) = (Value::Null, Value::Null, Value::Null);
    match farm.database.keep(farm.layout.root()).await? {
        Kept::File(path) => file = text(path)?,
        Kept::Dump(path) => dump = text(path)?,
        Kept::OnServer(database) => name = database.into(),
    }
    let rows: BTreeMap<&str, u64> = TABLES.iter().map(|table| table.name).zip(farm.size.counts.0).collect();
    let mut nodes = Vec::new();
    for node in &farm.nodes {
        nodes.push(json!({
            "id": node.id.as_str(),
            "address": https(node.reach),
            "agent_config": text(node.config())?,
            "store": text(node.store())?,
            "encryption_config": text(node.store().join("encryption.config"))?,
            "hostkey": text(node.hostkey())?,
            "state": text(node.state())?,
            "instance": text(node.instance_folder())?,
        }));
    }
    let mut coordinators = Vec::new();
    for coordinator in &farm.coordinators {
        coordinators.push(json!({
            "id": coordinator.id,
            "address": https(coordinator.reach),
            "config": text(coordinator.config())?,
            "data": text(coordinator.data())?,
        }));
    }
    let index = json!({
        "format": "keyturn-demo",
        "version": 1,
        "farm": FARM,
        "outcome": summary.outcome,
        "rotation": rotation.id,
        "old_key": rotation.old_key,
        "new_key": rotation.new_key,
        "database_kind": farm.database.kind(),
        // One of the three: SQLite's file, the server's dump, or the database's name on somebody's server.
        "database_file": file,
        "database_dump": dump,
        "database_name": name,
        "rows": rows,
        "targets": text(farm.layout.targets())?,
        "old_bundle": text(farm.layout.current_bundle())?,
        "old_bundle_password_file": text(farm.layout.password_file())?,
        "new_bundle": text(farm.layout.new_bundle())?,
        "new_bundle_password_file": text(farm.layout.password_file())?,
        "nodes": nodes,
        "coordinators": coordinators,
        "operator_config": text(farm.layout.operator_config())?,
        "pki": text(farm.layout.pki())?,
        "logs": text(farm.layout.logs())?,
        "report": text(farm.layout.report())?,
        "result": text(farm.layout.result())?,
    });
    let index = serde_json::to_string_pretty(&index).context("composing farm.json")?;
    write_private(&farm.layout.index(), index.as_bytes())
}
