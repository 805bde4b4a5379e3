//! What points are in every binary that serves anybody: nothing.

use std::io;

/// A place beside a durable write.
#[derive(Debug, Clone, Copy)]
pub struct Point;

impl Point {
    /// Immediately before the write.
    pub const fn before(self) -> io::Result<()> {
        Ok(())
    }

    /// Immediately after it.
    pub const fn after(self) -> io::Result<()> {
        Ok(())
    }
}
