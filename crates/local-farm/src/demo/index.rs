//! `farm.json`: where everything of a kept demo is, so that another program can check the result.

use anyhow::Context as _;
use serde_json::{Value, json};
use wire::v1;

use super::summary::Summary;
use crate::farm::layout::{FARM, https, write_private};
use crate::farm::{Farm, path_text};
use crate::tables::TABLES;

/// Leaves the database and the report, and writes the index.
pub(super) async fn write(farm: &Farm, rotation: &v1::Rotation, summary: &Summary) -> anyhow::Result<()> {
    let report = farm.verbs.operate(["rotation", "report", rotation.id.as_str(), "-o", "json"]).await?;
    write_private(&farm.layout.report(), report.as_bytes())?;
    let database = farm.database.keep(farm.layout.root()).await?;
    let text = |path: std::path::PathBuf| path_text(path).map(Value::from);
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
        "database": { "kind": farm.database.kind(), "at": database },
        "rows": TABLES.iter().zip(farm.size.counts.0).map(|(table, rows)| (table.name, rows)).collect::<std::collections::BTreeMap<_, _>>(),
        "targets": text(farm.layout.targets())?,
        "bundles": {
            "current": text(farm.layout.current_bundle())?,
            "new": text(farm.layout.new_bundle())?,
            "password_file": text(farm.layout.password_file())?,
        },
        "nodes": nodes,
        "coordinators": coordinators,
        "operator_config": text(farm.layout.operator_config())?,
        "pki": text(farm.layout.pki())?,
        "logs": text(farm.layout.logs())?,
        "report": text(farm.layout.report())?,
        "result": text(farm.layout.root().join("result.json"))?,
    });
    write_private(&farm.layout.root().join("result.json"), summary.json()?.as_bytes())?;
    let index = serde_json::to_string_pretty(&index).context("composing farm.json")?;
    write_private(&farm.layout.index(), index.as_bytes())
}
