//! One file per trigger or hook. The ladder's rungs differ in the files that watch socket operations; exactly one of
//! those is attached at a time. The others serve every rung.

pub(crate) mod fexit;
pub(crate) mod handoff;
mod process;
pub(crate) mod sock_length;
mod sock_state;
mod unix_iter;
