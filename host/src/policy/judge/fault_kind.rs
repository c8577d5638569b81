//! Kinds of faults, as metrics count them.

/// What can go wrong with an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FaultKind {
    /// It trapped.
    Trap,
    /// It ran past a limit of CPU time.
    Deadline,
    /// It asked for more memory than its limit, and trapped because it did not get it.
    Memory,
    /// It picked a subconn that does not exist.
    UnknownSubConn,
    /// It made a plan that is too long.
    LongPlan,
    /// It could not be replaced after another fault.
    Start,
}

impl FaultKind {
    /// Returns the name in metrics, in lower case: `unknown_subconn`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Deadline => "deadline",
            Self::Memory => "memory",
            Self::UnknownSubConn => "unknown_subconn",
            Self::LongPlan => "long_plan",
            Self::Start => "start",
        }
    }
}
