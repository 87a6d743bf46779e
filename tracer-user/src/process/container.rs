//! Which container a process is in, from its cgroup paths. Knows the naming of runtimes, asks none of them.

/// The id in `/proc/<pid>/cgroup`: the last 64 hexadecimal digits that stand alone in a path. Docker, containerd,
/// CRI-O and podman all name a container's cgroup so, with different words around it:
/// `/docker/<id>`, `/kubepods.slice/…/cri-containerd-<id>.scope`, `/machine.slice/libpod-<id>.scope/container`.
pub(crate) fn container_id(cgroup: &[u8]) -> Option<String> {
    cgroup.split(|&byte| byte == b'\n').find_map(|line| {
        // hierarchy-ID:controllers:path
        let path = line.splitn(3, |&byte| byte == b':').nth(2)?;
        let mut words = path.split(|byte| !byte.is_ascii_alphanumeric());
        // podman's own process that watches the container sits in a sibling cgroup.
        let id = words.rfind(|word| is_id(word))?;
        let conmon = path.windows(7).any(|word| word == b"conmon-");
        (!conmon).then(|| id.iter().map(|&byte| char::from(byte)).collect())
    })
}

fn is_id(word: &[u8]) -> bool {
    word.len() == 64 && word.iter().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_ids() {
        let id = "0123456789abcdef".repeat(4);
        for (cgroup, found) in [
            (format!("12:pids:/docker/{id}\n11:cpu:/docker/{id}\n0::/"), true),
            (format!("0::/system.slice/docker-{id}.scope"), true),
            (format!("0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope\n"), true),
            (format!("0::/kubepods/besteffort/pod7c1-9/{id}"), true),
            (format!("0::/machine.slice/libpod-{id}.scope/container"), true),
            (format!("0::/machine.slice/libpod-conmon-{id}.scope"), false),
            (format!("0::/system.slice/x{id}.scope"), false),
            (format!("0::/user.slice/{}", &id[1..]), false),
            (id.to_uppercase(), false),
            ("0::/user.slice/user-1000.slice/session-3.scope".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(container_id(cgroup.as_bytes()).as_deref(), found.then_some(id.as_str()), "{cgroup}");
        }
    }
}
