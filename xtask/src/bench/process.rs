//! What the kernel says about a process: processor time, memory, and the memory of its BPF maps.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, bail};

/// Processor time that the process has used, in user space and in the kernel on its behalf (proc_pid_stat(5)).
pub(super) fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("times of {pid}"))?;
    ticks(&stat, OWN).map(duration).with_context(|| format!("times of {pid} in {stat}"))
}

/// The same of the children of this process that have ended and were waited for.
pub(super) fn children_cpu_time() -> anyhow::Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").context("times of ended children")?;
    ticks(&stat, ENDED_CHILDREN).map(duration).with_context(|| format!("times of ended children in {stat}"))
}

/// `utime` and `stime`, fields 14 and 15.
const OWN: usize = 11;
/// `cutime` and `cstime`, fields 16 and 17.
const ENDED_CHILDREN: usize = 13;

/// Two fields behind the name, which may hold spaces and parentheses; `skip` counts from there.
fn ticks(stat: &str, skip: usize) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split_whitespace().skip(skip);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

fn duration(ticks: u64) -> Duration {
    Duration::from_micros(ticks.saturating_mul(1_000_000) / rustix::param::clock_ticks_per_second())
}

/// The most memory that the process has had resident, in bytes, without that of its BPF maps, which [`map_memory`]
/// counts. A ring's pages appear twice in the process, one copy behind the other, so that records never wrap.
pub(super) fn peak_resident(pid: u32) -> anyhow::Result<u64> {
    let read = |file: &str| {
        fs::read_to_string(format!("/proc/{pid}/{file}")).with_context(|| format!("memory of {pid}"))
    };
    let kib: u64 = field(&read("status")?, "VmHWM:").with_context(|| format!("peak memory of {pid}"))?;
    // Once seen, a ring's page stays: what is resident now was so at the peak, or came after it and is too much.
    Ok((kib.saturating_sub(map_pages_kib(&read("smaps")?))) * 1024)
}

/// Resident memory of mapped BPF maps, in KiB (proc_pid_smaps(5)).
fn map_pages_kib(smaps: &str) -> u64 {
    let mut of_map = false;
    let mut sum = 0;
    for line in smaps.lines() {
        // A mapping's first line begins with its addresses, the others with a name and a colon.
        if line.split_whitespace().next().is_some_and(|word| !word.ends_with(':')) {
            of_map = line.contains("bpf-map");
        } else if of_map {
            sum += field::<u64>(line, "Rss:").unwrap_or_default();
        }
    }
    sum
}

/// Memory of all BPF maps that the process holds, in bytes, as the kernel accounts for it.
pub(super) fn map_memory(pid: u32) -> anyhow::Result<u64> {
    let folder = format!("/proc/{pid}/fdinfo");
    let mut maps = std::collections::BTreeMap::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("files of {pid}"))? {
        // A descriptor that was closed meanwhile is not one.
        let Ok(info) = fs::read_to_string(entry.with_context(|| folder.clone())?.path()) else { continue };
        if let (Some(_), Some(id), Some(bytes)) =
            (field::<u64>(&info, "map_type:"), field::<u64>(&info, "map_id:"), field(&info, "memlock:"))
        {
            // One map may be open twice.
            maps.insert(id, bytes);
        }
    }
    if maps.is_empty() {
        bail!("process {pid} holds no BPF maps");
    }
    Ok(maps.values().sum::<u64>())
}

fn field<T: std::str::FromStr>(text: &str, name: &str) -> Option<T> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_follow_the_name_whatever_it_is() {
        let stat = "7 (a ) b (c) S 1 7 7 0 -1 4194304 9 0 0 0 120 30 4 3 20 0 1 0 5 1 1";
        assert_eq!(ticks(stat, OWN), Some(150));
        assert_eq!(ticks(stat, ENDED_CHILDREN), Some(7));
        assert_eq!(ticks("7 (cut) S 1 7", OWN), None);
    }

    #[test]
    fn this_process_has_times_and_memory_but_no_maps() {
        let pid = std::process::id();
        assert!(cpu_time(pid).is_ok());
        assert!(peak_resident(pid).unwrap() > 100_000);
        assert!(map_memory(pid).is_err());
    }

    #[test]
    fn pages_of_maps_are_told_apart() {
        let smaps = "7f00-7f10 r--s 00000000 00:0e 12  anon_inode:bpf-map
Size:   64 kB
Rss:    48 kB
7f20-7f30 rw-p 00000000 00:00 0  [heap]
Rss:    9 kB
7f40-7f50 rw-s 00000000 00:0e 12  anon_inode:bpf-map
Rss:    4 kB
";
        assert_eq!(map_pages_kib(smaps), 52);
        assert_eq!(map_pages_kib(""), 0);
    }

    #[test]
    fn map_facts_are_read() {
        let info = "pos:\t0\nmap_type:\t27\nmax_entries:\t8388608\nmemlock:\t8392704\nmap_id:\t12\n";
        assert_eq!(field::<u64>(info, "memlock:"), Some(8_392_704));
        assert_eq!(field::<u64>(info, "prog_id:"), None);
    }
}
