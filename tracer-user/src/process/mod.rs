//! What is this process? Read from `/proc`, whose contents other users choose: everything is bounded and may be garbage.

mod container;
mod environment;
pub(crate) mod event_fds;
pub(crate) mod facts;
pub(crate) mod host;
mod listeners;
pub(crate) mod maps;
pub(crate) mod namespace;
mod nginx;
pub(crate) mod procfs;
pub(crate) mod select;
pub(crate) mod service_name;
pub(crate) mod table;
mod users;
