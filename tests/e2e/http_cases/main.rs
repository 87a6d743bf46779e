//! Every case of HTTP/1, and of HTTP/2, on bare connections: two peers play it system call by system call, both are traced, and the
//! spans must be exactly those of the table.

mod bodies;
mod case;
mod endings;
mod http2;
mod messages;
mod transports;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tracer_tests::raw::{Peer, Place, Played, play};
use tracer_tests::scale;
use tracer_tests::spans::{Kind, Span};
use tracer_tests::temp::TempDir;
use tracer_tests::tracer::Tracer;

use case::{Case, Over, Seen, Want};

/// A finished conversation and how to find its spans.
struct Outcome {
    case: Case,
    client: Played,
    server: Played,
    listen: Option<SocketAddr>,
}

/// Clocks of tracer and peers are the same, but a mark is taken after the call that it marks.
const MARK_SLACK: Duration = Duration::from_millis(20);

#[test]
fn message_forms() {
    run(messages::cases(), &[]);
}

#[test]
fn bodies() {
    run(bodies::cases(), &[]);
}

#[test]
fn endings() {
    run(endings::cases(), &[]);
}

#[test]
fn http2() {
    run(http2::cases(), &[]);
}

#[test]
fn transports() {
    run(transports::cases(), &[]);
}

/// Heads as long as they may be are captured whole when that is asked for.
#[test]
fn long_heads() {
    run(messages::long_heads(), &["--head-budget", "64KiB"]);
}

/// The scripts themselves, without a tracer: both ends get through them.
#[test]
fn scripts_play_to_their_end() {
    let (mut client, mut server) = peers();
    let cases = [
        messages::cases(),
        messages::long_heads(),
        bodies::cases(),
        endings::cases(),
        transports::cases(),
        http2::cases(),
    ]
    .concat();
    let failed: Vec<String> = play_all(cases, &mut client, &mut server)
        .into_iter()
        .filter(|outcome| outcome.client.error.is_some() || outcome.server.error.is_some())
        .map(|outcome| {
            format!("{}: {:?} {:?}", outcome.case.name, outcome.client.error, outcome.server.error)
        })
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn peers() -> (Peer, Peer) {
    let binary = Path::new(env!("CARGO_BIN_EXE_raw_peer"));
    (Peer::start(binary).expect("client peer"), Peer::start(binary).expect("server peer"))
}

/// Plays all cases under one tracer, then judges each.
fn run(cases: Vec<Case>, options: &[&str]) {
    let (mut client, mut server) = peers();
    let tracer = Tracer::attach_with(&[client.pid(), server.pid()], options).expect("attach");
    let outcomes = play_all(cases, &mut client, &mut server);
    let report = tracer.finish().expect("tracer");
    let failures: Vec<String> = outcomes.iter().filter_map(|outcome| judge(outcome, &report.spans)).collect();
    println!("{} of {} cases as they should be", outcomes.len() - failures.len(), outcomes.len());
    assert!(failures.is_empty(), "{}\n{}", failures.join("\n"), report.log);
}

/// One after the other. `TRACER_E2E_CASE` names a single one.
fn play_all(cases: Vec<Case>, client: &mut Peer, server: &mut Peer) -> Vec<Outcome> {
    let only = std::env::var("TRACER_E2E_CASE").ok();
    let dir = TempDir::new().expect("folder");
    cases
        .into_iter()
        .filter(|case| only.as_deref().is_none_or(|only| only == case.name))
        .enumerate()
        .map(|(number, case)| {
            let listen = match case.over {
                Over::Tcp4 => Place::ListenTcp(SocketAddr::from(([127, 0, 0, 1], 0))),
                Over::Tcp6 => Place::ListenTcp(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 0))),
                Over::Unix => Place::ListenUnix(dir.join(&format!("{number}.sock"))),
            };
            let (played_client, played_server, listen) =
                play((client, &case.client), (server, &case.server), listen)
                    .unwrap_or_else(|error| panic!("{}: {error:#}", case.name));
            Outcome { case, client: played_client, server: played_server, listen }
        })
        .collect()
}

fn judge(outcome: &Outcome, spans: &[Span]) -> Option<String> {
    let Outcome { case, client, server, listen } = outcome;
    let client_spans = of_end(outcome, spans, Kind::Client);
    let server_spans = of_end(outcome, spans, Kind::Server);
    let mut complaints = Vec::new();
    for (played, end) in [(client, "client"), (server, "server")] {
        if let Some((step, error)) = &played.error {
            complaints.push(format!("the {end}'s step {step} failed: {error}"));
        }
    }
    let evidence = if case.over == Over::Unix { "unix-peer" } else { "tcp-sequence" };
    for (wants, seen, end) in
        [(&case.client_spans, &client_spans, "client"), (&case.server_spans, &server_spans, "server")]
    {
        if wants.len() != seen.len() {
            complaints.push(format!("{} {end} spans instead of {}", seen.len(), wants.len()));
            continue;
        }
        for (number, (want, span)) in wants.iter().zip(seen.iter()).enumerate() {
            let joined = if end == "server" { client_spans.get(number).map(|c| (c, evidence)) } else { None };
            complaints
                .extend(want.judge(span, joined).into_iter().map(|c| format!("{end} span {number}: {c}")));
        }
    }
    if complaints.is_empty() {
        complaints.extend(times(outcome, &client_spans, &server_spans));
        if let Some(check) = case.check {
            let seen = Seen { client, server, client_spans: &client_spans, server_spans: &server_spans };
            complaints.extend(check(&seen).err());
        }
    }
    let port = listen.map_or(0, |addr| addr.port());
    (!complaints.is_empty()).then(|| {
        format!(
            "{} (port {port}):\n    {}\n    {}",
            case.name,
            complaints.join("\n    "),
            client_spans.iter().chain(&server_spans).map(brief).collect::<Vec<_>>().join("\n    ")
        )
    })
}

/// What holds for all times: within the conversation, and cause before effect.
fn times(outcome: &Outcome, client_spans: &[Span], server_spans: &[Span]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (spans, played) in [(client_spans, &outcome.client), (server_spans, &outcome.server)] {
        let (Some(last_mark), Some(last_span)) = (played.marks.last(), spans.iter().map(|s| s.end).max())
        else {
            continue;
        };
        if Duration::from_nanos(last_span.saturating_sub(*last_mark)) > scale::time(MARK_SLACK) {
            complaints
                .push(format!("a span ends {} µs after the conversation", (last_span - last_mark) / 1000));
        }
    }
    for (number, (client, server)) in client_spans.iter().zip(server_spans).enumerate() {
        if server.start < client.start {
            complaints.push(format!(
                "exchange {number} reaches the server {} ns early",
                client.start - server.start
            ));
        }
    }
    complaints
}

/// The spans of one end of a case's connection, in the order of their start.
fn of_end(outcome: &Outcome, spans: &[Span], kind: Kind) -> Vec<Span> {
    // A port may serve several cases, one after the other or one of each address family: both ends tell.
    let ends = match kind {
        Kind::Client => (outcome.client.local, outcome.listen),
        Kind::Server | Kind::Other(_) => (outcome.listen, outcome.client.local),
    };
    let port = |addr: Option<SocketAddr>| addr.map(|addr| i64::from(addr.port()));
    let own = [format!("/{}", outcome.case.name), format!("/{}-next", outcome.case.name)];
    let mut found: Vec<Span> = spans
        .iter()
        .filter(|span| span.kind == kind)
        .filter(|span| match ends.1 {
            Some(peer) => {
                span.int("network.local.port") == port(ends.0)
                    && span.int("network.peer.port") == Some(i64::from(peer.port()))
                    && span.str("network.peer.address") == Some(&peer.ip().to_canonical().to_string())
            }
            // Unix sockets have no port; their cases carry their name in the path.
            None => span.path().is_some_and(|path| own.iter().any(|own| own == path)),
        })
        .cloned()
        .collect();
    // Requests of one operation begin at a time: their paths are in the order of their streams.
    found.sort_by_key(|span| (span.start, span.path().map(str::to_owned)));
    found
}

fn brief(span: &Span) -> String {
    format!(
        "{:?} {} {} µs {:?}",
        span.kind,
        span.name,
        (span.end.saturating_sub(span.start)) / 1000,
        span.attributes
    )
}
