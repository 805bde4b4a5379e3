//! Every row is there, its other columns are what they were, and each of its values opens under exactly one of the two
//! keys, to what was last acknowledged.

use crate::world::{COLUMNS, TABLE, World};

const NAME: &str = "every row opens under exactly one known key";

pub(crate) fn check(world: &World) {
    let mut truth = world.truth();
    let rows = world.database.rows(TABLE);
    if rows.len() != truth.rest.len() {
        return world.violated(NAME, format_args!("{} rows of {}", rows.len(), truth.rest.len()));
    }
    for (id, values, rest) in rows {
        if truth.rest.get(&id) != Some(&rest) {
            return world.violated(NAME, format_args!("row {id} has other columns than it had"));
        }
        if values.len() != COLUMNS {
            return world.violated(NAME, format_args!("row {id} has {} values", values.len()));
        }
        for (column, stored) in values.iter().enumerate() {
            if truth.damaged.contains_key(&(id, column)) {
                continue;
            }
            let opened = world.open(&mut truth, stored, column);
            let [(key, plaintext)] = opened.as_slice() else {
                let keys = opened.len();
                return world.violated(NAME, format_args!("row {id}, column {column} opens under {keys} keys"));
            };
            if truth.plaintexts.get(&(id, column)) != Some(plaintext) {
                let says = String::from_utf8_lossy(plaintext);
                return world.violated(NAME, format_args!("row {id}, column {column} says {says:?} under {key:?}"));
            }
        }
    }
}
