//! Kernel objects that a process holds: programs, maps and links, by id.
//!
//! Ids, not names: other tracers may run on the same kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    Program(u32),
    Map(u32),
    Link(u32),
}

/// What the process holds by file descriptor.
pub fn held_by(pid: u32) -> anyhow::Result<BTreeSet<Object>> {
    let mut found = BTreeSet::new();
    for entry in
        std::fs::read_dir(format!("/proc/{pid}/fdinfo")).with_context(|| format!("descriptors of {pid}"))?
    {
        // Descriptors come and go while we look.
        let info = std::fs::read_to_string(entry?.path()).unwrap_or_default();
        for line in info.lines() {
            let Some((key, value)) = line.split_once(':') else { continue };
            let Ok(id) = value.trim().parse() else { continue };
            match key {
                "prog_id" => found.insert(Object::Program(id)),
                "map_id" => found.insert(Object::Map(id)),
                "link_id" => found.insert(Object::Link(id)),
                _ => false,
            };
        }
    }
    Ok(found)
}

/// How many instructions the kernel's verifier has walked for the programs that the process holds.
pub fn instructions_walked(pid: u32) -> anyhow::Result<u64> {
    let mut programs = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let info = std::fs::read_to_string(entry?.path()).unwrap_or_default();
        let field = |name: &str| {
            let fields = info.lines().filter_map(|line| line.split_once(':'));
            fields.filter(|(key, _)| *key == name).find_map(|(_, value)| value.trim().parse::<u64>().ok())
        };
        if let (Some(id), Some(walked)) = (field("prog_id"), field("verified_insns")) {
            programs.insert(id, walked);
        }
    }
    Ok(programs.values().sum())
}

/// Waits until the kernel knows none of them any more; it frees them a little after their last reference is gone.
pub fn wait_gone(objects: &BTreeSet<Object>, patience: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        let left: Vec<Object> = objects.iter().copied().filter(|object| exists(*object)).collect();
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("still there: {left:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn exists(object: Object) -> bool {
    // BPF_PROG_GET_FD_BY_ID, BPF_MAP_GET_FD_BY_ID, BPF_LINK_GET_FD_BY_ID of `enum bpf_cmd`, linux/bpf.h.
    let (command, id) = match object {
        Object::Program(id) => (13, id),
        Object::Map(id) => (14, id),
        Object::Link(id) => (30, id),
    };
    // `union bpf_attr` of these commands: id, next_id, open_flags.
    let attr: [u32; 4] = [id, 0, 0, 0];
    // SAFETY: the kernel reads the 16 bytes of `attr`, which outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(&attr)) };
    match i32::try_from(fd) {
        Ok(fd) if fd >= 0 => {
            // SAFETY: the descriptor was just made for us and is used nowhere else.
            drop(unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) });
            true
        }
        // Anything but "no such id" (no permission, say) is no proof of absence.
        _ => std::io::Error::last_os_error().raw_os_error() != Some(libc::ENOENT),
    }
}
