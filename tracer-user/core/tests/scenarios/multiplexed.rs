//! HTTP/2: a connection that one thread reads and writes for many requests says nothing about who works on which.

use std::time::Duration;

use crate::frames::{PREFACE, answer, ask, ask_with, frame, settings};
use crate::host::{End, Host, T};

const NOBODY: Option<T> = None;

/// A server whose one thread waits for its only connection, as one of HTTP/1 does that works on a request itself.
struct Shop {
    host: Host,
    main: T,
    front: (End, End),
    back: (End, End),
}

impl Shop {
    fn new() -> Self {
        let mut host = Host::new();
        let main = host.process("shop");
        let front = host.connect(None, Some(main));
        let back = host.connect(Some(main), None);
        host.write(NOBODY, front.0, &[PREFACE, &settings()].concat());
        host.read(main, front.1);
        host.write(main, front.1, &settings());
        Self { host, main, front, back }
    }

    fn arrives(&mut self, stream: u32, path: &str) {
        self.host.write(NOBODY, self.front.0, &ask(stream, path, true));
        self.host.read(self.main, self.front.1);
    }

    fn answers(&mut self, stream: u32) {
        self.host.write(self.main, self.front.1, &answer(stream, "200", true));
        self.host.read(NOBODY, self.front.0);
    }

    fn calls(&mut self, path: &str) {
        self.host.asks(self.main, self.back, NOBODY, path);
        self.host.waits(self.main);
        self.host.answers(self.main, self.back, NOBODY);
    }
}

/// In HTTP/1 the same is certain. Here another thread may have the request, and this one makes calls of its own.
#[test]
fn the_thread_that_reads_a_stream_need_not_serve_it() {
    let mut shop = Shop::new();
    for (stream, path) in [(1, "/a"), (3, "/b")] {
        shop.arrives(stream, path);
        shop.calls(&format!("{path}1"));
        shop.answers(stream);
    }
    let lines = shop.host.lines();
    assert_eq!(
        lines,
        [
            "shop server /a",
            "shop client /a1 - multiplexed",
            "shop server /b",
            "shop client /b1 - multiplexed"
        ]
    );
}

/// nginx has with each of its calls which stream it is for, in whatever order they are made and answered.
#[test]
fn nginx_tells_for_which_stream_a_call_is() {
    let mut shop = Shop::new();
    let other = shop.host.connect(Some(shop.main), None);
    shop.arrives(1, "/a");
    shop.arrives(3, "/b");
    shop.arrives(5, "/c");
    for (stream, back, path) in [(5, shop.back, "/c1"), (1, other, "/a1")] {
        shop.host.is_for(shop.front.1, Some(stream));
        shop.host.asks(shop.main, back, NOBODY, path);
    }
    for (stream, back) in [(1, other), (5, shop.back)] {
        shop.host.waits(shop.main);
        shop.host.answers(shop.main, back, NOBODY);
        shop.answers(stream);
    }
    // A stream that is not there, and none that is named.
    for (stream, path) in [(Some(7), "/d"), (None, "/e")] {
        shop.host.is_for(shop.front.1, stream);
        shop.calls(path);
    }
    shop.answers(3);
    let lines = shop.host.lines();
    for line in [
        "shop client /c1 < shop server /c (runtime-task)",
        "shop client /a1 < shop server /a (runtime-task)",
        "shop client /d - multiplexed",
        "shop client /e - multiplexed",
    ] {
        assert!(lines.iter().any(|known| known == line), "{lines:?}");
    }
}

/// What a request brings and a call carries on says more than threads.
#[test]
fn a_header_that_is_handed_on_names_the_stream() {
    let mut shop = Shop::new();
    let (other, (near, far)) = (shop.host.thread(shop.main, 1), shop.back);
    // Some before it is believed.
    for number in 0..5 {
        let (id, path) = (format!("5f2b8d1c-9a34-4c5e-8f70-{number:012}"), format!("/{number}"));
        let stream = 2 * number + 1;
        shop.host.write(NOBODY, shop.front.0, &ask_with(stream, &path, &[("x-request-id", &id)]));
        shop.host.read(shop.main, shop.front.1);
        shop.host.sleep(Duration::from_millis(5));
        shop.host.request_with(other, near, &format!("{path}/1"), &format!("X-Request-Id: {id}\r\n"));
        shop.host.read(NOBODY, far);
        shop.host.waits(other);
        shop.host.answers(other, shop.back, NOBODY);
        shop.answers(stream);
        shop.host.sleep(Duration::from_secs(5));
    }
    let lines = shop.host.lines();
    assert!(lines.contains(&"shop client /4/1 < shop server /4 (header-continuity)".to_owned()), "{lines:?}");
}

/// Nor do the calls that it makes on such a connection belong to the request of HTTP/1 that it serves.
#[test]
fn the_thread_that_writes_a_stream_need_not_have_made_the_call() {
    let mut host = Host::new();
    let main = host.process("shop");
    let front = host.connect(None, Some(main));
    let back = host.connect(Some(main), None);
    host.write(main, back.0, &[PREFACE, &settings()].concat());
    host.read(NOBODY, back.1);
    host.write(NOBODY, back.1, &settings());
    host.read(main, back.0);
    host.asks(NOBODY, front, main, "/a");
    host.write(main, back.0, &ask(1, "/a1", true));
    host.read(NOBODY, back.1);
    host.waits(main);
    host.write(NOBODY, back.1, &answer(1, "200", true));
    host.read(main, back.0);
    host.answers(NOBODY, front, main);
    assert_eq!(host.lines(), ["shop server /a", "shop client /a1 - multiplexed"]);
}

/// The server's stream N is the client's stream N, whatever else is on the connection and in which order it is answered.
#[test]
fn streams_are_joined_one_by_one() {
    let mut host = Host::new();
    let (client, server) = (host.process("client"), host.process("server"));
    let ends = host.connect(Some(client), Some(server));
    host.write(client, ends.0, &[PREFACE, &settings()].concat());
    host.read(server, ends.1);
    host.write(server, ends.1, &settings());
    host.read(client, ends.0);
    let streams: Vec<u32> = (0..100).map(|number| 2 * number + 1).collect();
    let asked: Vec<u8> =
        streams.iter().flat_map(|stream| ask(*stream, &format!("/{stream}"), true)).collect();
    host.write(client, ends.0, &asked);
    host.read(server, ends.1);
    let answered: Vec<u8> = streams.iter().rev().flat_map(|stream| answer(*stream, "200", true)).collect();
    host.write(server, ends.1, &answered);
    host.read(client, ends.0);
    let lines = host.lines();
    assert_eq!(lines.len(), 200);
    for stream in streams {
        assert!(lines.contains(&format!("server server /{stream} < client client /{stream} (tcp-sequence)")));
    }
}

/// A server that is behind looks at a connection for the first time when its client has given a stream of it up.
#[test]
fn a_stream_given_up_before_its_server_looked_is_joined_when_it_is_read() {
    let mut host = Host::new();
    let (client, server) = (host.process("client"), host.process("server"));
    let (near, far, accepted) = host.dial(client, server);
    host.write(client, near, &[PREFACE, &settings(), &ask(1, "/late", true)].concat());
    host.sleep(Duration::from_millis(20));
    host.write(client, near, &frame(3, 0, 1, &[0, 0, 0, 8]));
    host.sleep(Duration::from_millis(500));
    // Something must happen for time to pass.
    let other = host.connect(NOBODY, Some(server));
    host.asks(NOBODY, other, server, "/now");
    host.answers(NOBODY, other, server);
    host.accept(accepted);
    host.read(server, far);
    let mut found = host.lines();
    found.sort();
    assert_eq!(
        found,
        [
            "client client /late",
            "server server /late < client client /late (tcp-sequence)",
            "server server /now"
        ]
    );
}
