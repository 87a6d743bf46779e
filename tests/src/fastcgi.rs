//! A FastCGI application behind nginx: Debian's php-fpm.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::Signal;

use crate::nginx::{Config, children};
use crate::program::{Program, free_port, wait_listening};
use crate::service::workload;
use crate::temp::TempDir;

/// What nginx and the application speak over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Unix,
}

/// A running pool of PHP processes.
#[derive(Debug)]
pub struct PhpFpm {
    program: Program,
    upstream: String,
    workers: usize,
    dir: TempDir,
}

impl PhpFpm {
    pub fn start(transport: Transport, workers: usize) -> anyhow::Result<Self> {
        let dir = TempDir::new()?;
        let port = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let socket = dir.join("fpm.sock");
        let listen = match transport {
            Transport::Tcp => port.to_string(),
            Transport::Unix => socket.display().to_string(),
        };
        let text = format!(
            "[global]\nerror_log = {}\ndaemonize = no\n\
             [shop]\nuser = root\ngroup = root\nlisten = {listen}\nlisten.backlog = 4096\npm = static\n\
             pm.max_children = {workers}\n",
            dir.join("error.log").display()
        );
        dir.write("fpm.conf", &text)?;
        let mut command = Command::new(php_fpm()?);
        command.args(["--allow-to-run-as-root", "--nodaemonize", "--fpm-config"]).arg(dir.join("fpm.conf"));
        let program = Program::spawn_dying_by("php-fpm", command, Signal::TERM)?;
        let upstream = match transport {
            Transport::Tcp => listen,
            Transport::Unix => format!("unix:{listen}"),
        };
        let pool = Self { program, upstream, workers, dir };
        match transport {
            Transport::Tcp => wait_listening(port, Duration::from_secs(20))?,
            Transport::Unix => wait_for(|| socket.exists())?,
        }
        wait_for(|| children(pool.program.pid()).is_ok_and(|children| children.len() == pool.workers))
            .with_context(|| std::fs::read_to_string(pool.dir.join("error.log")).unwrap_or_default())?;
        Ok(pool)
    }

    /// The master and its workers.
    pub fn pids(&self) -> anyhow::Result<BTreeSet<u32>> {
        let mut pids = BTreeSet::from([self.program.pid()]);
        pids.extend(children(self.program.pid())?);
        Ok(pids)
    }

    /// nginx in front of it; what a request calls is at `downstream`.
    pub fn nginx(&self, keep_alive: bool, downstream: SocketAddr, after: bool) -> Config {
        let script = workload("front.php");
        let after = if after { "1" } else { "" };
        let more = format!("fastcgi_param DOWNSTREAM {downstream}; fastcgi_param AFTER \"{after}\";");
        config(&self.upstream, keep_alive, &script, &more)
    }
}

fn config(upstream: &str, keep_alive: bool, script: &Path, more: &str) -> Config {
    let (pool, keep) = if keep_alive { ("keepalive 16;", "fastcgi_keep_conn on;") } else { ("", "") };
    Config {
        workers: 1,
        http: format!("upstream app {{ server {upstream}; {pool} }}"),
        server: format!(
            "location / {{ fastcgi_pass app; {keep} include /etc/nginx/fastcgi_params; \
             fastcgi_param HTTP_HOST $http_host; fastcgi_param SCRIPT_FILENAME {}; {more} }}",
            script.display()
        ),
    }
}

fn php_fpm() -> anyhow::Result<std::path::PathBuf> {
    let programs = std::fs::read_dir("/usr/sbin")?.filter_map(|entry| Some(entry.ok()?.path()));
    let is_fpm = |path: &std::path::PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("php-fpm"))
    };
    programs.filter(is_fpm).max().context("no php-fpm in /usr/sbin: cargo xtask setup installs it")
}

fn wait_for(is_so: impl Fn() -> bool) -> anyhow::Result<()> {
    for _ in 0..1000 {
        if is_so() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("it did not come to be within ten seconds")
}
