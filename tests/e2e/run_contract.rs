//! `tracer run` is invisible to the command that it runs: exit code, input, environment, descriptors, terminal, signals
//! and user are as they would be without it. And it sees the command from its first byte to its last descendant's.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tracer_tests::http::drive;
use tracer_tests::program::Program;
use tracer_tests::service::{Runtime, Service};
use tracer_tests::spans::{Kind, Span};
use tracer_tests::temp::TempDir;
use tracer_tests::tracer::{Tracer, binary, run};

/// Loading the kernel half takes seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn tracer<S: AsRef<OsStr>>(options: &[&str], command: &[S]) -> Command {
    let mut tracer = Command::new(binary().expect("tracer"));
    tracer.arg("run").args(["--format", "none"]).args(options).arg("--").args(command);
    tracer.env_remove("SUDO_UID").env_remove("SUDO_GID").stdin(Stdio::null());
    tracer
}

fn shell(script: &str) -> [&str; 3] {
    ["sh", "-c", script]
}

/// A server that answers every request, until the test ends.
fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let addr = listener.local_addr().expect("address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        }
    });
    addr
}

#[test]
fn the_exit_code_is_the_commands() {
    let dir = TempDir::new().expect("dir");
    let not_executable = dir.write("plain", "text").expect("write");
    let not_executable = not_executable.to_str().expect("path");
    for (command, want) in [
        (&["true"][..], 0),
        (&shell("exit 7"), 7),
        (&shell("kill -TERM $$"), 143),
        (&shell("kill -KILL $$"), 137),
        (&["no-such-command-here"], 127),
        (&["/nowhere/command"], 127),
        (&[not_executable], 126),
    ] {
        let output = tracer(&[], command).output().expect("run");
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(want), "{command:?}: {log}");
        assert!(output.stdout.is_empty(), "{command:?}");
    }
}

#[test]
fn input_output_environment_and_descriptors_are_the_commands() {
    let dir = TempDir::new().expect("dir");
    let mut tracer = tracer(&[], &shell("cat; pwd; env -0 | sort -z | tr '\\0' '\\n'; ls /proc/self/fd"));
    let bare = |command: &mut Command| {
        command.env_clear().env("PATH", "/usr/bin:/bin").env("ODD", "a\nb\u{e9}").current_dir(dir.path());
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run");
        let mut input = child.stdin.take().expect("stdin");
        input.write_all(b"from outside\n\0\xff").expect("write");
        drop(input);
        let output = child.wait_with_output().expect("wait");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let mut without = Command::new("sh");
    without.args(["-c", "cat; pwd; env -0 | sort -z | tr '\\0' '\\n'; ls /proc/self/fd"]);
    let (traced, untraced) = (bare(&mut tracer), bare(&mut without));
    assert_eq!(String::from_utf8_lossy(&traced), String::from_utf8_lossy(&untraced));
}

#[test]
fn signals_sent_to_the_tracer_reach_the_command() {
    let script = "trap 'exit 42' TERM; trap 'exit 43' INT; trap 'exit 44' USR1; echo ready; while :; do sleep 0.05; done";
    for (signal, want) in [(Signal::TERM, 42), (Signal::INT, 43), (Signal::USR1, 44)] {
        let mut program =
            Program::spawn_dying_by("tracer run", tracer(&[], &shell(script)), Signal::TERM).expect("run");
        program.wait_stdout("ready", PATIENCE).expect("ready");
        program.signal(signal).expect("signal");
        let exit = program.wait(PATIENCE).expect("end");
        assert_eq!(exit.code(), Some(want), "{signal:?}: {}", program.stderr());
    }
}

#[test]
fn the_signal_mask_and_ignored_signals_are_the_callers() {
    // Of the 31 standard signals: the C library uses the two after them for itself.
    let script = "trap '' USR2; exec \"$@\" grep -E '^Sig(Blk|Ign)' /proc/self/status";
    let masks = |prefix: &[&OsStr]| {
        let mut command = Command::new("sh");
        let output = command.args(["-c", script, "sh"]).args(prefix).output().expect("run");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mask = |line: &str| u64::from_str_radix(line.split_whitespace().last()?, 16).ok();
        text.lines().filter_map(mask).map(|mask| mask & 0x7fff_ffff).collect::<Vec<_>>()
    };
    let binary = binary().expect("tracer");
    let traced =
        masks(&[binary.as_os_str(), "run".as_ref(), "--format".as_ref(), "none".as_ref(), "--".as_ref()]);
    // A test that runs in the background has more of them ignored.
    assert_eq!(traced, masks(&[]));
    assert_eq!(traced.iter().map(|mask| mask & 1 << 11).collect::<Vec<_>>(), [0, 1 << 11]);
}

/// A terminal of its own, and a program in its foreground.
struct Terminal {
    keyboard: std::fs::File,
    child: Child,
    shown: String,
}

impl Terminal {
    fn start(mut command: Command) -> Self {
        let (mut master, mut slave) = (-1, -1);
        let size = libc::winsize { ws_row: 33, ws_col: 77, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: all pointers are to live variables or null, as the call allows.
        let opened = unsafe {
            libc::openpty(
                &raw mut master,
                &raw mut slave,
                std::ptr::null_mut(),
                std::ptr::null(),
                &raw const size,
            )
        };
        assert_eq!(opened, 0, "no terminal");
        // SAFETY: both descriptors are new and owned by nobody else.
        let (master, slave) = unsafe { (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
        let end = || slave.try_clone().expect("clone");
        command.stdin(end()).stdout(end()).stderr(end());
        // SAFETY: two system calls between fork and exec; standard input is the terminal by then.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                if libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().expect("run");
        // The terminal closes for the reader when the last program with it has ended.
        drop((slave, command));
        rustix::fs::fcntl_setfl(&master, rustix::fs::OFlags::NONBLOCK).expect("flags");
        Self { keyboard: master.into(), child, shown: String::new() }
    }

    fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.shown.contains(text) {
            assert!(Instant::now() < deadline, "{text:?} not shown: {}", self.shown);
            self.look();
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn look(&mut self) {
        let mut bytes = [0; 4096];
        while let Ok(len @ 1..) = self.keyboard.read(&mut bytes) {
            self.shown += &String::from_utf8_lossy(&bytes[..len]);
        }
    }

    fn end(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.look();
            if let Some(exit) = self.child.try_wait().expect("wait") {
                self.look();
                return (exit, std::mem::take(&mut self.shown));
            }
            assert!(Instant::now() < deadline, "does not end: {}", self.shown);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_terminal_is_the_commands() {
    let terminal = Terminal::start(tracer(
        &[],
        &shell("test -t 0 && test -t 1 && stty size; read line; echo got $line"),
    ));
    let mut terminal = terminal;
    terminal.wait_for("33 77");
    terminal.keyboard.write_all(b"typed\n").expect("type");
    terminal.wait_for("got typed");
    let (exit, shown) = terminal.end();
    assert!(exit.success(), "{exit}: {shown}");
}

#[test]
fn interrupt_at_the_terminal_reaches_the_command_once_and_the_tracer_outlives_it() {
    // It counts, so that an interrupt that is forwarded as well would show.
    let script = "n=0; trap 'n=$((n+1)); echo int $n' INT; trap 'echo bye; exit $((40+n))' TERM; echo ready; \
                  while :; do sleep 0.05; done";
    let mut terminal = Terminal::start(tracer(&[], &shell(script)));
    terminal.wait_for("ready");
    terminal.keyboard.write_all(b"\x03").expect("type");
    terminal.wait_for("int 1");
    std::thread::sleep(Duration::from_millis(300));
    kill_process(Pid::from_child(&terminal.child), Signal::TERM).expect("signal");
    let (exit, shown) = terminal.end();
    assert_eq!(exit.code(), Some(41), "{exit}: {shown}");
    assert!(shown.contains("bye") && shown.contains("0 spans"), "{shown}");
}

#[test]
fn a_command_stopped_at_the_terminal_goes_on() {
    // A shell with job control, as in real life: the tracer and its command are one job of it.
    let binary = binary().expect("tracer");
    let script = format!(
        "set -m; {} run --format none -- sh -c 'echo ready; read line; exit 9'; echo stopped $?; fg; echo ended $?",
        binary.display()
    );
    let mut shell = Command::new("bash");
    shell.args(["--norc", "-c", &script]);
    let mut terminal = Terminal::start(shell);
    terminal.wait_for("ready");
    terminal.keyboard.write_all(b"\x1a").expect("type");
    terminal.wait_for("stopped 148");
    terminal.keyboard.write_all(b"go\n").expect("type");
    terminal.wait_for("ended 9");
    terminal.end();
}

#[test]
fn the_command_runs_as_the_user_who_called_sudo() {
    let script = "id -u; id -g; id -G; echo $HOME; grep -E '^Cap(Prm|Eff)' /proc/self/status";
    let nobody = "65534\n65534\n65534\n";
    let none = "CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n";
    let by_name = tracer(&["--user", "nobody"], &shell(script)).output().expect("run");
    let text = String::from_utf8_lossy(&by_name.stdout).into_owned();
    assert!(text.starts_with(nobody) && text.ends_with(none), "{text}");
    let mut sudo = tracer(&[], &shell(script));
    let by_sudo = sudo.env("SUDO_UID", "65534").env("SUDO_GID", "65534").output().expect("run");
    assert_eq!(String::from_utf8_lossy(&by_sudo.stdout), text);
    let mut root = tracer(&["--user", "root"], &shell("id -u"));
    let as_root = root.env("SUDO_UID", "65534").env("SUDO_GID", "65534").output().expect("run");
    assert_eq!(String::from_utf8_lossy(&as_root.stdout), "0\n");
    let unknown = tracer(&["--user", "no-such-user"], &["true"]).output().expect("run");
    assert_eq!(unknown.status.code(), Some(64));
}

#[test]
fn descendants_are_traced_from_their_first_byte() {
    let url = format!("http://{}/", server());
    let script = format!("curl -s {url}a; sh -c 'curl -s {url}b; exec curl -s {url}c'; (curl -s {url}d)");
    let report = run(&[], shell(&script)).expect("run");
    let mut paths: Vec<_> =
        report.spans.iter().map(|span| span.path().unwrap_or_default().to_owned()).collect();
    paths.sort();
    assert_eq!(paths, ["/a", "/b", "/c", "/d"], "{}", report.log);
    for span in &report.spans {
        assert_eq!((span.kind, span.service()), (Kind::Client, "curl"), "{span:?}");
        assert_eq!(span.int("http.response.status_code"), Some(200), "{span:?}");
        assert_eq!(span.str("tracer.incomplete"), None, "{span:?}");
    }
}

#[test]
fn it_ends_with_the_command_or_follows_its_descendants() {
    let url = format!("http://{}/", server());
    let script = format!("(sleep 2; curl -s {url}later) >/dev/null 2>&1 & curl -s {url}now; exit 5");
    let report = run(&[], shell(&script)).expect("run");
    assert_eq!(report.exit.code(), Some(5), "{}", report.log);
    assert_eq!(report.spans.len(), 1, "{:?}", report.spans);
    let report = run(&["--follow"], shell(&script)).expect("run");
    assert_eq!(report.exit.code(), Some(5), "{}", report.log);
    assert_eq!(report.spans.len(), 2, "{:?}", report.spans);
}

#[test]
fn a_stalled_output_holds_up_neither_command_nor_tracer() {
    let url = format!("http://{}/", server());
    let (reader, writer) = std::io::pipe().expect("pipe");
    rustix::pipe::fcntl_setpipe_size(&writer, 4096).expect("size");
    // Full before it begins.
    let filler = writer.try_clone().expect("clone");
    rustix::fs::fcntl_setfl(&filler, rustix::fs::OFlags::NONBLOCK).expect("flags");
    while (&filler).write(&[b'x'; 512]).is_ok() {}
    rustix::fs::fcntl_setfl(&filler, rustix::fs::OFlags::empty()).expect("flags");
    let script = format!("for i in 1 2 3 4 5 6 7 8 9; do curl -s {url} 2>/dev/null; done; exit 6");
    let mut tracer = Command::new(binary().expect("tracer"));
    tracer.args(["run", "--format", "line", "-v", "--"]).args(shell(&script));
    let mut child = tracer.stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer).spawn().expect("run");
    let deadline = Instant::now() + PATIENCE;
    let exit = loop {
        if let Some(exit) = child.try_wait().expect("wait") {
            break exit;
        }
        if Instant::now() > deadline {
            child.kill().expect("kill");
            child.wait().expect("wait");
            panic!("a stalled standard error holds up the tracer");
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!((exit.code(), exit.signal()), (Some(6), None));
    assert!(reader.as_raw_fd() >= 0);
}

#[test]
fn a_recording_replays_to_the_same_spans() {
    let dir = TempDir::new().expect("dir");
    let url = format!("http://{}/", server());
    let (recording, live, again) = (dir.join("run.rec"), dir.join("live"), dir.join("again"));
    let mut tracer = Command::new(binary().expect("tracer"));
    tracer.arg("run").args(["--format", "otlp-json", "-o"]).arg(&live).arg("--record").arg(&recording);
    tracer.args(["--", "sh", "-c", &format!("for i in 1 2 3; do curl -s {url}$i; done")]);
    let output = tracer.stdin(Stdio::null()).output().expect("run");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && log.contains("payload"), "{log}");
    let mut replay = Command::new(binary().expect("tracer"));
    replay.arg("replay").arg(&recording).args(["--format", "otlp-json", "-o"]).arg(&again);
    let output = replay.output().expect("replay");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (live, again) = (tracer_tests::spans::read_file(&live), tracer_tests::spans::read_file(&again));
    let (live, again) = (live.expect("live"), again.expect("again"));
    assert_eq!(live.len(), 3, "{live:?}");
    assert_eq!(format!("{live:?}"), format!("{again:?}"));
    // The same name again is refused.
    let output = tracer.output().expect("run");
    assert_eq!(output.status.code(), Some(1));
}

/// Without rules nobody is asked whose work a call is, and each call says why it has no parent.
#[test]
fn rules_can_be_left_out() {
    let back = Service::start(Runtime::Asyncio, None).expect("start the leaf");
    let front = Service::start(Runtime::Asyncio, Some(back.addr)).expect("start the front");
    let options = ["--rules", "off", "-v"];
    let tracer = Tracer::attach_with(&[front.pid(), back.pid()], &options).expect("attach");
    drive(front.addr, 4, 60, |client, number| client.get(&format!("/work/r{number}")).map(drop))
        .expect("load");
    let report = tracer.finish().expect("tracer");
    let front_calls = |span: &&Span| span.kind == Kind::Client && span.pid() == front.pid();
    let calls: Vec<&Span> = report.spans.iter().filter(front_calls).collect();
    assert!(calls.iter().all(|call| call.parent.is_none()), "{calls:#?}");
    // A call from before the first request has no cause.
    let told: BTreeSet<_> = calls.iter().filter_map(|call| call.str("tracer.parent.undecided")).collect();
    assert_eq!(told, ["rules-off"].into(), "{}", report.log);
    let joined = report.spans.iter().filter(|span| span.kind == Kind::Server && span.parent.is_some());
    assert!(joined.count() > 0, "{}", report.log);
    // Where runtimes are asked, the summary says what it cost.
    assert!(!report.log.contains("runtimes asked"), "{}", report.log);
}

/// Of a loop more is asked while it is recorded than when it is replayed.
#[test]
fn a_recording_of_a_loop_says_the_same_of_parents() {
    let dir = TempDir::new().expect("dir");
    let back = Service::start(Runtime::Node, None).expect("start the leaf");
    let front = Service::start(Runtime::Node, Some(back.addr)).expect("start the front");
    let (recording, again) = (dir.join("run.rec"), dir.join("again"));
    let options = ["--record", recording.to_str().expect("path")];
    let tracer = Tracer::attach_with(&[front.pid(), back.pid()], &options).expect("attach");
    drive(front.addr, 4, 60, |client, number| client.get(&format!("/work/r{number}")).map(drop))
        .expect("load");
    let live = tracer.finish().expect("tracer").spans;
    let mut replay = Command::new(binary().expect("tracer"));
    replay.arg("replay").arg(&recording).args(["--format", "otlp-json", "-o"]).arg(&again);
    assert!(replay.status().expect("replay").success());
    let again = tracer_tests::spans::read_file(&again).expect("again");
    assert!(live.iter().any(|span| span.str("tracer.parent.undecided").is_some()), "{live:?}");
    assert_eq!(format!("{live:?}"), format!("{again:?}"));
}
