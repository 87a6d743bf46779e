//! Which of a process's descriptors are event counters (`eventfd`): what its own threads wake each other with.

use tracer_abi::task::ProcessKey;

use super::procfs::ProcDir;

/// One bit for each descriptor below 64: runtimes make theirs when they start. None when that cannot be read.
pub(crate) fn event_fds(process: ProcessKey) -> u64 {
    let Ok(dir) = ProcDir::open_exactly(process) else { return 0 };
    let is_event = |fd: &u32| {
        dir.link(&format!("fd/{fd}")).is_ok_and(|target| target.as_os_str() == "anon_inode:[eventfd]")
    };
    (0..u64::BITS).filter(is_event).fold(0, |found, fd| found | 1 << fd)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use rustix::event::{EventfdFlags, eventfd};
    use tracer_abi::task::Tgid;

    use super::*;

    #[test]
    fn its_own_are_found() {
        let stat = ProcDir::open(Tgid(std::process::id())).unwrap().stat().unwrap();
        let own = ProcessKey { tgid: Tgid(std::process::id()), start_boottime: stat.start.earliest() };
        let made = eventfd(0, EventfdFlags::empty()).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let found = event_fds(own);
        assert!(made.as_raw_fd() >= 64 || found >> made.as_raw_fd() & 1 == 1, "{found:x}");
        assert!(file.as_raw_fd() >= 64 || found >> file.as_raw_fd() & 1 == 0, "{found:x}");
        assert_eq!(event_fds(ProcessKey { start_boottime: 1, ..own }), 0);
    }
}
