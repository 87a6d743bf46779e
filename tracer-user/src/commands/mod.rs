//! One file per command; each reads as its own pipeline.

pub(crate) mod attach;
pub(crate) mod doctor;
mod live;
pub(crate) mod replay;
pub(crate) mod run;
