//! Places in real programs of every version that this machine has, and in made-up and damaged tables.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::super::place::Site;
use super::*;

/// Uses both ends of TLS.
const PROGRAM: &str = r#"
package main

import "net/http"

func main() {
	http.Get("https://127.0.0.1:1")
	http.ListenAndServeTLS("", "", "", nil)
}
"#;

const STRIP: &str = "-ldflags=-s -w";

/// Builds the program with a version, if that is here: nothing is downloaded.
fn build(dir: &Path, version: &str, flags: &[&str]) -> Option<File> {
    let mut command = Command::new("go");
    command.args(["build", "-o", "program"]).args(flags).arg("program.go").current_dir(dir);
    command.env("GOTOOLCHAIN", version).env("GOPROXY", "off").stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success()).then(|| File::open(dir.join("program")).unwrap())
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("program.go"), PROGRAM).unwrap();
    dir
}

/// Function, place in it, and what it tells.
fn places(points: &[Point]) -> Vec<(&'static str, u64, Site)> {
    points.iter().map(|point| (point.function, point.inside, point.site)).collect()
}

/// With its symbols a program says where its functions are; without them the runtime's table says the same.
#[test]
fn a_stripped_program_has_the_places_of_one_with_symbols() {
    let dir = folder();
    let mut seen = 0;
    for (version, start) in [("local", "go1."), ("go1.22.12", "go1.22.12"), ("go1.24.13", "go1.24.13")] {
        let Some(whole) = build(dir.path(), version, &[]) else {
            eprintln!("{version} is not here");
            continue;
        };
        seen += 1;
        let said = super::build(&whole).expect("its version");
        assert!(said.version.starts_with(start) && said.grpc.is_none(), "{}", said.version);
        let (fields, points) = points(&whole, &said).unwrap();
        let begins: Vec<&Point> =
            points.iter().filter(|point| !matches!(point.site, Site::Ends(_))).collect();
        // Both ends of TLS, and of HTTP/2.
        assert_eq!(begins.len(), 7, "{points:?}");
        assert_eq!(begins.iter().filter(|point| point.site.is_of_streams()).count(), 2, "{begins:?}");
        assert!(begins.iter().all(|point| point.emulated && point.instruction == "push rbp"), "{begins:?}");
        // The same places, found in the table though there are symbols.
        let segments = elf::segments(&whole).unwrap();
        let names = [MOVING[0].0, MOVING[1].0, HANDSHAKES[0], HANDSHAKES[1], CLOSE];
        let functions = pclntab::functions(&whole, &segments, &names).unwrap();
        assert_eq!(functions.len(), names.len());
        for function in functions {
            let same = elf::functions(&whole, &[function.name]).unwrap();
            assert_eq!(same[0].address, function.address, "{version} {}", function.name);
            assert!(function.code.starts_with(&same[0].code), "{version} {}", function.name);
        }
        let stripped = build(dir.path(), version, &[STRIP]).expect("stripped");
        let (same, found) = super::points(&stripped, &said).unwrap();
        assert_eq!((same, places(&found)), (fields, places(&points)), "{version}");
    }
    assert!(seen > 0 || Command::new("go").arg("version").output().is_err());
}

/// Where Go's code begins no header says: the file is to be loaded anywhere, or C's linker has put something before it.
#[test]
fn go_s_code_is_found_behind_that_of_others() {
    let dir = folder();
    for flags in [
        &["-buildmode=pie", STRIP][..],
        &["-ldflags=-s -w -linkmode=external"],
        &["-buildmode=pie", "-ldflags=-s -w -linkmode=external"],
    ] {
        for version in ["local", "go1.22.12"] {
            let Some(file) = build(dir.path(), version, flags) else {
                eprintln!("{version} {flags:?} is not to be had here");
                continue;
            };
            let said = super::build(&file).expect("its version");
            let (_, points) = points(&file, &said).unwrap();
            assert!(points.iter().all(|point| !point.instruction.is_empty()), "{version} {flags:?}");
        }
    }
}

const NAMES: [&str; 2] = [MOVING[0].0, MOVING[1].0];

/// Where the made-up file has its code, and where in that functions begin, and the last one ends.
const CODE: u64 = 0x1000;
const STARTS: [u32; 5] = [0, 0x40, 0xa0, 0x130, 0x200];

/// A file without headers, of a table of functions and their code, and its segments. `text`: what the header says of it.
fn made_up(text: u64) -> (Vec<u8>, Vec<Segment>) {
    let mut names = vec![0];
    let mut places = Vec::new();
    for name in ["runtime.main", NAMES[0], NAMES[1], "main.main"] {
        places.push(names.len() as u32);
        names.extend(name.as_bytes());
        names.push(0);
    }
    let list_len = 8 * places.len() + 4;
    let mut list = Vec::new();
    let mut descriptions = Vec::new();
    for (n, place) in places.iter().enumerate() {
        list.extend(STARTS[n].to_le_bytes());
        list.extend(((list_len + descriptions.len()) as u32).to_le_bytes());
        descriptions.extend(STARTS[n].to_le_bytes());
        descriptions.extend(place.to_le_bytes());
        descriptions.extend([0; 32]);
    }
    list.extend(STARTS[4].to_le_bytes());
    let mut bytes = vec![0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8];
    let names_end = 72 + names.len() as u64;
    for word in [places.len() as u64, 1, text, 72, names_end, names_end, names_end, names_end] {
        bytes.extend(word.to_le_bytes());
    }
    for part in [&names, &list, &descriptions] {
        bytes.extend(part);
    }
    bytes.resize(CODE as usize, 0);
    // Something of C's linker first.
    bytes.extend([0xcc; 0x30]);
    for ends in STARTS.windows(2) {
        // cmp 16(%r14),%rsp; jbe +2; push %rbp; ret
        let mut code = vec![0x49, 0x3b, 0x66, 0x10, 0x76, 0x02, 0x55, 0xc3];
        code.resize((ends[1] - ends[0]) as usize, 0xcc);
        bytes.extend(code);
    }
    let code = bytes.len() as u64 - CODE;
    let segments = vec![
        Segment { address: 0x40_0000, offset: 0, len: CODE, code: false, writable: false },
        Segment { address: 0x50_0000, offset: CODE, len: code, code: true, writable: false },
    ];
    (bytes, segments)
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

#[test]
fn functions_are_where_the_table_says() {
    let text = 0x50_0030;
    for said in [text, 0, text + 0x10] {
        let (bytes, segments) = made_up(said);
        let found = pclntab::functions(&file_of(&bytes), &segments, &NAMES).unwrap();
        let found: Vec<(&str, u64, u64)> =
            found.iter().map(|found| (found.name, found.address, found.offset)).collect();
        let at = |n: usize| (text + u64::from(STARTS[n]), CODE + 0x30 + u64::from(STARTS[n]));
        assert_eq!(found, [(NAMES[0], at(1).0, at(1).1), (NAMES[1], at(2).0, at(2).1)], "{said:x}");
    }
    // Without names there are no functions; without the table that is said.
    let (bytes, segments) = made_up(text);
    assert!(pclntab::functions(&file_of(&bytes), &segments, &["no.such"]).unwrap().is_empty());
    let error = pclntab::functions(&file_of(&bytes[8..]), &segments, &NAMES).unwrap_err();
    assert!(error.to_string().contains("neither symbols nor"), "{error:#}");
    // Functions that could begin in two places are in none.
    let (mut bytes, segments) = made_up(0);
    let code = bytes[CODE as usize + 0x30..].to_vec();
    bytes.extend(code);
    let segments = [segments[0], Segment { len: bytes.len() as u64 - CODE, ..segments[1] }];
    assert!(pclntab::functions(&file_of(&bytes), &segments, &NAMES).is_err());
}

/// A table in which a name is as often as there is room for it takes no longer to look through.
#[test]
fn a_name_that_is_there_again_and_again_counts_once() {
    const NAMED: usize = 200_000;
    const FUNCTIONS: usize = 1 << 20;
    let names = format!("{}\0", NAMES[0]).repeat(NAMED);
    let (names_end, list_len) = (72 + names.len() as u64, 8 * FUNCTIONS + 4);
    let mut bytes = vec![0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8];
    for word in [FUNCTIONS as u64, 1, 0, 72, names_end, names_end, names_end, names_end] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(names.as_bytes());
    // All have the one description, which names the last of them.
    bytes.extend([0, list_len as u32].map(u32::to_le_bytes).as_flattened().repeat(FUNCTIONS));
    bytes.extend([0; 8]);
    bytes.extend(((NAMED - 1) as u32 * (NAMES[0].len() as u32 + 1)).to_le_bytes());
    let segment = Segment { address: 0, offset: 0, len: bytes.len() as u64, code: false, writable: false };
    let begun = std::time::Instant::now();
    assert!(pclntab::functions(&file_of(&bytes), &[segment], &NAMES).unwrap().is_empty());
    assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
}

proptest! {
    /// A table may be damaged anywhere, and say anything.
    #[test]
    fn any_table_is_survived(damage in prop::collection::vec((0_usize..0x1200, any::<u8>()), 0..40), cut in 0_usize..0x1200) {
        let (mut bytes, segments) = made_up(0);
        for (at, byte) in damage {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes.truncate(cut.max(16));
        if let Ok(found) = pclntab::functions(&file_of(&bytes), &segments, &NAMES) {
            for function in found {
                prop_assert!(function.offset + function.code.len() as u64 <= bytes.len() as u64);
            }
        }
    }

    /// So may what its header says, whole words of it.
    #[test]
    fn any_header_is_survived(words in prop::collection::vec((0_usize..9, any::<u64>(), 0_u32..64), 0..5)) {
        let (mut bytes, segments) = made_up(0);
        for (word, value, shift) in words {
            bytes[8 * word..][..8].copy_from_slice(&(value >> shift).to_le_bytes());
        }
        bytes[..8].copy_from_slice(&[0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8]);
        let _ = pclntab::functions(&file_of(&bytes), &segments, &NAMES);
    }

    /// A program that says it is Go's may be anything.
    #[test]
    fn any_program_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..600), version in ".{0,20}") {
        let file = file_of(&bytes);
        let _ = super::build(&file);
        let _ = points(&file, &Build { version, grpc: None });
    }
}
