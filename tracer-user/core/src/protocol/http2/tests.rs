use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::head::Kind;
use super::hpack::Broken;
use super::writer::{Fields, Form, Writer, tunnelled};
use super::*;

const LIMITS: Http2Limits = Http2Limits { list_bytes: 4096, streams: 16, payload_bytes: 400 };

/// The longest fragment and body of a frame, so that with padding and fixed fields it keeps to the limit.
const PIECE: usize = 360;

/// Bytes, or as many that are missing.
#[derive(Clone, Debug)]
enum Op {
    Bytes(Vec<u8>),
    Lost(usize),
}

/// Each part, and the position behind its last byte; ends where the bytes are not HTTP/2.
fn parts(parser: &mut Http2, ops: &[Op]) -> Vec<(usize, Part)> {
    let (mut parts, mut at) = (Vec::new(), 0);
    for op in ops {
        let mut done = 0;
        loop {
            let step = match op {
                Op::Bytes(bytes) if done < bytes.len() => parser.bytes(&bytes[done..], Edge::default()),
                Op::Lost(len) if done < *len => parser.hole((*len - done) as u64, Edge::default()),
                Op::Bytes(_) | Op::Lost(_) => break,
            };
            done += step.consumed as usize;
            at += step.consumed as usize;
            match step.parsed {
                Parsed::NeedMore => assert!(step.consumed > 0),
                Parsed::Part(Part::Settings(settings)) => {
                    parser.peer_settings(&Settings { max_frame_size: None, ..settings });
                    parts.push((at, Part::Settings(settings)));
                }
                Parsed::Part(part) => parts.push((at, part)),
                Parsed::Torn => parser.drift(),
                Parsed::Invalid(_) if parser.is_adrift() => {}
                Parsed::Invalid(_) => return parts,
            }
            assert!(parser.held_bytes() < 40_000);
        }
    }
    parts
}

fn pieces(bytes: &[u8], piece: usize) -> Vec<Op> {
    bytes.chunks(piece.max(1)).map(|piece| Op::Bytes(piece.to_vec())).collect()
}

fn fields(list: &[(&str, &str)]) -> Fields {
    list.iter().map(|&(name, value)| (name.to_owned(), value.to_owned(), 0x5b)).collect()
}

fn request(path: &str) -> Fields {
    fields(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "h"),
        ("te", "trailers"),
    ])
}

fn form(ends: bool) -> Form {
    Form { fragment: PIECE, ends, ..Form::default() }
}

/// What was written is found, however it is cut.
fn check(side: Side, write: impl FnOnce(&mut Writer)) {
    let mut writer = Writer::new(side);
    write(&mut writer);
    for piece in [usize::MAX, 1, 2, 3, 8, 9, 10, 17] {
        let mut parser = Http2::new(side, &LIMITS);
        let found = parts(&mut parser, &pieces(&writer.bytes, piece));
        assert_eq!(found, writer.truth, "in pieces of {piece}");
        assert!(parser.is_between() && !parser.is_in_block());
        assert_eq!(parser.take_counts(), Counts::default());
    }
}

#[test]
fn messages() {
    check(Side::Client, |client| {
        client.settings(&[(1, 8192), (3, 100), (4, 1 << 20), (5, 1 << 20), (8, 1), (0x77, 5)]);
        client.head(1, &request("/a"), &form(true));
        client.head(3, &request("/b"), &form(false));
        client.data(3, b"12345", &form(false));
        client.data(3, b"", &form(true));
        client.head(5, &request("/c"), &Form { pad: Some(7), priority: true, fragment: 3, ends: false });
        client.data(5, b"12345", &Form { pad: Some(200), ..form(false) });
        client.data(5, b"", &Form { pad: Some(0), ..form(false) });
        client.head(5, &fields(&[("x-checksum", "1")]), &form(true));
        client.head(7, &request("/d"), &form(false));
        client.reset(7, 8);
        client.head(
            9,
            &fields(&[(":method", "CONNECT"), (":protocol", "websocket"), (":path", "/e")]),
            &form(false),
        );
        client.data(9, &tunnelled(3), &form(false));
        client.go_away(0, 0, b"bye");
    });
    check(Side::Server, |server| {
        server.settings(&[]);
        let ok = fields(&[(":status", "200"), ("content-type", "application/grpc")]);
        server.head(1, &fields(&[(":status", "103"), ("link", "x")]), &form(false));
        server.promise(1, 2, &request("/pushed"), &Form { pad: Some(3), fragment: 5, ..Form::default() });
        server.head(1, &ok, &form(false));
        server.head(3, &fields(&[(":status", "404")]), &form(true));
        server.data(1, b"0123456789", &form(false));
        server.head(2, &ok, &form(false));
        server.data(2, b"pushed", &form(true));
        server.head(1, &fields(&[("grpc-status", "5"), ("grpc-message", "no")]), &form(true));
        server.reset(5, 7);
        server.go_away(5, 2, &[]);
    });
    for which in 0..12 {
        check(Side::Client, |client| {
            client.noise(which);
            client.head(1, &request("/a"), &form(false));
            client.noise(which);
            client.data(1, b"x", &form(true));
            client.noise(which);
        });
    }
}

#[test]
fn what_is_kept_of_a_head() {
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut writer = Writer::new(Side::Client);
    let list = [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", "/pkg.Service/Method"),
        (":authority", "host:1"),
        ("content-type", "application/grpc+proto"),
        ("user-agent", "x/1"),
        ("grpc-timeout", "1S"),
        ("content-length", "42"),
        ("cookie", "secret"),
        ("traceparent", parent),
        ("tracestate", "a=1"),
    ];
    writer.head(1, &fields(&list), &form(true));
    let found = parts(&mut Http2::new(Side::Client, &LIMITS), &pieces(&writer.bytes, 5));
    let [(_, Part::Head { head, ended: Some(BodyLen::Exact(0)), .. })] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!(head.kind(), Kind::Request);
    assert_eq!(head.method.as_deref(), Some("POST"));
    assert_eq!(head.scheme.as_deref(), Some("https"));
    assert_eq!(head.path.as_deref(), Some("/pkg.Service/Method"));
    assert_eq!(head.authority.as_deref(), Some("host:1"));
    assert_eq!(head.content_type.as_deref(), Some("application/grpc+proto"));
    assert_eq!(head.user_agent.as_deref(), Some("x/1"));
    assert_eq!(head.grpc_timeout.as_deref(), Some("1S"));
    assert_eq!(head.content_length, Some(42));
    assert!(head.is_whole() && head.context.is_some());
    assert!(!format!("{head:?}").contains("secret"));
}

#[test]
fn kinds() {
    let check = |list: &[(&str, &str)], want| {
        let mut writer = Writer::new(Side::Server);
        writer.head(1, &fields(list), &form(true));
        let found = parts(&mut Http2::new(Side::Server, &LIMITS), &pieces(&writer.bytes, 99));
        let [(_, Part::Head { head, .. })] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(head.kind(), want, "{list:?}");
    };
    check(&[(":status", "200")], Kind::Response);
    check(&[(":status", "100")], Kind::Interim);
    check(&[(":status", "2000")], Kind::Unclear);
    check(&[(":method", "GET")], Kind::Request);
    check(&[("grpc-status", "0")], Kind::Trailers);
    check(&[], Kind::Trailers);
}

#[test]
fn what_is_no_frame_is_told() {
    let check = |side, kind, flags, stream, payload: &[u8]| {
        let mut writer = Writer::new(side);
        writer.frame(kind, flags, stream, payload);
        for piece in [usize::MAX, 1] {
            let mut parser = Http2::new(side, &LIMITS);
            assert_eq!(parts(&mut parser, &pieces(&writer.bytes, piece)), [], "{kind} {flags} {stream}");
            assert!(parser.is_adrift(), "{kind} {flags} {stream} {payload:?}");
        }
    };
    check(Side::Client, 0, 0, 0, b"x");
    check(Side::Client, 0, 0, 2, b"x");
    check(Side::Client, 0, 8, 1, b"");
    check(Side::Client, 0, 8, 1, &[3, 0, 0]);
    check(Side::Client, 1, 4, 0, b"");
    check(Side::Client, 1, 0x2c, 1, &[0, 0, 0, 0, 0]);
    check(Side::Client, 2, 0, 1, &[0; 4]);
    check(Side::Client, 3, 0, 1, &[0; 5]);
    check(Side::Client, 3, 0, 0, &[0; 4]);
    check(Side::Client, 4, 0, 1, &[]);
    check(Side::Client, 4, 0, 0, &[0; 7]);
    check(Side::Client, 4, 1, 0, &[0; 6]);
    check(Side::Client, 5, 4, 1, &[0; 4]);
    check(Side::Server, 5, 4, 1, &[0; 3]);
    check(Side::Client, 6, 0, 0, &[0; 9]);
    check(Side::Client, 7, 0, 0, &[0; 7]);
    check(Side::Client, 8, 0, 0, &[0; 3]);
    check(Side::Client, 9, 4, 1, &[0; 3]);
    // A header block is one piece.
    let mut writer = Writer::new(Side::Server);
    writer.frame(1, 0, 1, &[0x88]);
    writer.noise(0);
    let mut parser = Http2::new(Side::Server, &LIMITS);
    assert_eq!(parts(&mut parser, &pieces(&writer.bytes, 99)), []);
    assert!(parser.is_adrift());
    // Nor is it HTTP/2 without the preface.
    let mut parser = Http2::new(Side::Client, &LIMITS);
    let step = parser.bytes(b"PRI * HTTP/1.1\r\n", Edge::default());
    assert_eq!(step.parsed, Parsed::Invalid(Invalid::StartLine));
}

#[test]
fn bounds_are_counted() {
    // Streams.
    let mut writer = Writer::new(Side::Client);
    for stream in 0..20 {
        writer.head(stream * 2 + 1, &request("/a"), &form(false));
    }
    for stream in 0..20 {
        writer.data(stream * 2 + 1, b"abc", &form(true));
    }
    let mut parser = Http2::new(Side::Client, &LIMITS);
    let found = parts(&mut parser, &pieces(&writer.bytes, 1000));
    let exact = |(_, part): &&(usize, Part)| matches!(part, Part::End { body_len: BodyLen::Exact(3), .. });
    assert_eq!(found.iter().filter(exact).count(), LIMITS.streams);
    assert_eq!(parser.take_counts(), Counts { streams_untracked: 4, ..Counts::default() });

    // A list of fields.
    let mut writer = Writer::new(Side::Client);
    let long = "x".repeat(5000);
    writer.head(1, &fields(&[(":method", "GET"), (":path", &long), ("host", "h")]), &form(true));
    writer.head(3, &request("/b"), &form(true));
    let mut parser = Http2::new(Side::Client, &LIMITS);
    let found = parts(&mut parser, &pieces(&writer.bytes, 1000));
    let [(_, Part::Head { head, .. }), after] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(
        (head.method.as_deref(), &head.path, &head.host, head.end.cut),
        (Some("GET"), &None, &None, true)
    );
    assert_eq!(Some(after), writer.truth.last());
    assert_eq!(parser.take_counts(), Counts { blocks_cut: 1, ..Counts::default() });

    // A flood of continuations: the fields behind it are left out, the table and the place are kept.
    let mut writer = Writer::new(Side::Client);
    writer.head(1, &request("/first"), &form(true));
    writer.frame(1, flag::END_STREAM, 3, &[0x82]);
    for _ in 0..100_000 {
        writer.frame(9, 0, 3, &[]);
    }
    writer.frame(9, flag::END_HEADERS, 3, &[0x84, 0xbe]);
    let at = writer.bytes.len();
    writer.head(5, &request("/first"), &form(true));
    let mut parser = Http2::new(Side::Client, &LIMITS);
    let found = parts(&mut parser, &pieces(&writer.bytes, 1000));
    let [_, (end, Part::Head { head, .. }), after] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((*end, head.method.as_deref(), &head.path, head.end.cut), (at, Some("GET"), &None, true));
    assert_eq!(Some(after), writer.truth.last());
    assert_eq!(parser.take_counts(), Counts { blocks_cut: 1, floods: 1, ..Counts::default() });
}

#[test]
fn a_broken_block_costs_its_fields_and_the_table() {
    let mut writer = Writer::new(Side::Client);
    writer.head(1, &request("/a"), &form(true));
    writer.frame(1, flag::END_HEADERS | flag::END_STREAM, 3, &[0x82, 0x80]);
    writer.head(5, &request("/a"), &form(true));
    let mut parser = Http2::new(Side::Client, &LIMITS);
    let found = parts(&mut parser, &pieces(&writer.bytes, 1000));
    let [_, (_, Part::Head { head: broken, .. }), (_, Part::Head { head: after, .. })] = found.as_slice()
    else {
        panic!("{found:?}");
    };
    assert_eq!((broken.method.as_deref(), broken.end.broken), (Some("GET"), Some(Broken::Index)));
    assert_eq!((after.method.as_deref(), &after.path, after.kind()), (Some("POST"), &None, Kind::Request));
    assert!(after.unknown > 0);
}

#[test]
fn holes_in_payloads_cost_no_place() {
    let mut writer = Writer::new(Side::Client);
    writer.head(1, &request("/a"), &form(false));
    let from = writer.bytes.len() + HEADER_BYTES;
    writer.data(1, &tunnelled(5), &form(true));
    let to = writer.bytes.len();
    writer.settings(&[(5, 1 << 15)]);
    writer.head(3, &request("/a"), &form(true));
    for len in 1..to - from {
        let ops = [
            Op::Bytes(writer.bytes[..to - len].to_vec()),
            Op::Lost(len),
            Op::Bytes(writer.bytes[to..].to_vec()),
        ];
        let mut parser = Http2::new(Side::Client, &LIMITS);
        assert_eq!(parts(&mut parser, &ops), writer.truth, "{len}");
        assert_eq!(parser.take_counts(), Counts::default());
    }
}

/// A direction that goes on for long: bodies of `content`.
fn long(side: Side, count: u32, content: &[u8]) -> Writer {
    let mut writer = Writer::new(side);
    for n in 0..count {
        let stream = n * 2 + 1;
        let fields = match side {
            Side::Client => request(&format!("/{n}")),
            Side::Server => fields(&[(":status", "200"), ("content-type", "text/plain")]),
        };
        writer.head(stream, &fields, &form(false));
        writer.data(stream, &content[..content.len().min(PIECE)], &form(n % 2 == 0));
        if n % 2 != 0 {
            writer.head(stream, &self::fields(&[("grpc-status", "0")]), &form(true));
        }
    }
    writer
}

#[test]
fn the_place_is_found_again() {
    let zeroes = [0; 60];
    for side in [Side::Client, Side::Server] {
        for content in [b"{\"text\":\"some\"}".as_slice(), &tunnelled(15), &zeroes, b""] {
            let writer = long(side, 120, content);
            for lost in [30..31, 40..300, 100..130] {
                let ops = [
                    Op::Bytes(writer.bytes[..lost.start].to_vec()),
                    Op::Lost(lost.len()),
                    Op::Bytes(writer.bytes[lost.end..].to_vec()),
                ];
                let mut parser = Http2::new(side, &LIMITS);
                let found = parts(&mut parser, &ops);
                let counts = parser.take_counts();
                assert!(counts.resyncs <= 1);
                invents_nothing(&found, 0, &writer).unwrap();
                let (last, part) = found.last().unwrap();
                let (end, truth) = writer.truth.last().unwrap();
                assert_eq!(last, end, "{side:?} {content:?} {lost:?} {counts:?}");
                agrees(part, truth).unwrap();
            }
            let mut parser = Http2::joined(side, &LIMITS);
            let found = parts(&mut parser, &[Op::Bytes(writer.bytes[57..].to_vec())]);
            invents_nothing(&found, 57, &writer).unwrap();
            assert_eq!(parser.take_counts().resyncs, 1);
            // Names that are written out are known again.
            let paths = found.iter().filter(|(_, part)| {
                matches!(part, Part::Head { head, .. } if head.path.is_some() || head.status == Some(200))
            });
            assert!(paths.count() > 20, "{side:?} {content:?} {found:?}");
        }
    }
}

/// Whether what was found is what was written, as far as it claims to know.
fn agrees(found: &Part, truth: &Part) -> Result<(), TestCaseError> {
    fn known<T: PartialEq + std::fmt::Debug>(
        found: &Option<T>,
        truth: &Option<T>,
    ) -> Result<(), TestCaseError> {
        if found.is_some() {
            prop_assert_eq!(found, truth);
        }
        Ok(())
    }
    let heads = |found: &Head, truth: &Head| {
        known(&found.method, &truth.method)?;
        known(&found.scheme, &truth.scheme)?;
        known(&found.authority, &truth.authority)?;
        known(&found.path, &truth.path)?;
        known(&found.protocol, &truth.protocol)?;
        known(&found.status, &truth.status)?;
        known(&found.host, &truth.host)?;
        known(&found.user_agent, &truth.user_agent)?;
        known(&found.content_type, &truth.content_type)?;
        known(&found.content_length, &truth.content_length)?;
        known(&found.grpc_status, &truth.grpc_status)?;
        known(&found.grpc_timeout, &truth.grpc_timeout)?;
        known(&found.context, &truth.context)?;
        prop_assert!(found.kind() == Kind::Unclear || found.kind() == truth.kind());
        Ok(())
    };
    let lens = |found: BodyLen, truth: BodyLen| {
        prop_assert!(found == BodyLen::Unknown || found == truth, "{:?} {:?}", found, truth);
        Ok(())
    };
    match (found, truth) {
        (
            Part::Head { stream, head, ended },
            Part::Head { stream: true_stream, head: true_head, ended: true_ended },
        ) => {
            prop_assert_eq!(stream, true_stream);
            heads(head, true_head)?;
            match (ended, true_ended) {
                (Some(len), Some(truth)) => lens(*len, *truth)?,
                (ended, truth) => prop_assert_eq!(ended, truth),
            }
        }
        (
            Part::Promise { stream, promised, head },
            Part::Promise { stream: true_stream, promised: true_promised, head: true_head },
        ) => {
            prop_assert_eq!(stream, true_stream);
            known(promised, true_promised)?;
            heads(head, true_head)?;
        }
        (Part::End { stream, body_len }, Part::End { stream: true_stream, body_len: truth }) => {
            prop_assert_eq!(stream, true_stream);
            lens(*body_len, *truth)?;
        }
        (Part::Reset { stream, error }, Part::Reset { stream: true_stream, error: truth }) => {
            prop_assert_eq!(stream, true_stream);
            known(error, truth)?;
        }
        (Part::GoAway { last_stream, error }, Part::GoAway { last_stream: true_last, error: true_error }) => {
            known(last_stream, true_last)?;
            known(error, true_error)?;
        }
        (Part::Settings(found), Part::Settings(truth)) => {
            known(&found.header_table_size, &truth.header_table_size)?;
            known(&found.max_frame_size, &truth.max_frame_size)?;
            known(&found.enable_connect_protocol, &truth.enable_connect_protocol)?;
        }
        (found, truth) => prop_assert_eq!(found, truth),
    }
    Ok(())
}

/// What happens in a direction, in terms of slots that hold a stream each.
#[derive(Clone, Debug)]
enum Action {
    Head { slot: usize, fields: Fields, form: Form },
    Data { slot: usize, content: Vec<u8>, form: Form },
    Reset { slot: usize, error: u32 },
    Promise { slot: usize, fields: Fields, form: Form },
    Settings(Vec<(u16, u32)>),
    GoAway,
    Noise(u8),
}

fn action(side: Side) -> impl Strategy<Value = Action> {
    let slot = 0_usize..4;
    let form = || {
        let pad = prop_oneof![3 => Just(None), 1 => (0..20_u8).prop_map(Some)];
        let fragment = prop_oneof![3 => Just(PIECE), 1 => 1..20_usize];
        (pad, any::<bool>(), fragment, any::<bool>()).prop_map(|(pad, priority, fragment, ends)| Form {
            pad,
            priority,
            fragment,
            ends,
        })
    };
    let content = prop_oneof![
        (0..PIECE).prop_map(|len| vec![b'x'; len]),
        (0..PIECE).prop_map(|len| vec![0; len]),
        (1..20_usize).prop_map(|count| tunnelled(count).into_iter().take(PIECE).collect()),
        (1..5_usize, 0..30_usize)
            .prop_map(|(count, skip)| { tunnelled(count).into_iter().skip(skip).take(PIECE).collect() }),
        vec(any::<u8>(), 0..PIECE),
    ];
    let fields = move || {
        let first = match side {
            Side::Client => prop_oneof![
                "/[a-d]{1,3}".prop_map(|path| vec![
                    (":method".to_owned(), "GET".to_owned()),
                    (":path".to_owned(), path)
                ]),
                "/[a-d]{1,3}".prop_map(|path| vec![
                    (":path".to_owned(), path),
                    (":method".to_owned(), "PUT".to_owned())
                ]),
            ]
            .boxed(),
            Side::Server => prop_oneof![Just("200"), Just("404"), Just("302"), Just("103")]
                .prop_map(|status| vec![(":status".to_owned(), status.to_owned())])
                .boxed(),
        };
        let others = vec(
            prop_oneof![
                ("user-agent", "[a-c]{1,2}"),
                ("grpc-status", "[0-9]"),
                ("x-any", "[a-z]{0,40}"),
                ("content-type", "application/grpc"),
            ]
            .prop_map(|(name, value)| (name.to_owned(), value)),
            0..4,
        );
        let hows = vec(any::<u8>(), 8);
        (first, others, hows).prop_map(|(first, others, hows)| {
            let list = first.into_iter().chain(others).zip(hows);
            // Of two fields of one name, no more is told than the first that is known.
            let mut names = BTreeSet::new();
            list.filter(|((name, _), _)| names.insert(name.clone()))
                .map(|((name, value), how)| (name, value, how))
                .collect::<Fields>()
        })
    };
    prop_oneof![
        5 => (slot.clone(), fields(), form()).prop_map(|(slot, fields, form)| Action::Head { slot, fields, form }),
        5 => (slot.clone(), content, form()).prop_map(|(slot, content, form)| Action::Data { slot, content, form }),
        1 => (slot.clone(), any::<u32>()).prop_map(|(slot, error)| Action::Reset { slot, error }),
        1 => (slot, fields(), form()).prop_map(|(slot, fields, form)| Action::Promise { slot, fields, form }),
        1 => vec((prop_oneof![Just(1_u16), Just(8), Just(3)], any::<u32>()), 0..3).prop_map(Action::Settings),
        1 => Just(Action::GoAway),
        2 => any::<u8>().prop_map(Action::Noise),
    ]
}

/// A direction as a program that keeps to the rules would write it.
fn write(side: Side, actions: &[Action]) -> Writer {
    let mut writer = Writer::new(side);
    let (mut slots, mut next, mut promised) = ([None; 4], 1, 2);
    for action in actions {
        match action {
            Action::Head { slot, fields, form } => match slots[*slot] {
                None => {
                    // An interim response ends nothing.
                    let form = &Form { ends: form.ends && fields[0].1 != "103", ..form.clone() };
                    writer.head(next, fields, form);
                    slots[*slot] = (!form.ends).then_some(next);
                    next += 2;
                }
                Some(stream) => {
                    let fields: Fields =
                        fields.iter().filter(|(name, ..)| !name.starts_with(':')).cloned().collect();
                    writer.head(stream, &fields, &Form { ends: true, ..form.clone() });
                    slots[*slot] = None;
                }
            },
            Action::Data { slot, content, form } => {
                if let Some(stream) = slots[*slot] {
                    writer.data(stream, content, form);
                    slots[*slot] = (!form.ends).then_some(stream);
                }
            }
            Action::Reset { slot, error } => {
                if let Some(stream) = slots[*slot].take() {
                    writer.reset(stream, *error);
                }
            }
            Action::Promise { slot, fields, form } => {
                if let (Side::Server, Some(stream)) = (side, slots[*slot]) {
                    writer.promise(stream, promised, fields, form);
                    promised += 2;
                }
            }
            Action::Settings(list) => writer.settings(list),
            Action::GoAway => writer.go_away(next, 0, b"debug"),
            Action::Noise(which) => writer.noise(*which),
        }
    }
    writer
}

fn direction() -> impl Strategy<Value = (Side, Vec<Action>)> {
    let of = |side| (Just(side), vec(action(side), 0..100));
    prop_oneof![of(Side::Client), of(Side::Server)]
}

/// Everything found was written, and ends where it does.
fn invents_nothing(found: &[(usize, Part)], from: usize, writer: &Writer) -> Result<(), TestCaseError> {
    for (at, part) in found {
        let truth = writer.truth.iter().find(|(end, _)| *end == at + from);
        prop_assert!(truth.is_some(), "{:?} at {}", part, at + from);
        if let Some((_, truth)) = truth {
            agrees(part, truth)?;
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_written_is_found_however_it_is_cut((side, actions) in direction(), piece in 1_usize..60) {
        let writer = write(side, &actions);
        let mut parser = Http2::new(side, &LIMITS);
        prop_assert_eq!(&parts(&mut parser, &pieces(&writer.bytes, piece)), &writer.truth);
        prop_assert_eq!(parser.take_counts(), Counts::default());
    }

    #[test]
    fn a_loss_invents_nothing(
        (side, actions) in direction(),
        cuts in vec((any::<prop::sample::Index>(), prop::bool::weighted(0.3)), 1..12),
        joined in prop::option::weighted(0.3, any::<prop::sample::Index>()),
    ) {
        let writer = write(side, &actions);
        let from = joined.map_or(0, |joined| joined.index(writer.bytes.len() + 1));
        let bytes = &writer.bytes[from..];
        let mut cuts: Vec<_> = cuts.iter().map(|(at, lost)| (at.index(bytes.len() + 1), *lost)).collect();
        cuts.sort_unstable();
        let (mut ops, mut at) = (Vec::new(), 0);
        for (end, lost) in cuts.into_iter().chain([(bytes.len(), false)]) {
            ops.push(if lost { Op::Lost(end - at) } else { Op::Bytes(bytes[at..end].to_vec()) });
            at = end;
        }
        let mut parser = match joined {
            Some(_) => Http2::joined(side, &LIMITS),
            None => Http2::new(side, &LIMITS),
        };
        invents_nothing(&parts(&mut parser, &ops), from, &writer)?;
    }

    #[test]
    fn any_bytes_do_no_harm(
        ops in vec(prop_oneof![
            4 => vec(any::<u8>(), 1..200).prop_map(Op::Bytes),
            2 => (1..6_usize).prop_map(|count| Op::Bytes(tunnelled(count))),
            1 => (1..300_usize).prop_map(Op::Lost),
        ], 0..20),
        side in prop_oneof![Just(Side::Client), Just(Side::Server)],
        joined in any::<bool>(),
    ) {
        let mut parser = if joined { Http2::joined(side, &LIMITS) } else { Http2::new(side, &LIMITS) };
        parts(&mut parser, &ops);
    }
}
