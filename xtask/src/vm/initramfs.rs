//! The initial RAM disk: a static busybox, the modules that reach the host's files, and a script that goes there.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::exec;
use crate::setup::find_program;
use crate::vm::kernel::Kernel;

/// What is loaded, with what it depends on. Built-in ones are passed over.
const MODULES: [&str; 7] = [
    "virtio_pci",
    "9pnet_virtio",
    "9p",
    // Tests join network namespaces with it.
    "veth",
    // Tests make an address-translating hop with it; the checksum is asked for by name, not as a dependency.
    "crc32c_generic",
    "nft_chain_nat",
    "nft_nat",
];

/// Which of [`MODULES`] the machine does not start without.
const VITAL: [&str; 3] = ["virtio_pci", "9pnet_virtio", "9p"];

/// Mounts the host's files and hands over to the job's script in there.
const INIT: &str = r#"#!/bin/busybox sh
set -e
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module" || :; done < /modules/order
options=trans=virtio,version=9p2000.L,msize=262144
mount -t 9p -o "$options,cache=loose,ro" host /host
mount -t tmpfs tmpfs /host/tmp
mount -t tmpfs tmpfs /host/run
# The repository may lie where a temporary file system now hides it.
repo=$(sed -n 's/.*vm_repo=\([^ ]*\).*/\1/p' /proc/cmdline)
mkdir -p "/host$repo"
mount -t 9p -o "$options,cache=loose,ro" repo "/host$repo"
mkdir -p /host/run/job
mount -t 9p -o "$options,cache=none" job /host/run/job
for folder in proc sys dev; do mount --move "/$folder" "/host/$folder"; done
exec chroot /host /bin/sh /run/job/boot.sh
"#;

/// Packs the RAM disk for a kernel and returns its path.
pub(super) fn pack(kernel: &Kernel, folder: &Path) -> anyhow::Result<PathBuf> {
    let tree = folder.join("initramfs");
    if tree.exists() {
        fs::remove_dir_all(&tree).with_context(|| format!("clear {}", tree.display()))?;
    }
    for name in ["bin", "dev", "host", "modules", "proc", "sys"] {
        fs::create_dir_all(tree.join(name))
            .with_context(|| format!("create {name} in {}", tree.display()))?;
    }
    let busybox =
        find_program("busybox").context("busybox is missing; `cargo xtask setup test` installs it")?;
    fs::copy(&busybox, tree.join("bin/busybox")).context("copy busybox")?;
    let init = tree.join("init");
    fs::write(&init, INIT).context("write init")?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).context("make init executable")?;
    let mut modules = Modules::of(kernel)?;
    for name in MODULES {
        let found = modules.load(name)?;
        if !found && VITAL.contains(&name) {
            bail!("{} has no module {name}", kernel.package);
        }
    }
    modules.write(&tree.join("modules"))?;
    archive(&tree, &folder.join("initramfs.cpio"))
}

/// Uncompressed: it is read once, from memory.
fn archive(tree: &Path, file: &Path) -> anyhow::Result<PathBuf> {
    let mut names = Vec::new();
    list(tree, tree, &mut names)?;
    let output = fs::File::create(file).with_context(|| format!("create {}", file.display()))?;
    let mut cpio = Command::new("cpio");
    cpio.current_dir(tree).args(["--create", "--format=newc", "--quiet", "--owner=0:0"]);
    let mut child = cpio.stdin(Stdio::piped()).stdout(output).spawn().context("start cpio")?;
    let mut stdin = child.stdin.take().context("cpio's standard input")?;
    stdin.write_all(names.join("\n").as_bytes()).context("name files to cpio")?;
    drop(stdin);
    let status = child.wait().context("wait for cpio")?;
    if !status.success() {
        bail!("cpio: {status}");
    }
    Ok(file.to_owned())
}

/// Paths below `root`, folders before what they hold.
fn list(root: &Path, folder: &Path, names: &mut Vec<String>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry.with_context(|| format!("read {}", folder.display()))?.path();
        names.push(path.strip_prefix(root)?.to_string_lossy().into_owned());
        if path.is_dir() {
            list(root, &path, names)?;
        }
    }
    Ok(())
}

/// Kernel modules in the order in which they can be inserted.
#[derive(Debug)]
struct Modules {
    files: Vec<PathBuf>,
    builtin: BTreeSet<String>,
    seen: BTreeSet<String>,
    ordered: Vec<(String, Vec<u8>)>,
}

impl Modules {
    fn of(kernel: &Kernel) -> anyhow::Result<Self> {
        let mut names = Vec::new();
        list(&kernel.modules, &kernel.modules, &mut names)?;
        let is_module = |name: &&String| name.ends_with(".ko") || name.ends_with(".ko.xz");
        let files = names.iter().filter(is_module).map(|name| kernel.modules.join(name)).collect();
        let builtin = fs::read_to_string(kernel.modules.join("modules.builtin")).unwrap_or_default();
        let builtin = builtin.lines().filter_map(|line| module_name(Path::new(line))).collect();
        Ok(Self { files, builtin, seen: BTreeSet::new(), ordered: Vec::new() })
    }

    /// Adds a module after all that it depends on; whether the kernel has it in any form.
    fn load(&mut self, name: &str) -> anyhow::Result<bool> {
        if self.builtin.contains(name) || !self.seen.insert(name.to_owned()) {
            return Ok(true);
        }
        let Some(file) = self.files.iter().find(|file| module_name(file).as_deref() == Some(name)) else {
            return Ok(false);
        };
        let content = if file.extension().is_some_and(|extension| extension == "xz") {
            let mut xz = Command::new("xz");
            let output = xz.args(["--decompress", "--stdout"]).arg(file).output();
            let output = output.with_context(|| format!("unpack {}", file.display()))?;
            if !output.status.success() {
                bail!("{}: {}", exec::shown(&xz), output.status);
            }
            output.stdout
        } else {
            fs::read(file).with_context(|| format!("read {}", file.display()))?
        };
        for other in dependencies(&content) {
            if !self.load(&other)? {
                bail!("module {name} depends on {other}, which is not there");
            }
        }
        self.ordered.push((format!("{name}.ko"), content));
        Ok(true)
    }

    fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let mut order = String::new();
        for (name, content) in &self.ordered {
            fs::write(folder.join(name), content).with_context(|| format!("write {name}"))?;
            order.push_str(name);
            order.push('\n');
        }
        fs::write(folder.join("order"), order).context("write the order of modules")
    }
}

/// `kernel/fs/9p/9p.ko.xz` → `9p`; names are told apart with underscores only.
fn module_name(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?;
    let stem = name.strip_suffix(".xz").unwrap_or(name).strip_suffix(".ko")?;
    Some(stem.replace('-', "_"))
}

/// The `depends=` entry of a module's information section: strings, each ended by a zero byte.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = module[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value);
    names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_from_the_information_section() {
        assert_eq!(
            dependencies(b"\x7fELF..\0license=GPL\0depends=9pnet,virtio-ring\0x"),
            ["9pnet", "virtio_ring"]
        );
        assert_eq!(dependencies(b"\0depends=\0name=x\0"), [""; 0]);
        assert_eq!(dependencies(b"no such entry"), [""; 0]);
        assert_eq!(dependencies(b"\0depends=cut"), ["cut"]);
    }

    #[test]
    fn module_names_lose_folder_and_suffixes() {
        assert_eq!(
            module_name(Path::new("kernel/net/9p/9pnet-virtio.ko.xz")).as_deref(),
            Some("9pnet_virtio")
        );
        assert_eq!(module_name(Path::new("modules.dep")), None);
    }
}
