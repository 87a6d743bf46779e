//! What it costs to find out which request of a process a call was made for: the same tracer with its rules off and on,
//! and with hand-offs between threads left alone and followed, in turn.

use std::process::Command;

use tracer_tests::nginx::{Config, Nginx};
use tracer_tests::service::{Service, workload};

use super::compare::{Case, Front, Subject};
use crate::setup::Group;

pub(super) const RULES: Subject = Subject {
    name: "rules",
    needs: &[Group::Build, Group::Bench],
    cases: &[
        Case {
            what: "all rules, of nginx before nginx",
            start: |downstream| Ok(Front::Nginx(Nginx::start(&Config::proxy(1, downstream, true))?)),
            without: &["--rules", "off"],
            with: &[],
            says: "",
            least_permille: 950,
        },
        Case {
            what: "all rules, of a Python server with a thread per connection before nginx",
            start: |downstream| relay(downstream, &[]),
            without: &["--rules", "off"],
            with: &[],
            says: "",
            least_permille: 950,
        },
        Case {
            what: "hand-offs, of a Python server with a pool before nginx",
            start: |downstream| relay(downstream, &["--pool", "8"]),
            without: &["--handoff", "off"],
            // Switched on by itself, where it is needed: for the front.
            with: &[],
            says: "followed hand-offs between threads of relay",
            least_permille: 900,
        },
    ],
};

fn relay(downstream: &str, options: &[&str]) -> anyhow::Result<Front> {
    let mut command = Command::new("python3");
    command.arg(workload("relay.py")).args(["--downstream", downstream]).args(options);
    Ok(Front::Service(Service::from_command("relay", command)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_shows_the_numbers_of_the_file() {
        RULES.check();
    }
}
