//! One side of a proxy: the connections to a port, with what both of their ends tell.

use std::collections::BTreeMap;

use tracer_tests::spans::{Kind, Span};
use tracer_tests::tracer::Report;

pub(crate) struct Leg<'a> {
    clients: BTreeMap<&'a str, &'a Span>,
    servers: BTreeMap<&'a str, &'a Span>,
    log: &'a str,
}

impl<'a> Leg<'a> {
    /// Of each name there is one exchange.
    pub(crate) fn of(report: &'a Report, port: u16) -> Self {
        let mut leg = Self { clients: BTreeMap::new(), servers: BTreeMap::new(), log: &report.log };
        for span in &report.spans {
            let (spans, key) = match span.kind {
                Kind::Client => (&mut leg.clients, "network.peer.port"),
                Kind::Server => (&mut leg.servers, "network.local.port"),
                Kind::Other(_) => continue,
            };
            if span.int(key) == Some(i64::from(port)) {
                let name = span.path().unwrap_or_else(|| panic!("no name: {span:#?}"));
                assert!(spans.insert(name, span).is_none(), "{name} twice\n{}", report.log);
            }
        }
        leg
    }

    pub(crate) fn spans(&self) -> usize {
        self.clients.len() + self.servers.len()
    }

    /// Both ends of this exchange, the server's below the client's.
    pub(crate) fn joined(&self, name: &str) -> [&'a Span; 2] {
        let of = |spans: &BTreeMap<&str, &'a Span>, whose| match spans.get(name) {
            Some(span) => *span,
            None => panic!("no {whose}'s {name}\n{}", self.log),
        };
        let (client, server) = (of(&self.clients, "client"), of(&self.servers, "server"));
        assert_eq!(server.parent.as_ref(), Some(&client.span_id), "{server:#?}\n{}", self.log);
        assert_eq!(server.trace_id, client.trace_id);
        [client, server]
    }

    /// Every server's span is below its own client's, also of exchanges that were given up.
    pub(crate) fn check_joined(&self) {
        for name in self.servers.keys() {
            self.joined(name);
        }
    }

    /// What is called behind `front` is below what was asked there under the same name, or it is not known. Returns of how much
    /// it is.
    pub(crate) fn check_causes(&self, front: &Leg<'_>) -> usize {
        for (name, client) in &self.clients {
            let server = front.servers.get(name).map(|server| &server.span_id);
            assert!(client.parent.is_none() || client.parent.as_ref() == server, "{client:#?}");
        }
        self.clients.values().filter(|client| client.parent.is_some()).count()
    }

    /// How many exchanges of the client were open at a time at most, of those whose names begin so.
    pub(crate) fn at_a_time(&self, prefix: &str) -> usize {
        let of = self.clients.iter().filter(|(name, _)| name.contains(prefix));
        let mut marks: Vec<(u64, i32)> = of.flat_map(|(_, span)| [(span.start, 1), (span.end, -1)]).collect();
        marks.sort_unstable();
        let (mut open, mut most) = (0_i32, 0);
        for (_, change) in marks {
            open += change;
            most = most.max(open);
        }
        most.unsigned_abs() as usize
    }
}
