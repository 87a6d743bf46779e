//! The ways from a stream to its socket: in real programs of every version that this machine has, which say themselves what
//! is to be found, and in made-up memory, in which anything may be anything.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use proptest::prelude::*;
use tracer_abi::golang_streams::{MAX_WRAPPED, Stream, Wrapped, answers, called, served};
use tracer_abi::python::Memory;
use tracer_abi::task::Tgid;

use super::super::memory::ProcessMemory;
use super::tests::{Image, Standing, build};
use crate::process::procfs::ProcDir;

/// Both ends of a stream of HTTP/2, the second of its connection, that goes on. It says where they are, in its own words.
const PROGRAM: &str = r#"
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"time"
	"unsafe"
)

func descriptor(conn net.Conn) (number uintptr) {
	raw, _ := conn.(*net.TCPConn).SyscallConn()
	raw.Control(func(fd uintptr) { number = fd })
	return
}

// What an interface holds.
func value(of unsafe.Pointer) uintptr { return (*[2]uintptr)(of)[1] }

func main() {
	taken := make(chan uintptr, 2)
	var near, far net.Conn
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		taken <- value(unsafe.Pointer(&w))
		if r.URL.Path == "/stays" {
			time.Sleep(time.Hour)
		}
	}))
	server.EnableHTTP2 = true
	server.Config.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		far = conn.(*tls.Conn).NetConn()
		return ctx
	}
	server.StartTLS()
	client := server.Client()
	client.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := net.Dial(network, address)
		near = conn
		return conn, err
	}
	client.Get(server.URL)
	<-taken
	response, err := client.Get(server.URL + "/stays")
	if err != nil || response.ProtoMajor != 2 {
		panic(fmt.Sprint(response, err))
	}
	fmt.Println(<-taken, descriptor(far), value(unsafe.Pointer(&response.Body)), descriptor(near))
	time.Sleep(time.Hour)
}
"#;

fn descriptor(memory: &impl Memory, connection: u64) -> Option<u32> {
    let mut way = Wrapped::begin(connection);
    for _ in 0..MAX_WRAPPED {
        if !way.step(memory) {
            break;
        }
    }
    way.descriptor(memory)
}

fn check(dir: &std::path::Path) {
    let mut child = Command::new(dir.join("program")).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let standing = Standing(child);
    let dir = ProcDir::open(Tgid(standing.0.id())).unwrap();
    let memory = ProcessMemory::new(dir.file("mem").unwrap());
    let words: Vec<u64> = line.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let &[writer, far, call, near] = words.as_slice() else { panic!("{line}") };

    let server = memory.word(memory.word(memory.word(writer)));
    let stream = served(&memory, server, writer).expect("what is served");
    assert_eq!((stream.id, descriptor(&memory, stream.connection)), (3, Some(far as u32)));
    assert_eq!(served(&memory, call, writer), None);
    let stream = called(&memory, call).expect("what is called");
    assert_eq!((stream.id, descriptor(&memory, stream.connection)), (3, Some(near as u32)));
    assert!(answers(&memory, call).is_some());
}

#[test]
fn real_programs_say_which_socket_a_stream_is_on() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("program.go"), PROGRAM).unwrap();
    let mut built = 0;
    for version in ["go1.22.12", "go1.23.12", "go1.24.13", "go1.25.5", "local", "go1.27.3"] {
        if build(dir.path(), version, &[]) {
            built += 1;
            check(dir.path());
        }
    }
    if built == 0 {
        eprintln!("skipped: no Go here");
    }
}

const SERVER: u64 = 0xc0_0001_0000;
const WRITER: u64 = 0xc0_0001_8000;
const CLIENT: u64 = 0xc0_0002_0000;
const CALL: u64 = 0xc0_0002_8000;
const CHANNEL: u64 = 0xc0_0002_f000;

/// A server's connection under TLS, and a client's in clear.
fn image() -> Image {
    let mut words = BTreeMap::new();
    let mut put = |address: u64, list: &[(u64, u64)]| {
        words.extend(list.iter().map(|(offset, word)| (address + offset, *word)));
    };
    let (state, stream, tls, tcp, other) =
        (0xc0_0003_0000, 0xc0_0004_0000, 0xc0_0005_0000, 0xc0_0006_0000, 0xc0_0007_0000);
    let (tls_type, tcp_type) = (0x51_0000, 0x51_1000);
    put(WRITER, &[(0, state)]);
    put(state, &[(0, stream), (16, SERVER)]);
    put(stream, &[(0, SERVER), (8, 7)]);
    put(SERVER, &[(16, tls_type), (24, tls)]);
    put(tls, &[(0, tcp_type), (8, tcp)]);
    put(tcp, &[(0, 0xc0_0008_0000)]);
    put(0xc0_0008_0000, &[(0, 8), (16, 12), (56, 2), (64, 1)]);
    // Types of interfaces begin with addresses, too.
    put(tls_type, &[(0, 0x52_0000), (16, 0x1234_5678), (56, 0x40_0000), (64, 0x40_1000)]);
    put(tcp_type, &[(0, 0x52_0000), (16, 0x10), (56, 0x40_0000), (64, 0x40_1000)]);
    put(CALL, &[(0, CLIENT), (40, 9), (248, CHANNEL)]);
    put(CHANNEL, &[(24, 0)]);
    put(CLIENT, &[(8, tcp_type), (16, other)]);
    put(other, &[(0, 0xc0_0009_0000)]);
    put(0xc0_0009_0000, &[(0, 8), (16, 13), (56, 10), (64, 1)]);
    Image(words)
}

fn socket_of(image: &Image, stream: Option<Stream>) -> Option<(u32, u32)> {
    let stream = stream?;
    Some((stream.id, descriptor(image, stream.connection)?))
}

#[test]
fn what_is_made_up_is_found() {
    let mut image = image();
    assert_eq!(socket_of(&image, served(&image, SERVER, WRITER)), Some((7, 12)));
    assert_eq!(socket_of(&image, called(&image, CALL)), Some((9, 13)));
    assert_eq!(answers(&image, CALL), Some(CHANNEL));
    // A channel of something else.
    image.0.insert(CHANNEL + 24, 8);
    assert_eq!(answers(&image, CALL), None);
    // Of another connection, and of one that is being closed.
    assert_eq!(served(&image, CLIENT, WRITER), None);
    image.0.insert(0xc0_0009_0000, 9);
    assert_eq!(socket_of(&image, called(&image, CALL)), None);
    // A server's own stream, and one that has no number yet.
    image.0.insert(0xc0_0004_0008, 8);
    image.0.insert(CALL + 40, 0);
    assert_eq!((served(&image, SERVER, WRITER), called(&image, CALL)), (None, None));
    // Datagrams, a connection in itself.
    let mut image = self::image();
    image.0.insert(0xc0_0008_0040, 2);
    image.0.insert(0xc0_0007_0000, 0xc0_0007_0000);
    image.0.insert(0xc0_0007_0008, 0xc0_0007_0000);
    assert_eq!(socket_of(&image, served(&image, SERVER, WRITER)), None);
    assert_eq!(socket_of(&image, called(&image, CALL)), None);
}

proptest! {
    /// Whatever changes on the way, it ends, and with a stream of the connection that was asked about or none.
    #[test]
    fn changed_memory_is_survived(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>(), any::<bool>()), 1..6),
    ) {
        let mut image = image();
        let places: Vec<u64> = image.0.keys().copied().collect();
        for (at, word, of_image) in changes {
            // Some of the words lead from one object into the midst of another.
            let value = if of_image { places[word as usize % places.len()] } else { word };
            image.0.insert(places[at.index(places.len())], value);
        }
        for stream in [served(&image, SERVER, WRITER), called(&image, CALL)].into_iter().flatten() {
            prop_assert!(stream.id % 2 == 1 && stream.id < 1 << 31);
            if let Some(number) = descriptor(&image, stream.connection) {
                prop_assert!(number < 1 << 30);
            }
        }
        if let Some(stream) = served(&image, SERVER, WRITER) {
            prop_assert_eq!(stream.connection, SERVER + 16);
        }
        let _ = answers(&image, CALL);
    }
}
