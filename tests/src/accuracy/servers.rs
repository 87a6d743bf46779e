//! Workloads that are an application inside of a server with a configuration: nginx, gunicorn, Puma, PHP-FPM, CGI.

use std::fs::{Permissions, copy, create_dir, set_permissions, write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::Signal;

use super::family;
use super::workloads::{Class, Manner, Oracle, Running, Workload, options};
use crate::http2::grpc_service;
use crate::nginx::{Config, Nginx};
use crate::program::{Program, free_port, wait_listening};
use crate::service::{Runtime, Service, go_program, workload};
use crate::temp::TempDir;

/// How long a server may take until it listens and its workers are there.
const PATIENCE: Duration = Duration::from_secs(30);

/// Workers of servers that have a number of them.
const WORKERS: usize = 16;

pub(super) fn nginx(model: &'static str, directives: &'static str, keep_alive: bool) -> Workload {
    let start = move |_| {
        // Slow answers keep as many requests open at once as are asked for.
        let back = Service::start_with(Runtime::Go, None, &["--delay-ms", "20"])?;
        let mut config = Config::proxy(1, &back.addr.to_string(), keep_alive);
        config.http += "\nlimit_req_zone $server_port zone=slow:1m rate=2000r/s;";
        config.server = format!("{directives} {}", config.server);
        let nginx = Nginx::start(&config)?;
        Ok(Running {
            addr: nginx.addr,
            prefix: "",
            proxy: None,
            warms_up: true,
            front: vec![nginx.program.pid()],
            back: back.pid(),
            truth: Oracle::Same,
            log: Some(nginx.dir().join("error.log")),
            programs: vec![Box::new(nginx), Box::new(back)],
        })
    };
    Workload { runtime: "nginx", model, class: Class::Proxy, start: Box::new(start) }
}

/// The Go service with TLS in both roles. Who asks does so through nginx, which is not traced.
pub(super) fn go_tls(model: &'static str, option: &'static str, class: Class) -> Workload {
    let start = move |manner: Manner| {
        let dir = TempDir::new()?;
        let back = Service::start_with(Runtime::Go, None, &["--tls"])?;
        let downstream = back.addr.to_string();
        let mut arguments = options(&dir, manner);
        arguments.extend(["--tls", "--downstream", &downstream, "--model", option].map(str::to_owned));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let front = Service::start_with(Runtime::Go, None, &arguments)?;
        let mut config = Config::proxy(1, &front.addr.to_string(), true);
        config.server = config.server.replace("http://", "https://");
        config.server += "proxy_next_upstream off;";
        let shield = Nginx::start(&config)?;
        let running = listening(shield.addr, front.program, back, dir);
        Ok(running.with(shield))
    };
    Workload { runtime: "go", model, class, start: Box::new(start) }
}

/// Where a service speaks HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Http2 {
    Serves,
    Calls,
    Both,
    UnderTls,
}

/// The Go service with HTTP/2. Who asks it by that does so through a relay, which is not traced. What goes over connections
/// that are older than the tracer is not all known, so it is not asked before.
pub(super) fn go_http2(model: &'static str, http2: Http2, option: &'static str, class: Class) -> Workload {
    let start = move |manner: Manner| {
        let dir = TempDir::new()?;
        let (serves, calls) = (http2 != Http2::Calls, http2 != Http2::Serves);
        let tls: &[&str] = if http2 == Http2::UnderTls { &["--tls"] } else { &[] };
        let back = match calls {
            true => Service::start_with(Runtime::Go, None, &[&["--http2", "serve"], tls].concat())?,
            false => Service::start(Runtime::Python, None)?,
        };
        let way = match http2 {
            Http2::Serves => "serve",
            Http2::Calls => "call",
            Http2::Both | Http2::UnderTls => "both",
        };
        let (downstream, names) = (back.addr.to_string(), options(&dir, manner));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let own = ["--http2", way, "--downstream", &downstream, "--model", option];
        let front = Service::start_with(Runtime::Go, None, &[&own, tls, &names].concat())?;
        if !serves {
            return Ok(Running { warms_up: false, ..listening(front.addr, front.program, back, dir) });
        }
        let mut command = Command::new(go_program("http2_relay.go", "http2-relay", "local", &[])?);
        command.args(["--to", &front.addr.to_string()]).args(tls);
        let relay = Service::from_command("relay", command)?;
        let running = Running { warms_up: false, ..listening(relay.addr, front.program, back, dir) };
        Ok(running.with(relay))
    };
    Workload { runtime: "go", model, class, start: Box::new(start) }
}

/// Where the service of grpc-go speaks something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grpc {
    Everywhere,
    ServesHttp,
    CallsHttp,
    UnderTls,
}

/// The service of grpc-go. Who asks it by gRPC does so through another one, which is not traced. Connections are young, as
/// above.
pub(super) fn grpc_go(
    model: &'static str,
    grpc: Grpc,
    options: &'static [&'static str],
    class: Class,
) -> Workload {
    let start = move |manner: Manner| {
        let dir = TempDir::new()?;
        let other: &[&str] = match grpc {
            Grpc::Everywhere => &[],
            Grpc::ServesHttp => &["--http", "serve"],
            Grpc::CallsHttp => &["--http", "call"],
            Grpc::UnderTls => &["--tls"],
        };
        let tls: &[&str] = if grpc == Grpc::UnderTls { other } else { &[] };
        let service = |arguments: &[&str]| {
            let mut command = grpc_service()?;
            command.args(arguments);
            Service::from_command("grpc-go", command)
        };
        let back = match grpc {
            Grpc::CallsHttp => Service::start(Runtime::Python, None)?,
            Grpc::Everywhere | Grpc::ServesHttp | Grpc::UnderTls => service(tls)?,
        };
        let (downstream, names) = (back.addr.to_string(), self::options(&dir, manner));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let front = service(&[&["--downstream", &downstream], other, options, &names].concat())?;
        if grpc == Grpc::ServesHttp {
            return Ok(Running { warms_up: false, ..listening(front.addr, front.program, back, dir) });
        }
        let relay = service(&[&["--hand-on", "--downstream", &front.addr.to_string()], tls].concat())?;
        let running = Running { warms_up: false, ..listening(relay.addr, front.program, back, dir) };
        Ok(running.with(relay))
    };
    Workload { runtime: "go", model, class, start: Box::new(start) }
}

/// The WSGI service under gunicorn with one sort of worker.
pub(super) fn gunicorn(worker: &'static str, model: &'static str, class: Class) -> Workload {
    let start = move |manner: Manner| {
        let dir = TempDir::new()?;
        let back = Service::start(Runtime::Python, None)?;
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let mut options = options(&dir, manner);
        options.extend(["--downstream".to_owned(), back.addr.to_string()]);
        let mut command = Command::new("gunicorn");
        command
            .args(["--bind", &addr.to_string(), "--worker-class", worker, "--workers", "3"])
            .args(["--worker-connections", "200", "--backlog", "1024", "--chdir"])
            .arg(workload(""))
            .arg("wsgi:app")
            .env("WSGI_OPTIONS", options.join(" "))
            .env("WSGI_MODEL", model)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        // With threads, a sync worker would be a gthread one.
        if worker == "gthread" {
            command.args(["--threads", "16"]);
        }
        let program = Program::spawn("gunicorn", command)?;
        wait_family(&program, addr, 4)?;
        Ok(listening(addr, program, back, dir))
    };
    let model = match worker {
        "sync" => "gunicorn sync",
        "gthread" => "gunicorn gthread, pool",
        _ => "gunicorn gevent",
    };
    Workload { runtime: "python", model, class, start: Box::new(start) }
}

/// The Rack service under Puma, which has a pool of threads itself.
pub(super) fn puma(model: &'static str, class: Class) -> Workload {
    let start = move |manner: Manner| {
        let dir = TempDir::new()?;
        let back = Service::start(Runtime::Python, None)?;
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let mut options = options(&dir, manner);
        options.extend(["--downstream", &back.addr.to_string(), "--model", model].map(str::to_owned));
        let mut command = Command::new("puma");
        command
            .args(["--quiet", "--threads", "5:16", "--environment", "production", "--bind"])
            .arg(format!("tcp://{addr}"))
            .arg(workload("service.ru"))
            .env("RACK_OPTIONS", options.join(" "));
        let program = Program::spawn("puma", command)?;
        wait_family(&program, addr, 1)?;
        Ok(listening(addr, program, back, dir))
    };
    let model = match model {
        "pool" => "Puma, pool",
        "after" => "Puma, after",
        "seldom-after" => "Puma, seldom after",
        _ => "Puma",
    };
    Workload { runtime: "ruby", model, class, start: Box::new(start) }
}

/// A PHP script under PHP-FPM, which nginx asks over TCP, on connections that are kept.
pub(super) fn php_fpm(class: Class) -> Workload {
    let start = move |manner: Manner| {
        let dir = TempDir::new()?;
        let back = Service::start(Runtime::Python, None)?;
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        dir.write(
            "fpm.conf",
            &format!(
                "[global]\nerror_log = {log}\ndaemonize = no\n[www]\nuser = root\ngroup = root\nlisten = {addr}\n\
                 listen.backlog = 1024\npm = static\npm.max_children = {WORKERS}\ncatch_workers_output = yes\n",
                log = dir.join("fpm.log").display()
            ),
        )?;
        let mut command = Command::new(php_fpm_program()?);
        // Workers stay root: the temporary folder need not be open to others.
        command.args(["--nodaemonize", "--allow-to-run-as-root", "--fpm-config"]).arg(dir.join("fpm.conf"));
        let fpm = Program::spawn_dying_by("php-fpm", command, Signal::TERM)?;
        wait_family(&fpm, addr, 1 + WORKERS)?;
        let upstream = (addr.to_string(), "keepalive 4;", "fastcgi_keep_conn on;");
        // Its path is in every request.
        let script = dir.join("work.php");
        copy(workload("fpm/work.php"), &script).context("copy the script")?;
        behind_nginx(upstream, &script, manner, fpm, back, dir)
    };
    Workload { runtime: "php", model: "PHP-FPM", class, start: Box::new(start) }
}

/// What runs the shell script.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cgi {
    /// busybox's server: a process per connection reads the request and hands on what the script prints.
    Busybox,
    /// Python's: the script writes to the connection itself.
    Python,
    /// Behind nginx by FastCGI over a Unix socket.
    Fcgiwrap,
}

/// A shell script as a process per request, which calls with curl.
pub(super) fn cgi(server: Cgi, class: Class) -> Workload {
    let start = move |manner: Manner| {
        let dir = TempDir::new()?;
        let back = Service::start(Runtime::Python, None)?;
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let script = open_to_all(&dir)?;
        let mut command = match server {
            Cgi::Busybox => {
                let mut command = Command::new("busybox");
                command.args(["httpd", "-f", "-p", &addr.to_string(), "-h"]).arg(dir.path());
                command
            }
            Cgi::Python => {
                let mut command = Command::new("python3");
                command.args(["-m", "http.server", "--cgi", "--bind", "127.0.0.1", &addr.port().to_string()]);
                command.current_dir(dir.path());
                command
            }
            Cgi::Fcgiwrap => {
                let mut command = Command::new("fcgiwrap");
                let socket = dir.join("socket");
                command.args(["-c", &WORKERS.to_string(), "-s"]).arg(format!("unix:{}", socket.display()));
                command
            }
        };
        for (name, value) in surroundings(&dir, &back, manner) {
            command.env(name, value);
        }
        let program = Program::spawn_dying_by("cgi", command, Signal::TERM)?;
        if let Cgi::Fcgiwrap = server {
            let socket = dir.join("socket");
            for _ in 0..500 {
                if socket.exists() && family(program.pid()).len() > WORKERS {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            let upstream = (format!("unix:{}", socket.display()), "", "");
            return behind_nginx(upstream, &script, manner, program, back, dir);
        }
        wait_family(&program, addr, 1)?;
        Ok(Running { prefix: "/cgi-bin", ..listening(addr, program, back, dir) })
    };
    let model = match server {
        Cgi::Busybox => "CGI, busybox httpd",
        Cgi::Python => "CGI, http.server",
        Cgi::Fcgiwrap => "CGI, nginx and fcgiwrap",
    };
    Workload { runtime: "shell", model, class, start: Box::new(start) }
}

/// Puts the script and an empty ledger where a user without rights may run and write them: Python's server runs scripts
/// as `nobody`.
fn open_to_all(dir: &TempDir) -> anyhow::Result<PathBuf> {
    let (folder, ledger) = (dir.join("cgi-bin"), dir.join("ledger"));
    let script = folder.join("work");
    create_dir(&folder)?;
    copy(workload("cgi-bin/work"), &script)?;
    write(&ledger, "")?;
    for (path, mode) in [(dir.path(), 0o755), (&folder, 0o755), (&script, 0o755), (&ledger, 0o666)] {
        set_permissions(path, Permissions::from_mode(mode)).context("open the folder to scripts")?;
    }
    Ok(script)
}

/// What a script is told.
fn surroundings(dir: &TempDir, back: &Service, manner: Manner) -> [(&'static str, String); 3] {
    [
        ("DOWNSTREAM", back.addr.to_string()),
        ("LEDGER", dir.join("ledger").to_string_lossy().into_owned()),
        ("NAMES", if manner.random_names { "random" } else { "numbered" }.to_owned()),
    ]
}

/// nginx before a FastCGI program: its address, and directives of the upstream and of the location.
fn behind_nginx(
    (upstream, pool, kept): (String, &str, &str),
    script: &Path,
    manner: Manner,
    program: Program,
    back: Service,
    dir: TempDir,
) -> anyhow::Result<Running> {
    let mut params = vec![
        ("SCRIPT_FILENAME", script.to_string_lossy().into_owned()),
        ("PATH", std::env::var("PATH").context("PATH")?),
    ];
    for (name, variable) in [
        ("PATH_INFO", "$uri"),
        ("QUERY_STRING", "$query_string"),
        ("REQUEST_METHOD", "$request_method"),
        ("REQUEST_URI", "$request_uri"),
        ("CONTENT_TYPE", "$content_type"),
        ("CONTENT_LENGTH", "$content_length"),
        ("SERVER_PROTOCOL", "$server_protocol"),
        ("SERVER_NAME", "$server_name"),
        ("SERVER_PORT", "$server_port"),
        ("REMOTE_ADDR", "$remote_addr"),
    ] {
        params.push((name, variable.to_owned()));
    }
    params.extend(surroundings(&dir, &back, manner));
    let params: String =
        params.iter().map(|(name, value)| format!("fastcgi_param {name} '{value}'; ")).collect();
    let nginx = Nginx::start(&Config {
        workers: 1,
        http: format!("upstream backend {{ server {upstream}; {pool} }}"),
        server: format!("location / {{ fastcgi_pass backend; {kept} {params} }}"),
    })?;
    Ok(Running {
        proxy: Some(nginx.program.pid()),
        log: Some(nginx.dir().join("error.log")),
        addr: nginx.addr,
        ..listening(nginx.addr, program, back, dir)
    }
    .with(nginx))
}

/// A server that keeps a ledger in its folder.
fn listening(addr: SocketAddr, program: Program, back: Service, dir: TempDir) -> Running {
    Running {
        addr,
        prefix: "",
        warms_up: true,
        proxy: None,
        front: vec![program.pid()],
        back: back.pid(),
        truth: Oracle::Ledger(dir.join("ledger")),
        programs: vec![Box::new(program), Box::new(back), Box::new(dir)],
        log: None,
    }
}

/// Waits until the server listens and has `members` processes.
fn wait_family(program: &Program, addr: SocketAddr, members: usize) -> anyhow::Result<()> {
    wait_listening(addr, PATIENCE).with_context(|| program.stderr())?;
    for _ in 0..300 {
        if family(program.pid()).len() >= members {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("{} has not {members} processes: {}", program.name(), program.stderr())
}

/// Debian's name of it ends in its version.
fn php_fpm_program() -> anyhow::Result<PathBuf> {
    let folder = std::fs::read_dir("/usr/sbin").context("look for PHP-FPM")?;
    let mut found: Vec<_> = folder.flatten().map(|entry| entry.path()).collect();
    found.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("php-fpm")));
    found.into_iter().max().context("no PHP-FPM in /usr/sbin")
}
