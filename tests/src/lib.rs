//! End-to-end proof.
