//! `cargo xtask build --profile-guided`: the binary, compiled for what it does most.
//!
//! What the user half spends its time on is spread thin over much code, so that the compiler's guesses of what is called
//! often cost more than anything else does. So it is built twice. The first build counts; it is trained on recordings, of
//! which no program and no privilege is needed. The second one is compiled with those counts. Neither shares a target folder
//! with plain builds, so that each is made once for a state of the sources.
//!
//! What is not on the recordings' way counts as rare: the training must have something of every protocol and of every kind
//! of parent.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::UNIX_EPOCH;

use anyhow::{Context as _, bail, ensure};

use crate::bench::{Sink, make_recording};
use crate::repo::Repo;
use crate::setup::find_program;
use crate::{ebpf, exec};

/// Replays of each committed recording. They are short, and together are to weigh as much as the long one.
const REPLAYS: usize = 40;

/// A server with few requests open at once, and with many: exchanges, connections, open at once.
const LOADS: [(u64, u64, u64); 2] = [(60_000, 64, 1), (20_000, 2_000, 2_000)];

/// Builds the binary in this way and puts it where a plain build does.
pub(crate) fn build(repo: &Repo) -> anyhow::Result<()> {
    let compiler = Compiler::ask()?;
    let Some(merger) = compiler.profdata() else {
        bail!("the compiler's llvm-profdata is missing; `cargo xtask setup bench` installs it");
    };
    ebpf::build_object(repo.root())?;
    let folder = repo.target().join("guided");
    let counting = compiler.build(repo, &folder.join("counting"), "-Cprofile-generate")?;
    let profile = folder.join(format!("{}.profdata", version(&counting)?));
    if !profile.exists() {
        // Of another state of the sources.
        for old in matching(&folder, "*.profdata")? {
            fs::remove_file(&old).with_context(|| format!("remove {}", old.display()))?;
        }
        train(repo, &counting, &folder.join("training"), &merger, &profile)?;
    }
    let mut flag = OsString::from("-Cprofile-use=");
    flag.push(&profile);
    let built = compiler.build(repo, &folder.join("guided"), flag)?;
    replace(&built, &repo.tracer())
}

/// Files of a folder, by a pattern of their names.
fn matching(folder: &Path, pattern: &str) -> anyhow::Result<Vec<PathBuf>> {
    let folder = glob::Pattern::escape(folder.to_str().context("the repository's path is no text")?);
    let found = glob::glob(&format!("{folder}/{pattern}")).context("the pattern of files")?;
    Ok(found.filter_map(Result::ok).collect())
}

/// What tells one build of a program from the next: the compiler does not see that a profile's content has changed, so its
/// name has to.
fn version(program: &Path) -> anyhow::Result<u128> {
    let modified = program.metadata().and_then(|facts| facts.modified()).context("time of the build")?;
    Ok(modified.duration_since(UNIX_EPOCH).context("time of the build")?.as_nanos())
}

/// Puts a copy where a running one may be.
fn replace(from: &Path, to: &Path) -> anyhow::Result<()> {
    let aside = to.with_extension("aside");
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    fs::copy(from, &aside).with_context(|| format!("copy {}", from.display()))?;
    fs::rename(&aside, to).with_context(|| format!("put {} in its place", to.display()))
}

/// The compiler of the user half.
struct Compiler {
    /// Triple of the machine that it runs on, and builds for.
    host: String,
    /// Major version of its LLVM.
    llvm: String,
    /// Where its libraries for that are.
    libraries: PathBuf,
}

impl Compiler {
    fn ask() -> anyhow::Result<Self> {
        let rustc = || Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        let facts = exec::output(rustc().arg("-vV"))?;
        let fact = |name: &str| {
            let value = facts.lines().find_map(|line| line.strip_prefix(name));
            value.with_context(|| format!("what rustc says of its {name}"))
        };
        let llvm = fact("LLVM version: ")?.split('.').next().unwrap_or_default().to_owned();
        let libraries = exec::output(rustc().args(["--print", "target-libdir"]))?.into();
        Ok(Self { host: fact("host: ")?.to_owned(), llvm, libraries })
    }

    /// What merges profiles of programs that it has built: its own, or the machine's of the same LLVM.
    fn profdata(&self) -> Option<PathBuf> {
        let own = self.libraries.with_file_name("bin").join("llvm-profdata");
        if own.exists() { Some(own) } else { find_program(&format!("llvm-profdata-{}", self.llvm)) }
    }

    /// The release binary. What runs while it is built, such as macros, is not to count: it is left alone where a target is
    /// named.
    fn build(&self, repo: &Repo, folder: &Path, flag: impl Into<OsString>) -> anyhow::Result<PathBuf> {
        let mut cargo = repo.cargo();
        cargo.env("CARGO_TARGET_DIR", folder).env("CARGO_ENCODED_RUSTFLAGS", flag.into());
        exec::run(cargo.args(["build", "--release", "--package", "tracer", "--target", &self.host]))?;
        Ok(folder.join(&self.host).join("release/tracer"))
    }
}

/// Whether there is what [`build`] needs beyond a plain build; else the package that has it where rustup has not.
pub(crate) fn missing() -> Option<String> {
    let compiler = Compiler::ask().ok()?;
    compiler.profdata().is_none().then(|| format!("llvm-{}", compiler.llvm))
}

/// Lets the counting binary work, and writes what it counted.
fn train(repo: &Repo, counting: &Path, folder: &Path, merger: &Path, profile: &Path) -> anyhow::Result<()> {
    println!("training on recordings");
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("clear {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let sink = Sink::start()?;
    let run = |recording: &Path, outputs: &[&str]| -> anyhow::Result<()> {
        let mut tracer = Command::new(counting);
        tracer.arg("replay").arg(recording).args(outputs).current_dir(folder);
        exec::without_otel(&mut tracer);
        // All runs add to one file.
        tracer.env("LLVM_PROFILE_FILE", folder.join("%m.profraw"));
        let ended =
            tracer.stdout(Stdio::null()).stderr(Stdio::null()).status().context("start the training")?;
        ensure!(ended.success(), "{}: {ended}", exec::shown(&tracer));
        Ok(())
    };
    let endpoint = sink.endpoint();
    let exported = ["--otlp-endpoint", &endpoint, "--otlp-protocol", "http/protobuf"];
    for (number, (exchanges, connections, open_at_once)) in LOADS.into_iter().enumerate() {
        let path = folder.join(format!("{number}.rec"));
        make_recording(&path, exchanges, connections, open_at_once)?;
        run(&path, &exported)?;
    }
    let recordings = matching(&repo.root().join("tests/replay"), "*.rec")?;
    ensure!(!recordings.is_empty(), "there are no recordings to train on");
    for recording in recordings {
        for _ in 0..REPLAYS {
            run(&recording, &exported)?;
        }
        for format in ["tree", "line", "otlp-json"] {
            run(&recording, &["--format", format])?;
        }
    }
    ensure!(sink.take() > 0, "no span came of the training");
    let mut merge = Command::new(merger);
    exec::run(merge.args(["merge", "-o"]).arg(profile).args(matching(folder, "*.profraw")?))?;
    fs::remove_dir_all(folder).with_context(|| format!("clear {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiler_says_what_it_is() {
        let compiler = Compiler::ask().unwrap();
        assert!(compiler.host.starts_with(std::env::consts::ARCH), "{}", compiler.host);
        assert!(compiler.llvm.parse::<u32>().is_ok_and(|llvm| llvm >= 19), "{}", compiler.llvm);
        assert!(compiler.libraries.ends_with("lib"), "{}", compiler.libraries.display());
    }

    #[test]
    fn a_program_is_replaced_as_a_whole() {
        let folder = tracer_tests::temp::TempDir::new().unwrap();
        let (from, to) = (folder.join("from"), folder.join("release/tracer"));
        fs::write(&from, "new").unwrap();
        replace(&from, &to).unwrap();
        let mut old = fs::File::open(&to).unwrap();
        fs::write(&from, "newer").unwrap();
        replace(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), "newer");
        // Whoever has it open keeps what it has.
        assert_eq!(std::io::read_to_string(&mut old).unwrap(), "new");
        assert!(!to.with_extension("aside").exists());
        assert!(version(&from).unwrap() > 0);
    }
}
