//! Times and numbers as people read them.

use std::time::{SystemTime, UNIX_EPOCH};

/// The wall clock, milliseconds since the Unix epoch; zero on a machine whose clock stands before it.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// `2026-01-31 14:05:09Z`; empty for 0, which stands for never.
pub(crate) fn date_time(ms: u64) -> String {
    format_time(ms, "%Y-%m-%d %H:%M:%SZ")
}

/// `20260131-140509`, as in the dated name of an old `encryption.config`.
pub(crate) fn file_date(ms: u64) -> String {
    format_time(ms, "%Y%m%d-%H%M%S")
}

fn format_time(ms: u64, format: &str) -> String {
    if ms == 0 {
        return String::new();
    }
    let time = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| format!("{ms} ms"), |time| time.strftime(format).to_string())
}

/// `480ms`, `2.1s`, `12s`, `3m05s`, `2h07m`.
pub(crate) fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms}ms"),
        1..10 => format!("{}.{}s", seconds, ms % 1000 / 100),
        10..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600.. => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// `1,234,567`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 shard`, `1,200 shards`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", thousands(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_numbers_read_well() {
        assert_eq!(date_time(0), "");
        assert_eq!(date_time(1_769_868_309_999), "2026-01-31 14:05:09Z");
        assert_eq!(file_date(1_769_868_309_999), "20260131-140509");
        assert_eq!([480, 2_190, 12_000, 185_000, 7_620_000].map(duration), ["480ms", "2.1s", "12s", "3m05s", "2h07m"]);
        assert_eq!([0, 999, 1000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([1, 1200].map(|number| counted(number, "shard")), ["1 shard", "1,200 shards"]);
    }
}
