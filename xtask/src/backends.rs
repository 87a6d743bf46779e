//! The programs in Go that judge spans: Jaeger's backend, and the OpenTelemetry Collector's reader of OTLP JSON.
//!
//! Each is built from a module of the project's own that pins every version (`go.sum`), so that nothing is asked of a
//! checksum database, into the target folder. Jaeger takes five minutes on two processors and is built once per version.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use crate::exec;
use crate::repo::Repo;
use crate::setup::find_program;

/// The oldest Go that can fetch the release that a module asks for.
const OLDEST_GO: (u32, u32) = (1, 21);

/// Jaeger on a slow machine, with its downloads.
const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);

/// A program in Go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Jaeger,
    Pdata,
}

impl Backend {
    pub(crate) const ALL: [Self; 2] = [Self::Pdata, Self::Jaeger];

    /// The variable that tells tests where it is.
    pub(crate) const fn variable(self) -> &'static str {
        match self {
            Self::Jaeger => "TRACER_JAEGER",
            Self::Pdata => "TRACER_PDATA",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Jaeger => "jaeger",
            Self::Pdata => "pdata",
        }
    }

    const fn package(self) -> &'static str {
        match self {
            Self::Jaeger => "github.com/jaegertracing/jaeger/cmd/jaeger",
            Self::Pdata => ".",
        }
    }

    fn module(self, repo: &Repo) -> PathBuf {
        repo.root().join("tests").join(self.name())
    }

    pub(crate) fn program(self, repo: &Repo) -> PathBuf {
        repo.tools().join("bin").join(self.name())
    }

    /// What the program that lies there was built from.
    fn stamp(self, repo: &Repo) -> PathBuf {
        repo.tools().join(format!("{}.go.mod", self.name()))
    }

    /// Whether it is there in the version that its module names.
    pub(crate) fn is_built(self, repo: &Repo) -> bool {
        let wanted = std::fs::read(self.module(repo).join("go.mod"));
        let built = std::fs::read(self.stamp(repo));
        // The reader's own source may change; Go knows whether it did, and builds it in a second.
        self == Self::Jaeger
            && self.program(repo).exists()
            && matches!((wanted, built), (Ok(wanted), Ok(built)) if wanted == built)
    }

    /// Builds it if need be.
    ///
    /// # Errors
    /// When Go or the network fails.
    pub(crate) fn build(self, repo: &Repo) -> anyhow::Result<()> {
        if self.is_built(repo) {
            return Ok(());
        }
        let (module, program) = (self.module(repo), self.program(repo));
        std::fs::create_dir_all(repo.tools().join("bin")).context("create the folder for tools")?;
        let new = program.with_extension("new");
        let mut go = Command::new("go");
        go.current_dir(&module).args([
            "build",
            "-mod=readonly",
            "-buildvcs=false",
            "-trimpath",
            "-ldflags=-s -w",
        ]);
        exec::run_within(go.arg("-o").arg(&new).arg(self.package()), BUILD_LIMIT)?;
        // Whole or not at all, also when two builds run at once.
        std::fs::rename(&new, &program).with_context(|| format!("put {} in place", program.display()))?;
        std::fs::copy(module.join("go.mod"), self.stamp(repo)).context("note what was built")?;
        Ok(())
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jaeger => "Jaeger (built from source: about five minutes)",
            Self::Pdata => "the Collector's reader of OTLP JSON",
        })
    }
}

/// Why none of them can be built on this machine, if so.
pub(crate) fn obstacle() -> Option<String> {
    if find_program("go").is_none() {
        return Some("there is no Go; `cargo xtask setup jaeger` installs it".to_owned());
    }
    let version = exec::output(Command::new("go").args(["env", "GOVERSION"])).ok()?;
    let numbers = parse_version(&version)?;
    let (major, minor) = OLDEST_GO;
    (numbers < OLDEST_GO).then(|| format!("{version} is older than go{major}.{minor}"))
}

/// `go1.26.8` and the like.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.strip_prefix("go")?.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_go() {
        for (text, numbers) in [
            ("go1.26.8", Some((1, 26))),
            ("go1.19", Some((1, 19))),
            ("go1.27rc1", Some((1, 27))),
            ("devel", None),
        ] {
            assert_eq!(parse_version(text), numbers);
        }
    }

    #[test]
    fn every_module_pins_its_versions() {
        let repo = Repo::locate().unwrap();
        for backend in Backend::ALL {
            let module = backend.module(&repo);
            assert!(module.join("go.mod").exists() && module.join("go.sum").exists(), "{}", module.display());
        }
    }
}
