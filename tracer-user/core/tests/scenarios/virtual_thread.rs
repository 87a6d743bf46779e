//! Calls of Java's virtual threads, whose machine tells which of them runs. Threads that carry them tell nothing.

use tracer_core::span::Confidence;

use crate::host::{End, Host, T, lines, path, task};

const NOBODY: Option<T> = None;

type Conn = (End, End);

/// A service on two threads that carry others, between clients and services that are not traced.
struct Service {
    host: Host,
    carriers: [T; 2],
}

impl Service {
    fn new() -> Self {
        let mut host = Host::new();
        let main = host.process("shop");
        let carriers = [1, 2].map(|number| host.thread(main, number));
        Self { host, carriers }
    }

    /// `carrier` reads the request for a virtual thread.
    fn arrives(&mut self, path: &str, carrier: usize, number: u64) -> Conn {
        let conn = self.host.connect(None, Some(self.carriers[carrier]));
        self.host.nonblocking(conn.1);
        self.host.request(NOBODY, conn.0, path);
        self.host.mounts(task(number));
        self.host.read(self.carriers[carrier], conn.1);
        conn
    }

    /// The call is made on the one carrier, and its response read on the other.
    fn calls(&mut self, path: &str, [sends, reads]: [usize; 2], number: u64) {
        let conn = self.host.connect(Some(self.carriers[sends]), None);
        self.host.nonblocking(conn.0);
        self.host.mounts(task(number));
        self.host.asks(self.carriers[sends], conn, NOBODY, path);
        self.host.response(NOBODY, conn.1);
        self.host.mounts(task(number));
        self.host.read(self.carriers[reads], conn.0);
    }

    fn answers(&mut self, conn: Conn, carrier: usize) {
        self.host.answers(NOBODY, conn, self.carriers[carrier]);
    }
}

#[test]
fn a_call_belongs_to_the_request_of_its_virtual_thread() {
    let mut shop = Service::new();
    let one = shop.arrives("/a", 0, 41);
    let two = shop.arrives("/b", 1, 42);
    shop.calls("/b1", [0, 1], 42);
    shop.calls("/a1", [1, 1], 41);
    // Of one that a request has started, and that nobody is known to wait for.
    shop.calls("/child", [0, 0], 43);
    shop.answers(one, 1);
    shop.answers(two, 0);
    let spans = shop.host.spans();
    let calls: Vec<String> =
        lines(&spans).into_iter().filter(|line| line.starts_with("shop client")).collect();
    let wanted = [
        "shop client /b1 < shop server /b (runtime-task)",
        "shop client /a1 < shop server /a (runtime-task)",
        "shop client /child - task-unrelated",
    ];
    assert_eq!(calls, wanted);
    let called = spans.iter().find(|span| path(span) == "/a1").unwrap();
    assert_eq!(called.parent.map(|parent| parent.confidence), Some(Confidence::Certain));
}
