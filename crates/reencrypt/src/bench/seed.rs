//! The rows of a scratch table: real ciphertexts, and columns whose indexes are as costly as an application's.

use keys::SecretKey;
use keys::value::{Cipher, CipherVersion, Encoding};

use crate::EngineError;
use crate::dialect::scratch::{Scratch, ScratchRow};

/// Rows that are inserted at once.
const BATCH_ROWS_MAX: u64 = 1000;

/// Bytes that are inserted at once, or one row.
const BATCH_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Header, nonce and tag of a ciphertext.
const CIPHERTEXT_OVERHEAD_BYTES: u32 = 48;

/// The earliest time in a row, and how far they spread, seconds: a few years.
const TIMES_FROM_S: i64 = 1_600_000_000;
const TIMES_SPREAD_S: i64 = 100_000_000;

/// Fills the source with rows under this key.
pub(crate) async fn fill(
    scratch: &mut dyn Scratch,
    rows: u64,
    row_bytes: u32,
    key: &SecretKey,
) -> Result<(), EngineError> {
    let batch_rows = (BATCH_BYTES_MAX / u64::from(row_bytes)).clamp(1, BATCH_ROWS_MAX);
    let mut first = 0;
    while first < rows {
        let last = (first + batch_rows).min(rows);
        let cipher = Cipher::new(key);
        let batch = tokio::task::spawn_blocking(move || batch(&cipher, first..last, row_bytes))
            .await
            .map_err(|error| EngineError::Internal(format!("making rows ended early: {error}")))??;
        scratch.fill(&batch).await?;
        first = last;
    }
    Ok(())
}

fn batch(cipher: &Cipher, numbers: std::ops::Range<u64>, row_bytes: u32) -> Result<Vec<ScratchRow>, EngineError> {
    let plaintext = vec![b'x'; row_bytes.saturating_sub(CIPHERTEXT_OVERHEAD_BYTES) as usize];
    let row = |number: u64| {
        let random = blake3::hash(&number.to_le_bytes());
        let digits = random.to_hex();
        let value = cipher
            .encrypt(&plaintext, Encoding::Raw, &[], CipherVersion::V2)
            .map_err(|error| EngineError::Internal(format!("a row of a scratch table could not be made: {error}")))?;
        let time = u32::from_le_bytes([random.as_bytes()[0], random.as_bytes()[1], random.as_bytes()[2], 0]);
        Ok(ScratchRow {
            id: i64::try_from(number + 1).unwrap_or(i64::MAX),
            token: format!(
                "{}-{}-{}-{}-{}",
                &digits[..8],
                &digits[8..12],
                &digits[12..16],
                &digits[16..20],
                &digits[20..32]
            ),
            changed_s: TIMES_FROM_S + i64::from(time) * 7 % TIMES_SPREAD_S,
            value,
        })
    };
    numbers.map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_the_size_that_was_asked_for_and_no_two_are_alike() {
        let rows = batch(&Cipher::new(&SecretKey::generate()), 5..8, 512).unwrap();
        assert_eq!(
            rows.iter().map(|row| (row.id, row.value.len())).collect::<Vec<_>>(),
            [(6, 512), (7, 512), (8, 512)]
        );
        assert!(rows[0].token != rows[1].token && rows[0].value != rows[1].value);
        assert_eq!(rows[0].token.len(), 36);
    }
}
