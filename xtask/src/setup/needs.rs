//! Which programs of the machine each group of commands needs, and the Debian package that has them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// What a machine can be made ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Group {
    /// Both halves
    Build,
    /// The programs that the demo traces
    Demo,
    /// The programs that the tests run and trace, and the virtual machines' own
    Test,
    /// The virtual machines
    Vm,
    /// The load generators, and what the measured binary is built with
    Bench,
    /// cargo-deny, for `ci`
    Lint,
    /// The Jaeger backend that tests send to (a build of several minutes)
    Jaeger,
}

impl Group {
    pub(crate) fn names(groups: &[Self]) -> String {
        use clap::ValueEnum as _;
        let names = groups.iter().filter_map(|group| Some(group.to_possible_value()?.get_name().to_owned()));
        names.collect::<Vec<_>>().join(", ")
    }
}

/// One program of the machine, or a file by a pattern of its whole path.
#[derive(Debug)]
pub(super) struct Need {
    pub(super) program: &'static str,
    pub(super) package: &'static str,
    pub(super) purpose: &'static str,
    groups: &'static [Group],
    /// Whether it must run without shared libraries, because it is copied into an initial RAM disk.
    is_static: bool,
}

const fn need(
    program: &'static str,
    package: &'static str,
    groups: &'static [Group],
    purpose: &'static str,
) -> Need {
    Need { program, package, purpose, groups, is_static: false }
}

use Group::{Bench, Build, Demo, Jaeger, Lint, Test, Vm};

static NEEDS: &[Need] = &[
    need("cc", "gcc", &[Build, Lint], "links Rust programs"),
    need("c++", "g++", &[Build], "links the kernel half's linker with LLVM"),
    need("ld", "binutils", &[Build], "links Rust programs"),
    need("nginx", "nginx", &[Demo, Test, Bench], "traced by the demo, tests and benchmarks"),
    need("curl", "curl", &[Demo, Test], "traced by the demo and tests"),
    need("python3", "python3", &[Demo, Test], "traced by the demo and tests"),
    need("node", "nodejs", &[Demo, Test], "traced by the demo and tests"),
    need("patchelf", "patchelf", &[Test], "tells newer versions of Python where their libraries are"),
    need("gunicorn", "gunicorn", &[Test], "traced by the accuracy tests"),
    need(
        "/usr/lib/python3/dist-packages/gevent/__init__.py",
        "python3-gevent",
        &[Test],
        "loops of gunicorn's, traced by the accuracy tests",
    ),
    need(
        "/usr/lib/python3/dist-packages/aiohttp/__init__.py",
        "python3-aiohttp",
        &[Test],
        "traced by the accuracy tests",
    ),
    need(
        "/usr/lib/python3/dist-packages/fastapi/__init__.py",
        "python3-fastapi",
        &[Test],
        "traced by the accuracy tests",
    ),
    need(
        "/usr/lib/python3/dist-packages/uvicorn/__init__.py",
        "python3-uvicorn",
        &[Test],
        "serves FastAPI, traced by the accuracy tests",
    ),
    need(
        "/usr/lib/python3/dist-packages/httptools/__init__.py",
        "python3-httptools",
        &[Test],
        "a parser of uvicorn's, traced by the accuracy tests",
    ),
    need(
        "/usr/lib/python3/dist-packages/httpx/__init__.py",
        "python3-httpx",
        &[Test],
        "a client of FastAPI's, traced by the accuracy tests",
    ),
    need(
        "/usr/lib/python3/dist-packages/uvloop/__init__.py",
        "python3-uvloop",
        &[Test],
        "traced by the accuracy tests",
    ),
    need("/usr/share/nodejs/undici/index.js", "node-undici", &[Test], "traced by the accuracy tests"),
    need("nghttp", "nghttp2-client", &[Test], "an HTTP/2 client, traced by tests"),
    need("h2load", "nghttp2-client", &[Test, Bench], "load of HTTP/2"),
    need("nghttpd", "nghttp2-server", &[Test, Bench], "an HTTP/2 server, traced by tests"),
    need("nghttpx", "nghttp2-proxy", &[Test], "an HTTP/2 proxy, traced by tests"),
    need(
        "/usr/lib/python3/dist-packages/grpc/__init__.py",
        "python3-grpcio",
        &[Test],
        "gRPC on its C core, traced by tests",
    ),
    need("ruby", "ruby", &[Test], "traced by the accuracy tests"),
    need("puma", "puma", &[Test], "traced by the accuracy tests"),
    need(
        "/usr/share/rubygems-integration/all/gems/webrick-*",
        "ruby-webrick",
        &[Test],
        "traced by the accuracy tests",
    ),
    need("/usr/sbin/php-fpm*", "php-fpm", &[Test], "traced by the accuracy tests"),
    need("/etc/php/*/mods-available/curl.ini", "php-curl", &[Test], "calls of PHP"),
    need("fcgiwrap", "fcgiwrap", &[Test], "traced by the accuracy tests"),
    need("go", "golang-go", &[Test, Jaeger], "traced by tests, builds Jaeger"),
    need("javac", "default-jdk-headless", &[Test], "traced by tests"),
    need("mvn", "maven", &[Test], "fetches netty and Jetty"),
    need("npm", "npm", &[Test], "fetches the newest Node.js"),
    need("pip3", "python3-pip", &[Test], "fetches the newest OpenSSL"),
    need(
        "/usr/lib/jvm/*2[1-9]*/bin/java",
        "openjdk-21-jdk-headless",
        &[Test],
        "a Java with virtual threads, traced by tests",
    ),
    need("/usr/share/java/grpc-netty.jar", "libgrpc-java", &[Test], "gRPC of Java, traced by tests"),
    need("/usr/share/java/netty-codec-http2.jar", "libnetty-java", &[Test], "carries gRPC of Java"),
    need("/usr/share/java/guava.jar", "libguava-java", &[Test], "gRPC of Java is built on it"),
    need("/usr/share/java/perfmark-api.jar", "libperfmark-java", &[Test], "gRPC of Java is built on it"),
    need("wget", "wget", &[Test], "speaks TLS through GnuTLS, traced by tests"),
    need("gnutls-cli", "gnutls-bin", &[Test], "GnuTLS's own client and server, traced by tests"),
    need("lighttpd", "lighttpd", &[Test], "a server with GnuTLS, traced by tests"),
    need("/usr/lib/lighttpd/mod_gnutls.so", "lighttpd-mod-gnutls", &[Test], "GnuTLS of lighttpd's"),
    need(
        "/usr/lib/python3/dist-packages/pycurl*.so",
        "python3-pycurl",
        &[Test],
        "libcurl on GnuTLS, traced by tests",
    ),
    need("ip", "iproute2", &[Test], "makes network namespaces for tests"),
    need("nft", "nftables", &[Test], "translates addresses for tests"),
    need("bpftool", "bpftool", &[Test], "shows tests what is loaded in the kernel"),
    need("wrk", "wrk", &[Bench, Test], "load for benchmarks"),
    need("openssl", "openssl", &[Bench], "a certificate for benchmarks and recordings"),
    need("qemu-system-x86_64", "qemu-system-x86", &[Test, Vm], "runs other kernels"),
    Need {
        program: "busybox",
        package: "busybox-static",
        groups: &[Test, Vm],
        purpose: "starts virtual machines",
        is_static: true,
    },
    need("cpio", "cpio", &[Test, Vm], "packs the virtual machines' initial RAM disk"),
    need("xz", "xz-utils", &[Test, Vm], "unpacks kernel modules"),
];

/// The programs that the groups need and this machine has not.
pub(super) fn missing(groups: &[Group]) -> Vec<&'static Need> {
    let wanted = NEEDS.iter().filter(|need| need.groups.iter().any(|group| groups.contains(group)));
    wanted.filter(|need| !need.is_met()).collect()
}

impl Need {
    fn is_met(&self) -> bool {
        if self.program.starts_with('/') {
            return glob::glob(self.program).is_ok_and(|mut found| found.next().is_some());
        }
        find_program(self.program).is_some_and(|path| !self.is_static || is_static(&path))
    }
}

/// Where a program is: in `PATH`, or where Debian puts administrators' programs.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|facts| facts.is_file() && facts.permissions().mode() & 0o111 != 0)
}

/// Whether an x86-64 ELF program names no dynamic loader (no `PT_INTERP` program header; elf(5)).
fn is_static(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|elf| static_elf(&elf) == Some(true))
}

fn static_elf(elf: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    let half = |at: usize| Some(u16::from_le_bytes(elf.get(at..at.checked_add(2)?)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_le_bytes(elf.get(at..at.checked_add(4)?)?.try_into().ok()?));
    if elf.get(..5)? != b"\x7fELF\x02" {
        return None;
    }
    let table = usize::try_from(u64::from_le_bytes(elf.get(0x20..0x28)?.try_into().ok()?)).ok()?;
    let (size, count) = (usize::from(half(0x36)?), usize::from(half(0x38)?));
    for index in 0..count {
        if word(table.checked_add(index * size)?)? == PT_INTERP {
            return Some(false);
        }
    }
    Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_name_or_pattern() {
        let is_met = |program| need(program, "", &[], "").is_met();
        assert!(is_met("sh") && is_met("/bin/s[h]") && is_met("/b*/sh"));
        assert!(!is_met("no-such-program") && !is_met("/bin/no-such-*"));
        assert_eq!(find_program("no-such-program"), None);
    }

    #[test]
    fn a_dynamic_program_is_not_static() {
        let this = std::env::current_exe().unwrap();
        assert!(!is_static(&this));
        assert!(!is_static(Path::new("/dev/null")));
    }

    #[test]
    fn truncated_programs_are_refused_not_read() {
        let this = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        for len in 0..200 {
            assert_ne!(static_elf(&this[..len]), Some(true), "{len} bytes");
        }
    }
}
