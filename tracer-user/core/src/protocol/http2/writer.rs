//! Writes a direction for tests, and keeps what a parser must find in it.

use std::collections::BTreeMap;

use super::frame::{Frame, HEADER_BYTES, PREFACE, Rules, Side, flag};
use super::head::Gathered;
use super::hpack::encoder::Encoder;
use super::hpack::{BlockEnd, Field};
use super::{Part, Settings};
use crate::exchange::BodyLen;

/// Name, value, and how it is written.
pub(super) type Fields = Vec<(String, String, u8)>;

#[derive(Debug, Default)]
pub(super) struct Writer {
    pub(super) bytes: Vec<u8>,
    /// Each part, and the position behind its last byte.
    pub(super) truth: Vec<(usize, Part)>,
    encoder: Encoder,
    bodies: BTreeMap<u32, u64>,
    began: BTreeMap<u32, bool>,
}

/// How a frame is written.
#[derive(Clone, Debug, Default)]
pub(super) struct Form {
    pub(super) pad: Option<u8>,
    pub(super) priority: bool,
    /// The longest fragment of a block.
    pub(super) fragment: usize,
    pub(super) ends: bool,
}

impl Writer {
    pub(super) fn new(side: Side) -> Self {
        let bytes = if side == Side::Client { PREFACE.to_vec() } else { Vec::new() };
        Self { bytes, ..Self::default() }
    }

    pub(super) fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.bytes.extend(&(payload.len() as u32).to_be_bytes()[1..]);
        self.bytes.extend([kind, flags]);
        self.bytes.extend(stream.to_be_bytes());
        self.bytes.extend(payload);
    }

    fn found(&mut self, part: Part) {
        self.truth.push((self.bytes.len(), part));
    }

    pub(super) fn head(&mut self, stream: u32, fields: &Fields, form: &Form) {
        let head = self.block(1, stream, &[], fields, form);
        let begun = self.bodies.entry(stream).or_insert(0);
        let ended = form.ends.then_some(BodyLen::Exact(*begun));
        self.found(Part::Head { stream, head, ended });
    }

    pub(super) fn promise(&mut self, stream: u32, promised: u32, fields: &Fields, form: &Form) {
        let form = Form { priority: false, ends: false, ..form.clone() };
        let head = self.block(5, stream, &promised.to_be_bytes(), fields, &form);
        self.found(Part::Promise { stream, promised: Some(promised), head });
    }

    fn block(
        &mut self,
        kind: u8,
        stream: u32,
        fixed: &[u8],
        fields: &Fields,
        form: &Form,
    ) -> Box<super::head::Head> {
        let (mut block, mut gathered) = (Vec::new(), Gathered::default());
        for (name, value, how) in fields {
            self.encoder.field(name, value, *how, &mut block);
            gathered.take(Field::Known { name: name.as_bytes(), value: value.as_bytes(), learned: false });
        }
        let mut fragments: Vec<_> = block.chunks(form.fragment.max(1)).collect();
        if fragments.is_empty() {
            fragments.push(&[]);
        }
        let last = fragments.len() - 1;
        for (n, fragment) in fragments.into_iter().enumerate() {
            let mut flags = if n == last { flag::END_HEADERS } else { 0 };
            if n > 0 {
                self.frame(9, flags, stream, fragment);
                continue;
            }
            let mut payload = Vec::new();
            if let Some(pad) = form.pad {
                flags |= flag::PADDED;
                payload.push(pad);
            }
            if form.priority {
                flags |= flag::PRIORITY;
                payload.extend([0, 0, 0, 0, 15]);
            }
            if form.ends {
                flags |= flag::END_STREAM;
            }
            payload.extend(fixed);
            payload.extend(fragment);
            payload.resize(payload.len() + usize::from(form.pad.unwrap_or(0)), 0);
            self.frame(kind, flags, stream, &payload);
        }
        gathered.finish(BlockEnd::default())
    }

    pub(super) fn data(&mut self, stream: u32, content: &[u8], form: &Form) {
        let mut payload: Vec<u8> = form.pad.into_iter().collect();
        payload.extend(content);
        payload.resize(payload.len() + usize::from(form.pad.unwrap_or(0)), 0);
        let flags = if form.pad.is_some() { flag::PADDED } else { 0 };
        let flags = flags | if form.ends { flag::END_STREAM } else { 0 };
        if !payload.is_empty() && !std::mem::replace(self.began.entry(stream).or_default(), true) {
            self.truth.push((self.bytes.len() + HEADER_BYTES, Part::Body { stream }));
        }
        self.frame(0, flags, stream, &payload);
        let len = self.bodies.entry(stream).or_default();
        *len += content.len() as u64;
        let body_len = BodyLen::Exact(*len);
        if form.ends {
            self.found(Part::End { stream, body_len });
        }
    }

    pub(super) fn reset(&mut self, stream: u32, error: u32) {
        self.frame(3, 0, stream, &error.to_be_bytes());
        self.found(Part::Reset { stream, error: Some(error) });
    }

    pub(super) fn go_away(&mut self, last: u32, error: u32, debug: &[u8]) {
        let payload = [&last.to_be_bytes()[..], &error.to_be_bytes(), debug].concat();
        self.frame(7, 0, 0, &payload);
        self.found(Part::GoAway { last_stream: Some(last), error: Some(error) });
    }

    pub(super) fn settings(&mut self, list: &[(u16, u32)]) {
        let payload: Vec<u8> = list
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        self.frame(4, 0, 0, &payload);
        let value = |id| list.iter().rev().find(|(other, _)| *other == id).map(|&(_, value)| value);
        self.found(Part::Settings(Settings {
            header_table_size: value(1),
            max_frame_size: value(5),
            enable_connect_protocol: value(8).map(|value| value != 0),
            torn: false,
        }));
    }

    /// Frames that say nothing: one of each kind.
    pub(super) fn noise(&mut self, which: u8) {
        match which % 6 {
            0 => self.frame(6, which & 1, 0, b"12345678"),
            1 => self.frame(8, 0, u32::from(which), &[0, 0, 1, 0]),
            2 => self.frame(4, flag::ACK, 0, &[]),
            3 => self.frame(2, 0, 3, &[0, 0, 0, 0, 9]),
            4 => self.frame(0x10, 0, 0, b"\0\0\0\x01u=3"),
            _ => self.frame(0xb4, 0xff, 0, &[0x5a; 21]),
        }
    }
}

/// Frames as the content of a body, which no parser may take for its own.
pub(super) fn tunnelled(count: usize) -> Vec<u8> {
    let mut inner = Writer::default();
    let fields = vec![
        (":method".to_owned(), "GET".to_owned(), 0x01),
        (":scheme".to_owned(), "http".to_owned(), 0x01),
        (":path".to_owned(), "/inner".to_owned(), 0x00),
    ];
    for n in 0..count {
        inner.head(n as u32 * 2 + 1, &fields, &Form { fragment: 100, ends: n % 2 == 0, ..Form::default() });
    }
    inner.bytes
}

#[test]
fn written_headers_are_read() {
    let mut writer = Writer::default();
    writer.data(7, b"abc", &Form { ends: true, ..Form::default() });
    let frame = Frame::parse(*writer.bytes.first_chunk().unwrap());
    assert_eq!(
        (frame.len, frame.stream, frame.has(flag::END_STREAM), frame.has(flag::ACK)),
        (3, 7, true, true)
    );
    let plausible = |max_len| frame.is_plausible(&Rules { side: Side::Client, max_len, pushes: false });
    assert!(frame.is_valid() && plausible(3) && !plausible(2));
}
