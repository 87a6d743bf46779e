//! OpenSSL since 3.3, whose sessions are laid out anew and whose hellos hold long keys: inside of Node.js, and as the
//! library that Python's `ssl` is given.

use tracer_tests::service::{newest_node, python_on_newest_openssl};

use super::*;

fn python() -> Command {
    let runs = || python_on_newest_openssl().expect("OpenSSL");
    says(runs().args(["-c", "import ssl; print(ssl.OPENSSL_VERSION)"]), "OpenSSL 3.6");
    runs()
}

fn node() -> Command {
    let runs = || newest_node().expect("Node.js");
    says(runs().args(["-p", "process.versions.openssl"]), "3.5");
    runs()
}

/// An older one, in place of it, would be joined as well.
fn says(command: &mut Command, version: &str) {
    let output = command.output().expect("version");
    assert!(output.stdout.starts_with(version.as_bytes()), "{output:?}");
}

fn a_few(cell: &Cell) -> usize {
    (count(cell) / 4).next_multiple_of(cell.concurrency)
}

fn joined(name: &str, row: &str, (server, port): (Program, u16), asker: Asker) {
    are_joined(name, row, &[server.pid()], port, asker, a_few);
}

#[test]
fn node_asks_node() {
    let identity = Identity::new();
    let server = identity.server_of(node(), "tls_server.js");
    joined("node 26 → node 26", "jjn", server, Asker::running_on(node(), "tls_client.js", &identity));
}

#[test]
fn python_asks_python() {
    let identity = Identity::new();
    let server = identity.server_of(python(), "tls_server.py");
    let asker = Asker::running_on(python(), "tls_client.py", &identity);
    joined("python → python, OpenSSL 3.6", "ppn", server, asker);
}

/// Two sorts of it meet, and records that the programs themselves move.
#[test]
fn asyncio_asks_node() {
    let identity = Identity::new();
    let server = identity.server_of(node(), "tls_server.js");
    let asker = Asker::running_on(python(), "tls_asyncio_client.py", &identity);
    joined("asyncio, OpenSSL 3.6 → node 26", "ajn", server, asker);
}
