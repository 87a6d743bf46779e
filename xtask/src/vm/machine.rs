//! One virtual machine that boots a kernel, runs one job with the host's programs, and powers off.
//!
//! The guest sees the host's files read-only, the repository at its usual path, and `/run/job` as the only place whose
//! content outlives it. No hardware virtualisation is needed, so that it runs on any machine that tests run on.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::exec::{self, Ended, Interrupt};
use crate::repo::Repo;
use crate::vm::initramfs;
use crate::vm::kernel::Kernel;

/// From power-on to the job's first line: 4 s on an idle machine, more beside a compiler.
const BOOT_LIMIT: Duration = Duration::from_secs(180);

/// What a machine does before it powers off.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// Lines of a POSIX shell script, run in the repository's root as root.
    pub(crate) script: String,
    pub(crate) limit: Duration,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Exited(i32),
    /// The guest died or powered off without a word; its console is kept.
    Lost(ExitStatus),
    TimedOut,
    Interrupted,
}

impl Outcome {
    /// Whether only the kernel's console can tell what happened.
    pub(crate) fn is_unexplained(self) -> bool {
        matches!(self, Self::Lost(_) | Self::TimedOut)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Lost(status) => write!(f, "the machine died ({status})"),
            Self::TimedOut => f.write_str("did not end in time"),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

/// Boots `kernel` and runs `job`; each line of the job's output goes to standard output and to `each_line`.
pub(crate) fn run(
    repo: &Repo,
    kernel: &Kernel,
    job: &Job,
    interrupt: &Interrupt,
    each_line: impl FnMut(&str) + Send,
) -> anyhow::Result<Outcome> {
    let folder = folder(repo, kernel)?;
    let initramfs = initramfs::pack(kernel, &folder)?;
    let share = folder.join("job");
    fs::create_dir(&share).with_context(|| format!("create {}", share.display()))?;
    fs::write(share.join("boot.sh"), boot_script(repo, job)).context("write the boot script")?;
    fs::write(share.join("job.sh"), &job.script).context("write the job's script")?;

    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-nodefaults", "-no-reboot", "-display", "none", "-net", "none"]);
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3G"]);
    // First serial port: the kernel's console, kept for a machine that dies. Second: the job's output.
    qemu.arg("-serial").arg(format!("file:{}", folder.join("console.log").display()));
    qemu.args(["-serial", "stdio"]);
    qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&initramfs);
    let repo_path = repo.root().display();
    qemu.arg("-append").arg(format!("console=ttyS0 quiet panic=-1 vm_repo={repo_path}"));
    for (tag, path, writable) in [
        ("host", PathBuf::from("/"), false),
        ("repo", repo.root().to_owned(), false),
        ("job", share.clone(), true),
    ] {
        let readonly = if writable { "off" } else { "on" };
        let path = path.display();
        qemu.arg("-virtfs").arg(format!(
            "local,path={path},mount_tag={tag},security_model=none,readonly={readonly},multidevs=remap"
        ));
    }
    let ended = exec::stream(&mut qemu, BOOT_LIMIT + job.limit, interrupt, each_line)?;
    Ok(match ended {
        Ended::TimedOut => Outcome::TimedOut,
        Ended::Interrupted => Outcome::Interrupted,
        Ended::Exited(status) => match fs::read_to_string(share.join("status")) {
            Ok(code) => Outcome::Exited(code.trim().parse().context("the job's exit status")?),
            Err(_) => Outcome::Lost(status),
        },
    })
}

/// Last lines of the kernel's console of the last run.
pub(crate) fn console_tail(repo: &Repo, kernel: &Kernel) -> String {
    let path = repo.target().join("vm").join(kernel.series.name()).join("run/console.log");
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// An empty folder for one run.
fn folder(repo: &Repo, kernel: &Kernel) -> anyhow::Result<PathBuf> {
    for path in [repo.root(), &repo.target()] {
        // QEMU splits its options at commas, the kernel its command line at spaces.
        if path.to_string_lossy().contains([',', ' ']) {
            bail!("virtual machines need a repository path without commas and spaces: {}", path.display());
        }
    }
    let folder = repo.target().join("vm").join(kernel.series.name()).join("run");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("clear {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    Ok(folder)
}

/// The system's own programs come before wrappers that look for one of several versions, which take an emulated
/// processor seconds.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the guest runs first: the mounts that a booted system has, then the job, then power-off.
fn boot_script(repo: &Repo, job: &Job) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let home = std::env::var("HOME").unwrap_or_else(|_| "/root".to_owned());
    let repo = repo.root().display();
    let limit = job.limit.as_secs();
    format!(
        r#"exec > /dev/ttyS1 2>&1 < /dev/null
stty -F /dev/ttyS1 -opost
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /var/tmp
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpffs /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
hostname vm
export PATH='{SYSTEM_PATH}:{path}' HOME='{home}' TMPDIR=/tmp RUST_BACKTRACE=1
cd '{repo}'
timeout --kill-after=10 {limit} sh /run/job/job.sh
echo $? > /run/job/status
sync
echo o > /proc/sysrq-trigger
while :; do :; done
"#
    )
}
