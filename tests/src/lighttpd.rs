//! Starts Debian's lighttpd with GnuTLS as its TLS, a folder and a configuration of its own.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use crate::program::{Program, free_port, wait_listening};
use crate::temp::TempDir;

/// A running lighttpd: one process, one thread.
#[derive(Debug)]
pub struct Lighttpd {
    pub program: Program,
    pub addr: SocketAddr,
    dir: TempDir,
}

impl Lighttpd {
    /// Starts it on a free port of 127.0.0.1, answering everything below `/work/`. `certificate` and `key`: paths.
    pub fn start(certificate: &str, key: &str) -> anyhow::Result<Self> {
        let dir = TempDir::new()?;
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let folder = dir.path().display();
        let text = format!(
            "server.modules = (\"mod_rewrite\", \"mod_gnutls\")\n\
             server.document-root = \"{folder}\"\n\
             server.upload-dirs = (\"{folder}\")\n\
             server.errorlog = \"{folder}/error.log\"\n\
             server.bind = \"{}\"\n\
             server.port = {}\n\
             server.listen-backlog = 4096\n\
             server.max-keep-alive-requests = 1000000\n\
             server.feature-flags = (\"server.h2proto\" => \"disable\")\n\
             ssl.engine = \"enable\"\n\
             ssl.pemfile = \"{certificate}\"\n\
             ssl.privkey = \"{key}\"\n\
             ssl.openssl.ssl-conf-cmd = (\"MinProtocol\" => \"TLSv1.2\")\n\
             url.rewrite-once = (\"^/work/\" => \"/answer\")\n",
            addr.ip(),
            addr.port()
        );
        dir.write("answer", "hello\n")?;
        let config = dir.write("lighttpd.conf", &text)?;
        let mut command = Command::new("lighttpd");
        command.arg("-D").arg("-f").arg(config);
        let program = Program::spawn("lighttpd", command)?;
        let lighttpd = Self { program, addr, dir };
        wait_listening(addr, Duration::from_secs(20)).with_context(|| lighttpd.error_log())?;
        Ok(lighttpd)
    }

    pub fn error_log(&self) -> String {
        std::fs::read_to_string(self.dir.join("error.log")).unwrap_or_default()
    }
}
