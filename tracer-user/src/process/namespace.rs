//! Does the tracer see the same pids as the kernel half? Only in the initial pid namespace, with its `/proc`.

use std::path::Path;

/// Inode number of the initial pid namespace, `PROC_PID_INIT_INO`:
/// <https://github.com/torvalds/linux/blob/v6.12/include/linux/proc_ns.h#L41-L48>
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Why process numbers would not mean the same in both halves.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PidNamespaceError {
    #[error(
        "the tracer runs in a pid namespace of its own (a container?): it cannot tell which process is which; \
         start it on the host, or in a container with the host's pid namespace (docker run --pid=host)"
    )]
    NotInitial,
    #[error(
        "/proc does not show this pid namespace: mount it with `mount -t proc proc /proc`, or start the tracer \
         where /proc is the host's"
    )]
    WrongProc,
}

/// # Errors
/// Says what is in the way and what to do.
pub(crate) fn check() -> Result<(), PidNamespaceError> {
    verdict(
        std::fs::read_link("/proc/self/ns/pid").ok().as_deref(),
        std::fs::read_link("/proc/self").ok().as_deref(),
        std::process::id(),
    )
}

fn verdict(
    namespace: Option<&Path>,
    proc_self: Option<&Path>,
    own_pid: u32,
) -> Result<(), PidNamespaceError> {
    let own = proc_self.and_then(Path::to_str).and_then(|pid| pid.parse().ok());
    match namespace.and_then(Path::to_str) {
        Some(INITIAL_PID_NAMESPACE) if own == Some(own_pid) => Ok(()),
        Some(INITIAL_PID_NAMESPACE) | None => Err(PidNamespaceError::WrongProc),
        Some(_) => Err(PidNamespaceError::NotInitial),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(namespace: Option<&str>, proc_self: Option<&str>, want: Result<(), PidNamespaceError>) {
        assert_eq!(verdict(namespace.map(Path::new), proc_self.map(Path::new), 42), want);
    }

    #[test]
    fn pids_must_be_the_kernels() {
        check(Some(INITIAL_PID_NAMESPACE), Some("42"), Ok(()));
        check(Some(INITIAL_PID_NAMESPACE), Some("7"), Err(PidNamespaceError::WrongProc));
        check(Some("pid:[4026532201]"), Some("42"), Err(PidNamespaceError::NotInitial));
        check(None, None, Err(PidNamespaceError::WrongProc));
    }
}
