//! Kinds of faults, as metrics count them.

/// Kind of a fault of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FaultKind {
    /// The instance trapped.
    Trap,
    /// A call exceeded its limit of CPU time.
    Deadline,
    /// The instance requested more memory than its limit, and trapped because it did not get it.
    Memory,
    /// The policy picked a subconn that does not exist.
    UnknownSubConn,
    /// The policy made a plan that is too long.
    LongPlan,
    /// The instance could not be replaced after another fault.
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
