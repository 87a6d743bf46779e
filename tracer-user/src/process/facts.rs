//! Everything that a process's resource needs, from its folder in `/proc`; what is gone already, from its exec record.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tracer_abi::task::ProcessKey;
use tracer_core::event::{ProcessExeced, ProcessFacts};

use super::container::container_id;
use super::environment::{self, OtelIdentity};
use super::nginx::NginxDetector;
use super::procfs::ProcDir;
use super::service_name::{Program, executable_name, service_name, text};
use super::users::Users;

/// Arguments beyond this do not name a program. The limit also bounds what `--command-args` keeps.
const MAX_CMDLINE_BYTES: usize = 32 * 1024;
/// One line per hierarchy; paths are at most 4 KiB.
const MAX_CGROUP_BYTES: usize = 64 * 1024;
/// About 1.5 KiB.
const MAX_STATUS_BYTES: usize = 16 * 1024;

/// Describes processes; keeps what is the same for many of them.
#[derive(Debug)]
pub(crate) struct Describer {
    nginx: NginxDetector,
    users: Users,
    command_args: bool,
}

/// What was found, from whichever source.
#[derive(Default)]
struct Found {
    argv: Vec<Vec<u8>>,
    exe: Option<PathBuf>,
    cwd: Option<PathBuf>,
    identity: OtelIdentity,
    container_id: Option<String>,
    uid: Option<u32>,
    ns_pid: Option<u32>,
    is_nginx: bool,
}

impl Describer {
    /// `command_args`: keep the arguments.
    pub(crate) fn new(command_args: bool) -> Self {
        Self { nginx: NginxDetector::default(), users: Users::read(), command_args }
    }

    /// `None` when the process has gone and there is no record of how it was started.
    pub(crate) fn describe(
        &mut self,
        process: ProcessKey,
        exec: Option<&ProcessExeced>,
    ) -> Option<ProcessFacts> {
        let mut found = match ProcDir::open_exactly(process) {
            Ok(dir) => self.read(&dir),
            Err(_) => Found::default(),
        };
        if found.argv.is_empty() && found.exe.is_none() {
            let exec = exec?;
            found.argv = arguments(&exec.argv);
            let path = Path::new(OsStr::from_bytes(&exec.filename));
            found.exe = Some(path.to_owned()).filter(|path| path.is_absolute());
        }
        let comm = exec.map(|exec| exec.comm.as_ref()).unwrap_or_default();
        Some(self.facts(found, comm))
    }

    /// Each part is missing on its own: a process may end, or forbid it, between any two reads.
    fn read(&mut self, dir: &ProcDir) -> Found {
        let status = dir.read("status", MAX_STATUS_BYTES).map(|(bytes, _)| bytes).unwrap_or_default();
        let exe = dir.link("exe").ok();
        let name = exe.as_deref().and_then(Path::file_name).map(|name| text(name.as_bytes()));
        Found {
            argv: dir
                .read("cmdline", MAX_CMDLINE_BYTES)
                .map(|(bytes, _)| arguments(&bytes))
                .unwrap_or_default(),
            cwd: dir.link("cwd").ok(),
            identity: dir.file("environ").and_then(environment::read).unwrap_or_default(),
            container_id: dir
                .read("cgroup", MAX_CGROUP_BYTES)
                .ok()
                .and_then(|(bytes, _)| container_id(&bytes)),
            uid: status_numbers(&status, b"Uid:").get(1).copied(),
            ns_pid: status_numbers(&status, b"NSpid:").last().copied().filter(|pid| *pid != dir.tgid.0),
            is_nginx: name.is_some_and(|name| self.nginx.is_nginx(&name, || dir.file("exe"))),
            exe,
        }
    }

    fn facts(&mut self, found: Found, comm: &[u8]) -> ProcessFacts {
        let Found { argv, exe, cwd, identity, container_id, uid, ns_pid, is_nginx } = found;
        let program = Program { argv: &argv, exe: exe.as_deref(), cwd: cwd.as_deref(), comm };
        let OtelIdentity { service_name: own_name, resource_attributes } = identity;
        let attribute = || {
            let named = resource_attributes.iter().find(|(key, _)| key == "service.name");
            named.map(|(_, name)| name.clone()).filter(|name| !name.is_empty())
        };
        let name = own_name.or_else(attribute).unwrap_or_else(|| service_name(program));
        let executable_name = Some(executable_name(program)).filter(|name| !name.is_empty());
        ProcessFacts {
            service_name: name,
            executable_name,
            executable_path: exe.map(|path| text(path.as_os_str().as_bytes())),
            command_args: self.command_args.then(|| argv.iter().map(|arg| text(arg)).collect()),
            owner: uid.map(|uid| self.users.name(uid)),
            container_id,
            ns_pid,
            resource_attributes,
            is_nginx,
        }
    }
}

/// Arguments, each ended by NUL. One that is not, was cut: half an argument would be half a name.
fn arguments(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut arguments: Vec<Vec<u8>> = bytes.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect();
    // Behind the last NUL there is nothing, or the cut argument. A title that a program wrote over its arguments may
    // have no NUL at all and is whole.
    if arguments.len() > 1 || arguments.first().is_some_and(Vec::is_empty) {
        arguments.pop();
    }
    arguments
}

/// The numbers behind a key of `/proc/<pid>/status`.
fn status_numbers(status: &[u8], key: &[u8]) -> Vec<u32> {
    let line = status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(key));
    let numbers = line.and_then(|line| std::str::from_utf8(line).ok()).unwrap_or_default();
    numbers.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use bytes::Bytes;
    use tracer_abi::task::Tgid;
    use tracer_abi::time::KernelInstant;
    use tracer_core::event::Origin;

    use super::*;

    /// Ends with the test.
    struct Running(Child);

    impl Running {
        fn start(command: &mut Command) -> (Self, ProcessKey) {
            let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
            let tgid = Tgid(child.id());
            let dir = ProcDir::open(tgid).unwrap();
            let start = dir.stat().unwrap().start;
            // `spawn` returns when the exec closes its pipe, a little before the new program's memory is laid out.
            while dir.read("environ", 1).unwrap().0.is_empty() {
                std::thread::yield_now();
            }
            (Self(child), ProcessKey { tgid, start_boottime: start.0 * 10_000_000 + 5 })
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn exec(filename: &str, argv: &[u8]) -> ProcessExeced {
        ProcessExeced {
            origin: Origin { time: KernelInstant::ZERO, thread: None, cpu: 0 },
            comm: Bytes::from_static(b"comm"),
            parent: Tgid(1),
            filename: Bytes::copy_from_slice(filename.as_bytes()),
            argv: Bytes::copy_from_slice(argv),
            traced: true,
        }
    }

    #[test]
    fn a_running_process() {
        let mut command = Command::new("/bin/cat");
        command.env_clear().env("SECRET", "hunter2").env("OTEL_RESOURCE_ATTRIBUTES", "service.version=3,a=b");
        let (_running, key) = Running::start(&mut command);
        let facts = Describer::new(false).describe(key, None).unwrap();
        assert_eq!(facts.service_name, "cat");
        assert_eq!(facts.executable_name.as_deref(), Some("cat"));
        assert!(facts.executable_path.as_deref().unwrap().ends_with("/cat"));
        assert_eq!(facts.command_args, None);
        assert!(facts.owner.is_some());
        let attributes = [("service.version".to_owned(), "3".to_owned()), ("a".to_owned(), "b".to_owned())];
        assert_eq!(facts.resource_attributes, attributes);
        assert!(!format!("{facts:?}").contains("hunter2"));
    }

    #[test]
    fn its_own_name_comes_first() {
        for (variables, want) in [
            (&[("OTEL_SERVICE_NAME", "cart")][..], "cart"),
            (&[("OTEL_RESOURCE_ATTRIBUTES", "service.name=cart")], "cart"),
            (&[("OTEL_SERVICE_NAME", "x"), ("OTEL_RESOURCE_ATTRIBUTES", "service.name=y")], "x"),
            (&[("OTEL_RESOURCE_ATTRIBUTES", "service.name=")], "cat"),
        ] {
            let mut command = Command::new("/bin/cat");
            let (_running, key) = Running::start(command.env_clear().envs(variables.iter().copied()));
            assert_eq!(Describer::new(false).describe(key, None).unwrap().service_name, want);
        }
    }

    #[test]
    fn arguments_only_when_asked_for() {
        let (_running, key) = Running::start(Command::new("/bin/cat").args(["-", "-u"]));
        let facts = Describer::new(true).describe(key, None).unwrap();
        assert_eq!(facts.command_args.unwrap()[1..], ["-", "-u"]);
    }

    #[test]
    fn a_process_that_has_gone_is_what_its_exec_said() {
        let (running, key) = Running::start(&mut Command::new("/bin/cat"));
        drop(running);
        let mut describer = Describer::new(false);
        assert_eq!(describer.describe(key, None), None);
        let facts = describer.describe(key, Some(&exec("/usr/bin/curl", b"curl\0http://x\0"))).unwrap();
        assert_eq!(
            (facts.service_name.as_str(), facts.executable_path.as_deref()),
            ("curl", Some("/usr/bin/curl"))
        );
        let facts = describer.describe(key, Some(&exec("/usr/bin/python3", b"python3\0shop.py\0"))).unwrap();
        assert_eq!(facts.service_name, "shop");
        // Cut in the middle of an argument.
        let facts = describer.describe(key, Some(&exec("/usr/bin/python3", b"python3\0sho"))).unwrap();
        assert_eq!(facts.service_name, "python3");
    }

    #[test]
    fn a_pid_that_was_given_away_is_not_described() {
        let (_running, key) = Running::start(&mut Command::new("/bin/cat"));
        let earlier = ProcessKey { start_boottime: key.start_boottime - 10_000_000, ..key };
        assert_eq!(Describer::new(false).describe(earlier, None), None);
    }

    #[test]
    fn argument_vectors() {
        let check = |bytes: &[u8], want: &[&str]| {
            let found: Vec<String> = arguments(bytes).iter().map(|argument| text(argument)).collect();
            assert_eq!(found, want, "{bytes:?}");
        };
        check(b"", &[]);
        check(b"a\0b\0", &["a", "b"]);
        check(b"a\0\0", &["a", ""]);
        check(b"a\0b", &["a"]);
        check(b"nginx: worker process", &["nginx: worker process"]);
    }
}
