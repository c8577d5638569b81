//! What observers are told.
