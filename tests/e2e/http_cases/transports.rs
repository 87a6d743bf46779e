//! System call forms and address families.

use tracer_tests::raw::{FillWith, Put, Take};

use crate::case::Over;
use crate::{Case, Want};

const RESPONSE: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 26\r\n\r\nabcdefghijklmnopqrstuvwxyz";

fn post(path: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: case.test\r\nUser-Agent: raw/1\r\nContent-Length: 10\r\n\r\n0123456789"
    )
}

fn want(path: &str) -> Want {
    Want::new("POST", path, 200).sent(10).received(26)
}

/// Two exchanges of the same form, since what is left of the first would spoil the second.
fn both(name: &'static str, over: Over, put: &Put, take: Take) -> Case {
    let path = format!("/{name}");
    Case::new(name)
        .over(over)
        .takes(take)
        .request_as(post(&path), put.clone())
        .response_as(RESPONSE, put.clone())
        .request_as(post(&path), put.clone())
        .response_as(RESPONSE, put.clone())
        .want(want(&path))
        .want(want(&path))
}

pub(crate) fn cases() -> Vec<Case> {
    // Calls for several messages that end early, as there is no more to receive yet.
    let path = "/messages-in-pieces";
    let mut cases = vec![
        Case::new("messages-in-pieces")
            .takes(Take::Recvmmsg(30))
            .request_as(post(path), Put::Pieces(vec![10, 35, 20]))
            .response_as(RESPONSE, Put::Pieces(vec![20, 30]))
            .want(want(path)),
    ];
    for (over, family) in [(Over::Tcp4, "tcp4"), (Over::Tcp6, "tcp6"), (Over::Unix, "unix")] {
        let puts = [
            ("write", Put::Once),
            ("writev", Put::Writev(40)),
            ("writev-of-many", Put::Writev(3)),
            ("send", Put::Send),
            ("sendmsg", Put::Sendmsg(17)),
            ("sendmmsg", Put::Sendmmsg(25)),
        ];
        let takes = [
            ("read", Take::Read),
            ("peek", Take::Peek),
            ("readv", Take::Readv(7)),
            ("recvmsg", Take::Recvmsg(11)),
            ("recvmmsg", Take::Recvmmsg(30)),
            ("nonblocking", Take::Nonblocking),
        ];
        for (name, put) in &puts {
            cases.push(both(leak(format!("{family}-{name}")), over, put, Take::Read));
        }
        for (name, take) in takes {
            cases.push(both(leak(format!("{family}-{name}")), over, &Put::Once, take));
        }
        for (name, fill) in [("sendfile", FillWith::Sendfile), ("splice", FillWith::Splice)] {
            let name = leak(format!("{family}-{name}"));
            let path = format!("/{name}");
            let next = format!("/{name}-next");
            cases.push(
                Case::new(name)
                    .over(over)
                    .request(post(&path))
                    .response("HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n")
                    .response_fill(200_000, fill)
                    .request(post(&next))
                    .response(RESPONSE)
                    .want(Want::new("POST", &path, 200).sent(10).received(200_000))
                    .want(want(&next)),
            );
        }
    }
    cases
}

fn leak(name: String) -> &'static str {
    Box::leak(name.into_boxed_str())
}
