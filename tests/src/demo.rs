//! The programs of the demonstration: curl → nginx → a Python server → a Node server, all unmodified and without any
//! propagation of headers.
//!
//! They listen on free ports of 127.0.0.1, live in temporary folders and end with the value.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::nginx::{Config, Nginx};
use crate::program::{Program, describe_exit};
use crate::service::{Service, workload};

/// The running chain, and a curl that waits for its cue.
#[derive(Debug)]
pub struct Demo {
    curl: Program,
    nginx: Nginx,
    shop: Service,
    stock: Service,
}

/// Starts the chain and waits until every part of it listens.
pub fn start() -> anyhow::Result<Demo> {
    let mut stock = Command::new("node");
    stock.arg(workload("demo/stock.js"));
    let stock = Service::from_command("stock.js", stock).context("start the Node server")?;
    let mut shop = Command::new("python3");
    shop.arg(workload("demo/shop.py")).arg(stock.addr.to_string());
    let shop = Service::from_command("shop.py", shop).context("start the Python server")?;
    let nginx = Nginx::start(&Config::proxy(1, &shop.addr.to_string(), true)).context("start nginx")?;
    // A shell that becomes curl on a cue: its process id is known before curl's first byte.
    let mut curl = Command::new("sh");
    curl.args(["-c", "read cue && exec curl --silent --show-error --max-time 20 \"$0\"", &url(&nginx)]);
    curl.stdin(Stdio::piped());
    let curl = Program::spawn("curl", curl)?;
    Ok(Demo { curl, nginx, shop, stock })
}

impl Demo {
    /// What curl asks for: nginx answers it with the help of the others.
    pub fn url(&self) -> String {
        url(&self.nginx)
    }

    /// Processes to trace, curl first: those of [`Demo::programs`] and nginx's workers.
    pub fn pids(&self) -> anyhow::Result<Vec<u32>> {
        let mut pids = vec![self.curl.pid()];
        pids.extend(self.nginx.pids()?);
        pids.extend([self.shop.pid(), self.stock.pid()]);
        Ok(pids)
    }

    /// Name and main process of each program, upstream first.
    pub fn programs(&self) -> [(&'static str, u32); 4] {
        [
            ("curl", self.curl.pid()),
            ("nginx", self.nginx.program.pid()),
            ("python3 shop.py", self.shop.pid()),
            ("node stock.js", self.stock.pid()),
        ]
    }

    /// Lets curl make its request, once, and returns the answer.
    pub fn ask(&mut self) -> anyhow::Result<String> {
        let mut cue = self.curl.stdin().context("curl has asked already")?;
        cue.write_all(b"go\n").context("give curl its cue")?;
        let exit = self.curl.wait(Duration::from_secs(30))?;
        self.curl.wait_output_end(Duration::from_secs(2));
        if !exit.success() {
            bail!("curl ended with {}: {}", describe_exit(exit), self.curl.stderr());
        }
        Ok(self.curl.stdout())
    }
}

fn url(nginx: &Nginx) -> String {
    format!("http://{}/cart/42", nginx.addr)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_chain_answers_and_ends() {
        for program in ["nginx", "node", "python3", "curl"] {
            let found =
                std::process::Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
            if !found.is_ok_and(|output| output.status.success()) {
                eprintln!("skipped: no {program} here");
                return;
            }
        }
        let mut demo = super::start().unwrap();
        let pids = demo.pids().unwrap();
        let answer = demo.ask().unwrap();
        assert!(answer.contains(r#""cart": "/cart/42""#) && answer.contains(r#""item": "cups""#), "{answer}");
        drop(demo);
        for pid in pids {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            assert!(state.is_empty() || state.contains(") Z "), "{pid} lives on: {state}");
        }
    }
}
