//! What must hold for any text that stands where a targets.toml should: no panic; and what is accepted is written and read
//! again as the same.

use reencrypt::scan::{ScanReport, targets_file};
use reencrypt::{TableTarget, Targets};

/// Holds it against this text.
pub(crate) fn check(text: &str) {
    let Ok(targets) = Targets::parse(text) else { return };
    assert!(!targets.tables().is_empty(), "a file that registers nothing was accepted");
    for table in targets.tables() {
        assert!(!table.key.is_empty() && !table.columns.is_empty());
        assert_eq!(targets.table(&table.label()), Some(table));
    }
    assert!(targets.tables().windows(2).all(|pair: &[TableTarget]| pair[0].label() < pair[1].label()));
    let nothing = ScanReport {
        database: String::new(),
        tables: 0,
        columns: 0,
        found: Vec::new(),
        registered_problems: Vec::new(),
        not_looked_into: Vec::new(),
        own_tables: Vec::new(),
    };
    let written = targets_file(&nothing, &targets);
    let again = Targets::parse(&written).unwrap_or_else(|error| panic!("{error}: {written}"));
    assert_eq!(again, targets);
    assert_eq!(again.digest(), targets.digest());
}
