//! Starts Debian's nginx with a prefix and a configuration of its own.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::Signal;

use crate::program::{Program, free_port, wait_listening};
use crate::temp::TempDir;

/// A running nginx: a master and its workers.
#[derive(Debug)]
pub struct Nginx {
    pub program: Program,
    pub addr: SocketAddr,
    workers: usize,
    dir: TempDir,
}

/// What it serves.
#[derive(Clone, Debug)]
pub struct Config {
    pub workers: usize,
    /// Directives outside of the server block, such as an upstream.
    pub http: String,
    /// Directives of the server block.
    pub server: String,
}

impl Config {
    /// `return 200` for everything.
    pub fn answer(workers: usize) -> Self {
        Self { workers, http: String::new(), server: "location / { return 200 'hello\\n'; }".to_owned() }
    }

    /// A reverse proxy to `upstream`: an address, or `unix:/path`.
    pub fn proxy(workers: usize, upstream: &str, keep_alive: bool) -> Self {
        let (pool, headers) = if keep_alive {
            ("keepalive 16;", "proxy_http_version 1.1; proxy_set_header Connection '';")
        } else {
            ("", "")
        };
        Self {
            workers,
            http: format!("upstream backend {{ server {upstream}; {pool} }}"),
            server: format!("location / {{ proxy_pass http://backend; {headers} }}"),
        }
    }
}

impl Nginx {
    /// Starts it on a free port of 127.0.0.1.
    pub fn start(config: &Config) -> anyhow::Result<Self> {
        Self::listening(config, "backlog=4096", None)
    }

    /// The same, speaking TLS; the server block names the certificate.
    pub fn start_tls(config: &Config) -> anyhow::Result<Self> {
        Self::listening(config, "ssl backlog=4096", None)
    }

    /// The same, with libraries of this folder instead of the system's: whatever is done to those concerns nobody else.
    pub fn start_tls_apart(config: &Config, libraries: &Path) -> anyhow::Result<Self> {
        Self::listening(config, "ssl backlog=4096", Some(libraries))
    }

    fn listening(config: &Config, how: &str, libraries: Option<&Path>) -> anyhow::Result<Self> {
        let dir = TempDir::new()?;
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let Config { workers, http, server } = config;
        // Workers stay root: the temporary folder need not be open to others.
        let text = format!(
            "user root; daemon off; worker_processes {workers}; pid nginx.pid; error_log error.log info;\n\
             events {{ worker_connections 4096; }}\n\
             http {{\n\
               access_log off; keepalive_requests 1000000; client_max_body_size 0;\n\
               client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;\n\
               {http}\n\
               server {{ listen {addr} {how}; {server} }}\n\
             }}\n"
        );
        dir.write("nginx.conf", &text)?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(dir.path()).args(["-c", "nginx.conf", "-e", "error.log"]);
        if let Some(libraries) = libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        // On SIGTERM the master ends its workers, should the test itself be killed.
        let program = Program::spawn_dying_by("nginx", command, Signal::TERM)?;
        let nginx = Self { program, addr, workers: *workers, dir };
        wait_listening(addr, Duration::from_secs(20)).with_context(|| nginx.error_log())?;
        nginx.wait_workers()?;
        Ok(nginx)
    }

    /// Master and workers.
    pub fn pids(&self) -> anyhow::Result<Vec<u32>> {
        let mut pids = vec![self.program.pid()];
        pids.extend(children(self.program.pid())?);
        Ok(pids)
    }

    pub fn pid_set(&self) -> anyhow::Result<BTreeSet<u32>> {
        Ok(self.pids()?.into_iter().collect())
    }

    /// Its prefix folder.
    pub fn dir(&self) -> &TempDir {
        &self.dir
    }

    pub fn error_log(&self) -> String {
        std::fs::read_to_string(self.dir.join("error.log")).unwrap_or_default()
    }

    fn wait_workers(&self) -> anyhow::Result<()> {
        for _ in 0..500 {
            if children(self.program.pid())?.len() == self.workers {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("nginx has not {} workers: {}", self.workers, self.error_log())
    }
}

/// Child processes of a process, as the kernel lists them.
pub fn children(pid: u32) -> anyhow::Result<Vec<u32>> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("threads of {pid}"))? {
        let list = std::fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        found.extend(list.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    Ok(found)
}
