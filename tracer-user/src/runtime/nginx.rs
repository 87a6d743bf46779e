//! nginx and what is made of it: by the name of the executable, since nothing has to be found. The kernel half compares what
//! it reads each time with what it must be.

#[cfg(test)]
mod tests;

use tracer_abi::nginx::NginxProcess;
use tracer_abi::task::ProcessKey;

use super::memory::Bytes;
use super::module::Modules;
use super::{Finding, Runtime};

/// What executables' names begin with.
const NAMES: [&str; 4] = ["nginx", "openresty", "angie", "freenginx"];

pub(super) fn examine<M: Bytes>(process: ProcessKey, modules: &Modules, _: &M) -> Finding {
    let name =
        modules.executable_name().and_then(|name| NAMES.iter().find(|known| name.starts_with(**known)));
    name.map_or(Finding::Nothing, |name| found(process, name))
}

/// As long as it executes nothing else.
pub(crate) fn forked_by_nginx(process: ProcessKey) -> Finding {
    found(process, NAMES[0])
}

fn found(process: ProcessKey, name: &str) -> Finding {
    let known = NginxProcess { start_boottime: process.start_boottime, ..NginxProcess::default() };
    Finding::Nginx(Runtime(name.to_owned()), Box::new(known))
}
