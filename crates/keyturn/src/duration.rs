//! Durations as they are given on the command line: `90s`, `20m`, `1h30m`.

use std::time::Duration;

/// Seconds of a unit.
const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

/// Reads one: numbers each with a unit, from large to small, none twice.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration; give one like 90s, 20m or 1h30m");
    let mut seconds: u64 = 0;
    let mut units = UNITS.iter();
    let mut rest = text;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..end].parse().map_err(|_| wrong())?;
        let unit = rest[end..].chars().next().ok_or_else(wrong)?;
        // What was passed over or used is gone, so the order is kept.
        let (_, length) = units.find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        seconds = number.checked_mul(*length).and_then(|part| seconds.checked_add(part)).ok_or_else(wrong)?;
        rest = &rest[end + unit.len_utf8()..];
    }
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_slips_are_named() {
        for (text, seconds) in [("90s", 90), ("20m", 1_200), ("1h30m", 5_400), ("2d1s", 172_801), ("0s", 0)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        let slips = [
            "",
            "90",
            "s",
            "-1s",
            "1.5h",
            "20 m",
            "30m1h",
            "1m1m",
            "5w",
            "\u{b5}",
            "1\u{b5}",
            "99999999999999999999s",
            "9999999999999999999d",
        ];
        for text in slips {
            assert!(parse_duration(text).is_err_and(|message| message.contains("1h30m")), "{text}");
        }
    }
}
