//! A Debian kernel, fetched and unpacked below the target folder and never installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::exec;
use crate::repo::Repo;

/// A kernel series that is tested, by the two numbers that stay while Debian's package names move with every security
/// update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Series {
    /// Debian 12's own: the oldest supported, without socket-length tracepoints
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13's own, here as the backport to Debian 12
    #[value(name = "6.12")]
    V6_12,
}

impl Series {
    pub(crate) const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }

    /// What the names of the series' kernel images begin with.
    fn package_prefix(self) -> &'static str {
        match self {
            Self::V6_1 => "linux-image-6.1.",
            Self::V6_12 => "linux-image-6.12.",
        }
    }

    /// The newest image among package names. Flavours (`cloud`, `rt`), unsigned and debug packages are others.
    fn newest<'a>(self, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
        let images = names.filter(|name| {
            let version =
                name.strip_prefix(self.package_prefix()).and_then(|rest| rest.strip_suffix("-amd64"));
            version.is_some_and(|version| {
                !["cloud", "rt", "dbg", "unsigned"].iter().any(|f| version.contains(f))
            })
        });
        images.max_by_key(|name| numbers(name))
    }
}

/// The numbers in a name, so that 6.12.117 comes after 6.12.99.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// An unpacked kernel.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    pub(crate) series: Series,
    /// The package it came from, which names the exact version.
    pub(crate) package: String,
    pub(crate) image: PathBuf,
    /// `lib/modules/VERSION` of the package.
    pub(crate) modules: PathBuf,
}

impl Kernel {
    /// The kernel of this series that is unpacked already, else the newest one that the package archive has.
    pub(crate) fn obtain(repo: &Repo, series: Series, newest: bool) -> anyhow::Result<Self> {
        let folder = repo.target().join("vm").join(series.name());
        if !newest && let Some(kernel) = Self::unpacked(&folder, series) {
            return Ok(kernel);
        }
        let package = match listed(series)? {
            Some(package) if !newest => package,
            _ => {
                // A fresh machine has no package lists, an old one old lists.
                exec::run(Command::new("apt-get").args(["--quiet=1", "update"]))?;
                let package = listed(series)?;
                package.with_context(|| format!("no kernel {} in the package lists", series.name()))?
            }
        };
        if let Some(kernel) = Self::unpacked(&folder, series)
            && kernel.package == package
        {
            return Ok(kernel);
        }
        fetch(&folder, &package)?;
        Self::unpacked(&folder, series).with_context(|| format!("{package} holds no kernel"))
    }

    fn unpacked(folder: &Path, series: Series) -> Option<Self> {
        // Written last: a fetch that was cut short is no kernel.
        let package = std::fs::read_to_string(folder.join("package")).ok()?;
        let root = folder.join("root");
        let image = entry(&root.join("boot"), "vmlinuz-")?;
        let modules = entry(&root.join("lib/modules"), "")?;
        Some(Self { series, package, image, modules })
    }
}

fn listed(series: Series) -> anyhow::Result<Option<String>> {
    let mut names = Command::new("apt-cache");
    let names =
        exec::output(names.args(["pkgnames", series.package_prefix()])).context("list Debian's kernels")?;
    Ok(series.newest(names.lines()).map(str::to_owned))
}

fn fetch(folder: &Path, package: &str) -> anyhow::Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).with_context(|| format!("clear {}", folder.display()))?;
    }
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let mut apt = Command::new("apt-get");
    // Without its sandbox, whose user cannot write here.
    apt.args(["--quiet=1", "-o", "APT::Sandbox::User=root", "download", package]);
    exec::run(apt.current_dir(folder))?;
    let Some(archive) = entry(folder, package) else { bail!("{package} was not downloaded") };
    exec::run(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(folder.join("root")))?;
    std::fs::remove_file(&archive).with_context(|| format!("remove {}", archive.display()))?;
    std::fs::write(folder.join("package"), package).context("note the unpacked package")
}

/// The entry of a folder whose name begins so.
fn entry(folder: &Path, prefix: &str) -> Option<PathBuf> {
    let mut entries = std::fs::read_dir(folder).ok()?.flatten();
    entries.find(|entry| entry.file_name().to_string_lossy().starts_with(prefix)).map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_plain_image_is_chosen() {
        let names = [
            "linux-image-6.12.99+deb12-amd64",
            "linux-image-6.12.117+deb12-amd64",
            "linux-image-6.12.118+deb12-cloud-amd64",
            "linux-image-6.12.119+deb12-rt-amd64",
            "linux-image-6.12.120+deb12-amd64-unsigned",
            "linux-image-6.12.121+deb12-amd64-dbg",
            "linux-image-6.12-amd64",
            "linux-image-6.1.0-9-amd64",
            "linux-image-6.1.0-56-amd64",
        ];
        assert_eq!(Series::V6_12.newest(names.into_iter()), Some("linux-image-6.12.117+deb12-amd64"));
        assert_eq!(Series::V6_1.newest(names.into_iter()), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(Series::V6_1.newest(["linux-image-6.12.1-amd64"].into_iter()), None);
    }
}
