//! How often it is looked whether sessions that were told to go have gone: the farm is offline meanwhile, and most go at once.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_millis(100);

/// The time between two looks, which doubles.
pub(super) struct Polls(Duration);

impl Polls {
    pub(super) const fn new() -> Self {
        Self(FIRST)
    }

    pub(super) async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = LONGEST.min(self.0 * 2);
    }
}
