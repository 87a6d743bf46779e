use proptest::collection::vec;
use proptest::prelude::*;

use super::encoder::{Encoder, Fields, integer};
use super::*;

fn all(_name: &[u8]) -> bool {
    true
}

/// What comes of one block in pieces: `None` for a field that is not known.
fn block(decoder: &mut Decoder, bytes: &[u8], piece: usize) -> (Vec<Option<(String, String)>>, BlockEnd) {
    let mut fields = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    decoder.begin_block();
    for piece in bytes.chunks(piece.max(1)) {
        decoder.decode(piece, &mut |field| {
            fields.push(match field {
                Field::Known { name, value, .. } => Some((text(name), text(value))),
                Field::Named { name } => Some((text(name), "…".to_owned())),
                Field::Unknown => None,
            });
        });
    }
    (fields, decoder.end_block())
}

fn hex(digits: &str) -> Vec<u8> {
    let digits = digits.replace(' ', "");
    (0..digits.len() / 2).map(|at| u8::from_str_radix(&digits[at * 2..at * 2 + 2], 16).unwrap()).collect()
}

fn check(blocks: &[(&str, &[(&str, &str)])]) {
    for piece in [usize::MAX, 1, 3] {
        let mut decoder = Decoder::new(65536, all);
        for (bytes, want) in blocks {
            let (fields, end) = block(&mut decoder, &hex(bytes), piece);
            let want: Vec<_> = want.iter().map(|&(name, value)| Some((name.into(), value.into()))).collect();
            assert_eq!(fields, want, "{bytes}");
            assert_eq!(end, BlockEnd::default(), "{bytes}");
        }
    }
}

#[test]
fn the_requests_of_the_rfc() {
    // RFC 7541 appendix C.4.
    let authority = (":authority", "www.example.com");
    check(&[
        (
            "828684418cf1e3c2e5f23a6ba0ab90f4ff",
            &[(":method", "GET"), (":scheme", "http"), (":path", "/"), authority],
        ),
        (
            "828684be5886a8eb10649cbf",
            &[
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/"),
                authority,
                ("cache-control", "no-cache"),
            ],
        ),
        (
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
            &[
                (":method", "GET"),
                (":scheme", "https"),
                (":path", "/index.html"),
                authority,
                ("custom-key", "custom-value"),
            ],
        ),
    ]);
}

#[test]
fn the_responses_of_the_rfc_evict() {
    // RFC 7541 appendix C.6, whose table has 256 bytes.
    let (cache, location) = (("cache-control", "private"), ("location", "https://www.example.com"));
    let date = ("date", "Mon, 21 Oct 2013 20:13:21 GMT");
    check(&[
        (
            "3fe101 488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
            &[(":status", "302"), cache, date, location],
        ),
        ("4883640effc1c0bf", &[(":status", "307"), cache, date, location]),
        (
            "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
            &[
                (":status", "200"),
                cache,
                ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
                location,
                ("content-encoding", "gzip"),
                ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
            ],
        ),
    ]);
}

#[test]
fn what_is_not_valid_is_told_and_forgets_the_table() {
    let check = |bytes: &str, want: Option<Broken>| {
        for piece in [usize::MAX, 1] {
            let mut decoder = Decoder::new(65536, all);
            block(&mut decoder, &hex("40 01 61 01 62"), 1);
            let (_, end) = block(&mut decoder, &hex(bytes), piece);
            assert_eq!(end.broken, want, "{bytes}");
            assert_eq!(decoder.is_certain(), want.is_none(), "{bytes}");
            assert_eq!(end.forgotten, usize::from(want.is_some()), "{bytes}");
        }
    };
    check("be", None);
    check("80", Some(Broken::Index));
    check("bf", Some(Broken::Index));
    check("7f00 01 61", Some(Broken::Index));
    check("82 20", Some(Broken::SizeUpdate));
    check("20 3f e1 1f 82", None);
    check("ff ff ff ff ff 0f", Some(Broken::Integer));
    check("ff 80 80 80 80 80 80 80 00", Some(Broken::Integer));
    check("00 01 61 81 00", Some(Broken::Huffman));
    check("00 81 ff 00", Some(Broken::Huffman));
    check("00 01 61 84 ff ff ff ff", Some(Broken::Huffman));
    check("00 01 61 02 62", Some(Broken::Cut));
    check("00 01", Some(Broken::Cut));
    check("7f", Some(Broken::Cut));
}

#[test]
fn a_bomb_costs_neither_memory_nor_more_than_its_bytes() {
    let mut decoder = Decoder::new(10_000, all);
    let mut bytes = Vec::new();
    let mut encoder = Encoder::default();
    encoder.field("a", &"x".repeat(4000), 0x10, &mut bytes);
    bytes.extend([0xbe; 20_000]);
    let (fields, end) = block(&mut decoder, &bytes, 1000);
    assert_eq!((fields.len(), end.cut, end.broken), (2, true, None));
    // The table is still right.
    assert_eq!(block(&mut decoder, &[0xbe], 1).0[0].as_ref().unwrap().1.len(), 4000);
    // A text longer than any list is counted, not kept.
    let mut long = vec![0x20];
    integer(0x20, 5, 1 << 30, &mut long);
    encoder.field("b", &"y".repeat(1_000_000), 0x50, &mut long);
    let (fields, end) = block(&mut decoder, &long, 777);
    assert_eq!((fields.len(), end.cut, end.broken), (0, true, None));
    assert!(decoder.held_bytes() < 10_000, "{}", decoder.held_bytes());
    // An entry too large to be kept has its place.
    assert_eq!(
        block(&mut decoder, &hex("40 01 63 01 64 be bf"), 1).0[1..],
        [Some(("c".into(), "d".into())), None]
    );
}

#[test]
fn names_that_do_not_matter_are_counted_and_not_kept() {
    let matters = |name: &[u8]| name == b"a" || name == b":method";
    let mut decoder = Decoder::new(65536, matters);
    let (fields, _) = block(&mut decoder, &hex("40 01 61 01 62 40 01 63 01 64 82 84"), 1);
    assert_eq!(fields, [Some(("a".into(), "b".into())), Some((":method".into(), "GET".into()))]);
    assert!(decoder.held_bytes() < 200);
    // A name that does not matter, by index, is no unknown one; one that does is found behind it.
    let (fields, end) = block(&mut decoder, &hex("be bf 7e 01 65 7f 01 01 66 be"), 1);
    let want = [("a", "b"), ("a", "f"), ("a", "f")].map(|(name, value)| Some((name.into(), value.into())));
    assert_eq!((fields.as_slice(), end), (want.as_slice(), BlockEnd::default()));
}

/// Size updates, and fields with how each is written.
type Block = (Vec<usize>, Vec<(String, String, u8)>);

fn blocks() -> impl Strategy<Value = Vec<Block>> {
    let name = prop_oneof![
        Just(":method".to_owned()),
        Just(":path".to_owned()),
        Just("grpc-status".to_owned()),
        Just("user-agent".to_owned()),
        "[a-z-]{1,12}",
    ];
    let value = prop_oneof![Just("GET".to_owned()), Just("/".to_owned()), "[ -~]{0,40}", "[a-c]{1,2}"];
    let sizes =
        prop_oneof![9 => Just(vec![]), 1 => vec(prop_oneof![Just(0_usize), 30..300_usize, Just(4096)], 1..3)];
    vec((sizes, vec((name, value, any::<u8>()), 0..8)), 1..12)
}

fn encode(encoder: &mut Encoder, (sizes, fields): &Block) -> (Vec<u8>, Fields) {
    let mut bytes = Vec::new();
    for &size in sizes {
        encoder.resize(size, &mut bytes);
    }
    for (name, value, how) in fields {
        encoder.field(name, value, *how, &mut bytes);
    }
    (bytes, fields.iter().map(|(name, value, _)| (name.clone(), value.clone())).collect())
}

/// Everything that is known is right.
fn agrees(known: &[Option<(String, String)>], truth: &Fields) -> Result<(), TestCaseError> {
    prop_assert!(known.len() <= truth.len());
    for (known, truth) in known.iter().zip(truth) {
        if let Some(known) = known {
            prop_assert_eq!(known, truth);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_encoded_is_decoded_however_it_is_cut(blocks in blocks(), piece in 1_usize..40) {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::new(65536, all));
        for fields in &blocks {
            let (bytes, truth) = encode(&mut encoder, fields);
            let (known, end) = block(&mut decoder, &bytes, piece);
            prop_assert_eq!(end, BlockEnd::default());
            prop_assert_eq!(known, truth.into_iter().map(Some).collect::<Vec<_>>());
            prop_assert!(decoder.is_certain());
        }
    }

    /// Some blocks are not seen at all, some in part; what is known of the others is right, and nothing that is written
    /// out with a name of its own or of the static table is missing.
    #[test]
    fn a_loss_makes_fields_unknown_and_never_wrong(
        blocks in blocks(),
        fates in vec((0_u8..6, any::<prop::sample::Index>()), 12),
        joined in any::<bool>(),
    ) {
        let mut encoder = Encoder::default();
        let mut decoder = if joined { Decoder::joined(65536, all) } else { Decoder::new(65536, all) };
        let mut doubtful = joined;
        for (fields, (fate, at)) in blocks.iter().zip(&fates) {
            let (bytes, truth) = encode(&mut encoder, fields);
            match fate {
                0 if joined => {
                    decoder.doubt();
                    doubtful = true;
                }
                1 if !bytes.is_empty() => {
                    let cut = at.index(bytes.len());
                    let mut known = Vec::new();
                    decoder.begin_block();
                    decoder.decode(&bytes[..cut], &mut |field| known.push(match field {
                        Field::Known { name, value, .. } => Some((
                            String::from_utf8_lossy(name).into_owned(),
                            String::from_utf8_lossy(value).into_owned(),
                        )),
                        Field::Named { .. } | Field::Unknown => None,
                    }));
                    decoder.tear();
                    decoder.decode(&bytes[cut..], &mut |_| panic!("behind what is missing"));
                    prop_assert!(decoder.end_block().torn);
                    agrees(&known, &truth)?;
                    doubtful = true;
                }
                _ => {
                    let (known, end) = block(&mut decoder, &bytes, 7);
                    prop_assert_eq!(end.broken, None);
                    prop_assert_eq!(known.len(), truth.len());
                    agrees(&known, &truth)?;
                    prop_assert!(doubtful || known.iter().all(Option::is_some));
                    let named = fields.1.iter().zip(&known).filter(|((name, value, how), _)| {
                        if how & 3 == 0 { how & 4 != 0 } else { STATIC.contains(&(name, value)) }
                    });
                    for (_, known) in named {
                        prop_assert!(known.is_some());
                    }
                }
            }
        }
    }

    #[test]
    fn any_bytes_do_no_harm(blocks in vec(vec(any::<u8>(), 0..200), 1..20), piece in 1_usize..50) {
        let (mut whole, mut cut) = (Decoder::new(1000, all), Decoder::new(1000, all));
        for bytes in &blocks {
            prop_assert_eq!(block(&mut whole, bytes, usize::MAX), block(&mut cut, bytes, piece));
            prop_assert!(whole.held_bytes() <= 2 * 1000 + 64 * 1024 * 4);
        }
    }
}
