//! A limit on log lines.

use crate::policy::instance::time::now;

/// Number of lines that an instance may still log in this second.
pub(super) struct LogBudget {
    second: u64,
    left: u32,
}

impl Default for LogBudget {
    fn default() -> Self {
        Self { second: u64::MAX, left: 0 }
    }
}

impl LogBudget {
    /// Returns whether another line may be logged now.
    pub(super) fn take(&mut self, per_second: u32) -> bool {
        let second = now() / 1_000_000_000;
        if self.second != second {
            *self = Self { second, left: per_second };
        }
        let granted = self.left > 0;
        self.left = self.left.saturating_sub(1);
        granted
    }
}
