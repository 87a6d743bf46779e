//! Header blocks that other encoders made (http2jp's collection, read in place): every field must come out as it went
//! in, however the blocks are cut.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test reads files, and may state what cannot fail"
)]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tracer_core::protocol::http2::hpack::{BlockEnd, Decoder, Field};

fn fixtures() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures/hpack");
    folder.is_dir().then_some(folder)
}

fn wire(case: &Value) -> Vec<u8> {
    let digits = case["wire"].as_str().unwrap();
    (0..digits.len() / 2).map(|at| u8::from_str_radix(&digits[at * 2..at * 2 + 2], 16).unwrap()).collect()
}

fn headers(case: &Value) -> Vec<(String, String)> {
    let headers = case["headers"].as_array().unwrap().iter().flat_map(|header| header.as_object().unwrap());
    headers.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect()
}

/// Returns how many blocks the file has.
fn check(file: &Path, piece: usize) -> usize {
    let story: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let mut decoder = Decoder::new(1 << 20, |_| true);
    let cases = story["cases"].as_array().unwrap();
    for case in cases {
        if let Some(size) = case["header_table_size"].as_u64() {
            decoder.announce(size as u32);
        }
        let mut fields = Vec::new();
        decoder.begin_block();
        for piece in wire(case).chunks(piece) {
            decoder.decode(piece, &mut |field| {
                let Field::Known { name, value, learned: false } = field else { panic!("{field:?}") };
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                fields.push((text(name), text(value)));
            });
        }
        let name = format!("{} {}", file.display(), case["seqno"]);
        assert_eq!(decoder.end_block(), BlockEnd::default(), "{name}");
        assert_eq!(fields, headers(case), "{name}");
        assert!(decoder.is_certain(), "{name}");
    }
    cases.len()
}

#[test]
fn fields_come_out_as_they_went_in() {
    let Some(folder) = fixtures() else {
        println!("skipped: ../shared/fixtures/hpack is not there");
        return;
    };
    for encoder in ["nghttp2", "nghttp2-change-table-size"] {
        let files = fs::read_dir(folder.join(encoder)).unwrap();
        let mut files: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let blocks: usize = files.iter().map(|file| check(file, usize::MAX)).sum();
        assert!(blocks > 3000, "{encoder}: only {blocks} blocks were read");
        for file in &files {
            check(file, 1);
        }
    }
}
