//! The walk to a client's connection: in a real worker, and over made-up memory.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tracer_abi::nginx::{BLOCKS, Client, client, connection, find_stream, stream};
use tracer_abi::python::Memory;
use tracer_abi::task::Tgid;

use super::super::memory::ProcessMemory;
use super::*;
use crate::process::procfs::ProcDir;

/// Ends with the test.
struct Standing(Child);

impl Drop for Standing {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A worker, and nobody else, that asks `back` for everything, and before that whether it may.
fn worker(folder: &Path, back: u16) -> Option<(Standing, u16)> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {};", folder.join(what).display()))
        .concat();
    let config = format!(
        "daemon off; master_process off; pid {};
         events {{}}
         http {{
             access_log off; {temporary}
             server {{
                 listen 127.0.0.1:{port};
                 location / {{ auth_request /may; proxy_pass http://127.0.0.1:{back}; }}
                 location = /may {{ internal; proxy_pass http://127.0.0.1:{back}; }}
             }}
         }}",
        folder.join("pid").display()
    );
    let file = folder.join("nginx.conf");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-p").arg(folder).arg("-c").arg(&file).args(["-e", "/dev/null"]);
    let Ok(child) = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
        eprintln!("skipped: no nginx here");
        return None;
    };
    Some((Standing(child), port))
}

/// What its instances of epoll watch: descriptors, and what was given for each.
fn watched(pid: u32) -> BTreeMap<u32, u64> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    let texts = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
    let all: Vec<String> = texts.collect();
    let lines = all.iter().flat_map(|text| text.lines()).filter(|line| line.starts_with("tfd:"));
    lines
        .filter_map(|line| {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let after = |name| words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1));
            Some((after("tfd:")?.parse().ok()?, u64::from_str_radix(after("data:")?, 16).ok()?))
        })
        .collect()
}

#[test]
fn a_real_worker_says_for_whom_it_asks() {
    let back = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = std::env::temp_dir().join(format!("tracer-nginx-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let Some((worker, port)) = worker(&folder, back.local_addr().unwrap().port()) else { return };
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut idle = loop {
        if let Ok(idle) = TcpStream::connect(("127.0.0.1", port)) {
            break idle;
        }
        assert!(Instant::now() < deadline, "nginx does not listen");
        std::thread::sleep(Duration::from_millis(20));
    };
    idle.write_all(b"GET /not HTTP/1.1\r\n").unwrap();
    let mut asking = TcpStream::connect(("127.0.0.1", port)).unwrap();
    asking.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    // The subrequest has been sent, and nobody answers it.
    let (mut held, _) = back.accept().unwrap();
    held.read_exact(&mut [0]).unwrap();

    let pid = Tgid(worker.0.id());
    let dir = ProcDir::open(pid).unwrap();
    let process = ProcessKey { tgid: pid, start_boottime: dir.stat().unwrap().start.0 * 10_000_000 };
    let finding = super::super::examine(process);
    assert!(matches!(&finding, Finding::Nginx(name, _) if name.0 == "nginx"), "{finding:?}");
    let memory = ProcessMemory::new(dir.file("mem").unwrap());
    let watched = watched(pid.0);
    let found: Vec<(u32, Client)> = watched
        .iter()
        .filter_map(|(descriptor, data)| Some((*descriptor, client(&memory, *data, *descriptor)?)))
        .collect();
    let _ = std::fs::remove_dir_all(&folder);
    let [(upstream, found)] = found.as_slice() else { panic!("{found:?} of {watched:?}") };
    assert_ne!(*upstream, found.descriptor);
    assert_eq!(connection(watched[&found.descriptor]), found.connection);
    // Which of the clients asks: the kernel has both ends of its socket.
    let own = asking.local_addr().unwrap().port();
    let link = std::fs::read_link(format!("/proc/{}/fd/{}", pid.0, found.descriptor)).unwrap();
    let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", pid.0)).unwrap();
    let peer = table.lines().find_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let inode = words.get(9)?;
        (link.to_str()? == format!("socket:[{inode}]")).then(|| words[2].to_owned())
    });
    assert_eq!(peer, Some(format!("0100007F:{own:04X}")));
    // Another descriptor than epoll's own.
    assert_eq!(client(&memory, watched[upstream], upstream + 1), None);
}

#[derive(Debug)]
struct Words(BTreeMap<u64, u64>);

impl Memory for Words {
    fn word(&self, address: u64) -> u64 {
        self.0.get(&address).copied().unwrap_or(0)
    }

    fn half(&self, address: u64) -> u32 {
        self.word(address) as u32
    }

    fn byte(&self, address: u64) -> u8 {
        self.word(address) as u8
    }
}

const UPSTREAM: u64 = 0x5500_0000_1000;
const REQUEST: u64 = 0x5500_0000_2000;
const CLIENT: u64 = 0x5500_0000_3000;

fn asking() -> Words {
    let mark = u64::from(u32::from_le_bytes(*b"HTTP"));
    Words(BTreeMap::from([
        (UPSTREAM, REQUEST),
        (UPSTREAM + 24, 9),
        (REQUEST, mark),
        (REQUEST + 8, CLIENT),
        (CLIENT, REQUEST),
        (CLIENT + 24, 7),
    ]))
}

#[test]
fn an_upstream_s_connection_leads_to_the_client_s() {
    let memory = asking();
    let found = Some(Client { request: REQUEST, connection: CLIENT, descriptor: 7 });
    assert_eq!(client(&memory, UPSTREAM, 9), found);
    // nginx marks which use of the place an event is for.
    assert_eq!(client(&memory, UPSTREAM | 1, 9), found);
    assert_eq!(client(&memory, CLIENT, 7), None, "its own");
    assert_eq!(client(&memory, 0, 0), None);
}

proptest! {
    /// Whatever a word is changed to: nothing is named but through a connection and a request that are marked as such.
    #[test]
    fn what_does_not_fit_names_nobody(at in 0..6_usize, value: u64) {
        let mut memory = asking();
        let (place, known) = memory.0.iter().nth(at).map(|(place, known)| (*place, *known)).unwrap();
        memory.0.insert(place, value);
        let found = client(&memory, UPSTREAM, 9);
        match place {
            UPSTREAM => prop_assert!(found.is_none() || value == known),
            _ if place == UPSTREAM + 24 || place == REQUEST => {
                prop_assert!(found.is_none() || value as u32 == known as u32);
            }
            _ => prop_assert!(found.is_none_or(|found| found.connection != UPSTREAM)),
        }
    }
}

const SHARED: u64 = 0x5500_0000_4000;
const STREAM: u64 = 0x5500_0000_5000;
const STREAMS: u64 = 0x5500_0000_6000;
const NODE: u64 = 0x5500_0000_7000;
const OFFSET: u64 = 0x308;

/// The same request, as a stream of a client's connection.
fn asking_for_a_stream() -> (Words, Client) {
    let mut memory = asking();
    memory.0.extend([
        (REQUEST + OFFSET, STREAM),
        (STREAM, REQUEST),
        (STREAM + 8, STREAMS),
        (STREAM + 16, NODE),
        (STREAMS, SHARED),
        (NODE, 13),
    ]);
    (memory, Client { request: REQUEST, connection: CLIENT, descriptor: 7 })
}

#[test]
fn a_stream_has_its_number() {
    let (mut memory, client) = asking_for_a_stream();
    let find = |memory: &Words, client: &Client| {
        (0..u64::from(BLOCKS)).find_map(|block| find_stream(memory, client, block, SHARED))
    };
    assert_eq!(find(&memory, &client), Some(OFFSET));
    assert_eq!(stream(&memory, &client, OFFSET, SHARED), Some(13));
    assert_eq!(stream(&memory, &client, OFFSET + 8, SHARED), None);
    assert_eq!(stream(&memory, &client, OFFSET, CLIENT), None, "of another connection");
    // A subrequest has the stream of the request that it is for.
    let sub = Client { request: REQUEST + 0x10_0000, ..client };
    memory.0.insert(sub.request + OFFSET, STREAM);
    assert_eq!(stream(&memory, &sub, OFFSET, SHARED), Some(13));
    for number in [0, 12, 1 << 31 | 1] {
        memory.0.insert(NODE, number);
        assert_eq!(find(&memory, &client), None, "{number}");
    }
}
