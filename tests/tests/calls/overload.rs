//! Limits of RPCs in flight, and of RPCs that wait.
