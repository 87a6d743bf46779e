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
    let Some(name) = name else { return Finding::Nothing };
    let known = NginxProcess { start_boottime: process.start_boottime, ..NginxProcess::default() };
    Finding::Nginx(Runtime((*name).to_owned()), Box::new(known))
}
