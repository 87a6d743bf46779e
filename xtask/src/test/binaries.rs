//! Test programs built beforehand, for places that have no compiler.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::exec;

/// Builds tests with a `cargo test` command and returns where each target's program is.
pub(crate) fn build(mut cargo: Command) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    cargo.args(["--no-run", "--message-format=json-render-diagnostics"]);
    eprintln!("$ {}", exec::shown(&cargo));
    let mut child = cargo.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start cargo")?;
    let stdout = child.stdout.take().context("cargo's output was not piped")?;
    let mut found = BTreeMap::new();
    for line in BufReader::new(stdout).lines() {
        found.extend(program(&line.context("read cargo's messages")?));
    }
    let status = child.wait().context("wait for cargo")?;
    if !status.success() {
        bail!("{}: {status}", exec::shown(&cargo));
    }
    Ok(found)
}

/// Target and program of one message, if it tells of a built test
/// (<https://doc.rust-lang.org/cargo/reference/external-tools.html#artifact-messages>).
fn program(message: &str) -> Option<(String, PathBuf)> {
    #[derive(serde::Deserialize)]
    struct Message {
        target: Target,
        profile: Profile,
        executable: PathBuf,
    }
    #[derive(serde::Deserialize)]
    struct Target {
        name: String,
        kind: Vec<String>,
    }
    #[derive(serde::Deserialize)]
    struct Profile {
        test: bool,
    }
    let Message { target, profile, executable } = serde_json::from_str(message).ok()?;
    (profile.test && target.kind.iter().any(|kind| kind == "test")).then_some((target.name, executable))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_integration_tests_are_taken() {
        let message = |kind: &str, test: bool| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"kind":["{kind}"],"name":"demo"}},"profile":{{"test":{test}}},"executable":"target/x"}}"#
            )
        };
        assert_eq!(program(&message("test", true)), Some(("demo".to_owned(), PathBuf::from("target/x"))));
        assert_eq!(program(&message("bin", false)), None);
        assert_eq!(program(&message("lib", true)), None);
        assert_eq!(program(r#"{"reason":"build-finished","success":true}"#), None);
    }
}
