//! Network namespaces of a test's own, joined by a veth pair and removed on drop.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail};

/// Two namespaces, left and right, with one address each on a shared /24.
#[derive(Debug)]
pub struct Pair {
    pub left: Namespace,
    pub right: Namespace,
}

/// A named network namespace.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    pub addr: Ipv4Addr,
}

impl Pair {
    pub fn new() -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let unique = format!("{}-{number}", std::process::id());
        let left = Namespace::new(format!("trt{unique}l"), Ipv4Addr::new(10, 213, 7, 1))?;
        let right = Namespace::new(format!("trt{unique}r"), Ipv4Addr::new(10, 213, 7, 2))?;
        ip(&[
            "link",
            "add",
            "veth0",
            "netns",
            &left.name,
            "type",
            "veth",
            "peer",
            "name",
            "veth0",
            "netns",
            &right.name,
        ])?;
        for side in [&left, &right] {
            let cidr = format!("{}/24", side.addr);
            ip(&["-n", &side.name, "addr", "add", &cidr, "dev", "veth0"])?;
            ip(&["-n", &side.name, "link", "set", "veth0", "up"])?;
        }
        Ok(Self { left, right })
    }
}

impl Namespace {
    fn new(name: String, addr: Ipv4Addr) -> anyhow::Result<Self> {
        ip(&["netns", "add", &name])?;
        let namespace = Self { name, addr };
        ip(&["-n", &namespace.name, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// A command that becomes `program` inside the namespace, under the same process id.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Taking the veth's end with it. A failure leaves a name that no later test uses.
        let _ = ip(&["netns", "delete", &self.name]);
    }
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(args).output().context("run ip")?;
    if !output.status.success() {
        bail!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
