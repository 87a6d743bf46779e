//! BoringSSL as a part of a library whose symbols name it: netty's, which moves records through memory.
//!
//! Where a session is on no socket that is certain, its exchanges have spans, and those have no addresses.

use tracer_tests::service::netty_server;

use super::*;

#[test]
fn python_asks_netty() {
    let identity = Identity::new();
    let command = netty_server(&identity.certificate, &identity.key).expect("netty");
    let server = Program::spawn("java", command).expect("java");
    let port = server.wait_stdout("port ", PATIENCE).expect("port").parse().expect("port");
    let mut asker = Asker::start(&identity);
    let tracer = Tracer::attach_with(&[server.pid(), asker.program.pid()], &["-vv"]).expect("attach");
    let asked: Vec<(Cell, Ports)> = cells("pj")
        .into_iter()
        .map(|cell| {
            let version = if cell.concurrency == 8 { "1.2" } else { "1.3" };
            let ports = asker.ask(port, &cell, count(&cell) / 2, version);
            (cell, ports)
        })
        .collect();
    let report = tracer.finish().expect("tracer");
    let told = format!("process {}: BoringSSL", server.pid());
    assert!(report.log.contains(&told), "{}", report.log);
    for (cell, ports) in asked {
        let mut served = 0;
        for path in ports.keys() {
            let of_path = || report.spans.iter().filter(|span| span.path() == Some(path));
            let ends = |kind: Kind| of_path().filter(move |span| span.kind == kind).collect::<Vec<_>>();
            let (servers, clients) = (ends(Kind::Server), ends(Kind::Client));
            assert_eq!(clients.len(), 1, "{path}: {clients:#?}\n{}", report.log);
            assert!(clients[0].int("network.peer.port") == Some(port.into()), "{clients:#?}");
            assert!(servers.len() <= 1, "{path}: {servers:#?}");
            for span in servers {
                assert_eq!(span.str("url.scheme"), Some("https"), "{span:#?}");
                assert_eq!(span.int("http.response.status_code"), Some(200), "{span:#?}");
                assert_eq!((span.int("network.peer.port"), &span.parent), (None, &None), "{span:#?}");
                served += 1;
            }
        }
        eprintln!("python → netty {:<24} {} asked, {served} served", cell.name, ports.len());
        assert!(served * 1000 >= ports.len() * 999 && served > 0, "{}: {served}\n{}", cell.name, report.log);
    }
}
