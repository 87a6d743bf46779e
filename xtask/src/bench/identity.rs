//! What it costs to ask a process's runtime whose work an operation is: the same tracer that asks nobody and that asks, in
//! turn.

use std::process::Command;

use tracer_tests::service::{Service, go_program, workload};

use super::compare::{Case, Front, Subject};
use crate::setup::Group;

/// Asks no runtime.
const NOBODY: &[&str] = &["--identity-budget", "0"];

/// What the tracer says when it has asked.
const SAYS: &str = "runtimes asked ";

pub(super) const IDENTITY: Subject = Subject {
    name: "identity",
    needs: &[Group::Build, Group::Bench, Group::Test],
    cases: &[
        Case {
            what: "asyncio, and nothing but its streams",
            start: |downstream| python(downstream, &[]),
            without: NOBODY,
            with: &[],
            says: SAYS,
            least_permille: 950,
        },
        Case {
            what: "the same on uvloop",
            start: |downstream| python(downstream, &["--loop", "uvloop"]),
            without: NOBODY,
            with: &[],
            says: SAYS,
            least_permille: 950,
        },
        Case {
            what: "FastAPI on uvicorn and uvloop, with httpx",
            start: |downstream| python(downstream, &["--loop", "uvloop", "--server", "fastapi"]),
            without: NOBODY,
            with: &[],
            says: SAYS,
            least_permille: 950,
        },
        Case {
            what: "Go's net/http",
            start: go,
            without: NOBODY,
            with: &[],
            says: SAYS,
            least_permille: 920,
        },
    ],
};

fn python(downstream: &str, options: &[&str]) -> anyhow::Result<Front> {
    let mut command = Command::new("/usr/bin/python3");
    command.arg(workload("relay_asyncio.py")).args(["--downstream", downstream]).args(options);
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(Front::Service(Service::from_command("relay", command)?))
}

fn go(downstream: &str) -> anyhow::Result<Front> {
    let mut command = Command::new(go_program("relay.go", "relay-go", "local", &[])?);
    command.args(["--downstream", downstream]);
    Ok(Front::Service(Service::from_command("relay", command)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_shows_the_numbers_of_the_file() {
        IDENTITY.check();
    }
}
