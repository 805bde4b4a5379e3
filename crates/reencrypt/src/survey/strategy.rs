//! Chooses for each table whether it is updated in place or copied and swapped, and says why.

use rotation::{Strategy, StrategyChoice};

use crate::EngineError;
use crate::dialect::Session;
use crate::table::Table;

/// Rows from which on `auto` makes a copy. Below, making and swapping it costs more than it saves.
pub(crate) const SHADOW_ROWS_MIN: u64 = 10_000;

/// A table's strategy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) strategy: Strategy,
    /// One clause.
    pub(crate) reason: String,
}

impl Chosen {
    fn in_place(reason: impl Into<String>) -> Self {
        Self { strategy: Strategy::InPlace, reason: reason.into() }
    }

    fn shadow(reason: impl Into<String>) -> Self {
        Self { strategy: Strategy::Shadow, reason: reason.into() }
    }
}

/// For each table with its rows, in the same order.
pub(crate) async fn choose(
    session: &mut dyn Session,
    tables: &[(&Table, u64)],
    choice: StrategyChoice,
    auto_shadow: Result<(), &'static str>,
) -> Result<Vec<Chosen>, EngineError> {
    match choice {
        StrategyChoice::InPlace => Ok(vec![Chosen::in_place("it was asked for"); tables.len()]),
        StrategyChoice::Shadow => every_shadow(session, tables).await,
        StrategyChoice::Auto => match auto_shadow {
            Err(reason) => Ok(vec![Chosen::in_place(reason); tables.len()]),
            Ok(()) => where_it_pays(session, tables).await,
        },
    }
}

/// Every table, or every obstacle.
async fn every_shadow(session: &mut dyn Session, tables: &[(&Table, u64)]) -> Result<Vec<Chosen>, EngineError> {
    let mut obstacles = Vec::new();
    for (table, _) in tables {
        if let Some(obstacle) = session.shadow_obstacle(table).await? {
            obstacles.push(format!("table {}: {obstacle}", table.label));
        }
    }
    if !obstacles.is_empty() {
        return Err(EngineError::Shadows(obstacles));
    }
    let all: Vec<Table> = tables.iter().map(|(table, _)| (*table).clone()).collect();
    let space = session.space(&all).await?;
    match space.free_bytes {
        Some(free_bytes) if free_bytes < space.needed_bytes => {
            Err(EngineError::Space { needed_bytes: space.needed_bytes, free_bytes })
        }
        Some(_) | None => Ok(vec![Chosen::shadow("it was asked for"); tables.len()]),
    }
}

async fn where_it_pays(session: &mut dyn Session, tables: &[(&Table, u64)]) -> Result<Vec<Chosen>, EngineError> {
    let mut chosen = Vec::with_capacity(tables.len());
    let mut promised_bytes = 0;
    for (table, rows) in tables {
        if *rows < SHADOW_ROWS_MIN {
            chosen.push(Chosen::in_place(format!("{rows} rows are updated sooner than copied and swapped")));
            continue;
        }
        if let Some(obstacle) = session.shadow_obstacle(table).await? {
            chosen.push(Chosen::in_place(obstacle));
            continue;
        }
        let space = session.space(&[(*table).clone()]).await?;
        let needed_bytes = promised_bytes + space.needed_bytes;
        match space.free_bytes {
            Some(free_bytes) if free_bytes < needed_bytes => {
                chosen.push(Chosen::in_place(format!(
                    "with its copy {needed_bytes} bytes would be needed, and {free_bytes} are free"
                )));
            }
            Some(_) | None => {
                promised_bytes = needed_bytes;
                chosen.push(Chosen::shadow("a copy is written faster than rows are updated"));
            }
        }
    }
    Ok(chosen)
}
