//! Whole scenarios on a modelled host, told as operations, checked as spans with parents.

mod frames;
mod host;
mod records;

#[path = "scenarios/awaited.rs"]
mod awaited;
#[path = "scenarios/continuity.rs"]
mod continuity;
#[path = "scenarios/deadlines.rs"]
mod deadlines;
#[path = "scenarios/dialects.rs"]
mod dialects;
#[path = "scenarios/fastcgi.rs"]
mod fastcgi;
#[path = "scenarios/fork.rs"]
mod fork;
#[path = "scenarios/goroutine.rs"]
mod goroutine;
#[path = "scenarios/goroutine_streams.rs"]
mod goroutine_streams;
#[path = "scenarios/greenlet.rs"]
mod greenlet;
#[path = "scenarios/handoff.rs"]
mod handoff;
#[path = "scenarios/header.rs"]
mod header;
#[path = "scenarios/java_work.rs"]
mod java_work;
#[path = "scenarios/links.rs"]
mod links;
#[path = "scenarios/multiplexed.rs"]
mod multiplexed;
#[path = "scenarios/nginx.rs"]
mod nginx;
#[path = "scenarios/readers.rs"]
mod readers;
#[path = "scenarios/same_bytes.rs"]
mod same_bytes;
#[path = "scenarios/sdk.rs"]
mod sdk;
#[path = "scenarios/starts.rs"]
mod starts;
#[path = "scenarios/task.rs"]
mod task;
#[path = "scenarios/thread.rs"]
mod thread;
#[path = "scenarios/tls.rs"]
mod tls;
#[path = "scenarios/tokio.rs"]
mod tokio;
#[path = "scenarios/virtual_thread.rs"]
mod virtual_thread;
#[path = "scenarios/waits.rs"]
mod waits;
#[path = "scenarios/work_item.rs"]
mod work_item;
