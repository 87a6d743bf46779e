//! Fields and places in real programs of every version of grpc-go that this machine has, and what is told of modules.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use tracer_abi::golang_grpc::{called, served};
use tracer_abi::golang_streams::Stream;
use tracer_abi::python::Memory;

use super::super::golang;
use super::*;

/// Serves and calls.
const PROGRAM: &str = r#"
package main

import (
	"context"
	"net"

	"google.golang.org/grpc"
)

func main() {
	listener, _ := net.Listen("tcp", "127.0.0.1:0")
	go grpc.NewServer().Serve(listener)
	connection, _ := grpc.Dial(listener.Addr().String())
	connection.Invoke(context.Background(), "/a/b", nil, nil)
}
"#;

/// Says where a program's debugging information has fields: of what is served, of what is called; whether its number is
/// elsewhere, its number, its transport, and from there the connection.
const READER: &str = r#"
package main

import (
	"debug/dwarf"
	"debug/elf"
	"fmt"
	"os"
	"strings"
)

func main() {
	file, err := elf.Open(os.Args[1])
	if err != nil {
		panic(err)
	}
	data, err := file.DWARF()
	if err != nil {
		panic(err)
	}
	structs := map[string]map[string]*dwarf.StructField{}
	for reader := data.Reader(); ; {
		entry, err := reader.Next()
		if err != nil || entry == nil {
			break
		}
		name, _ := entry.Val(dwarf.AttrName).(string)
		name, ok := strings.CutPrefix(name, "google.golang.org/grpc/internal/transport.")
		if entry.Tag != dwarf.TagStructType || !ok {
			continue
		}
		if found, err := data.Type(entry.Offset); err == nil {
			structs[name] = map[string]*dwarf.StructField{}
			for _, field := range found.(*dwarf.StructType).Field {
				structs[name][field.Name] = field
			}
		}
	}
	for _, side := range [][3]string{{"ServerStream", "st", "http2Server"}, {"ClientStream", "ct", "http2Client"}} {
		number, apart := structs["Stream"]["id"].ByteOffset, false
		stream := structs[side[0]]
		if stream == nil {
			stream = structs["Stream"]
		} else if _, apart = stream["Stream"].Type.(*dwarf.PtrType); !apart {
			number += stream["Stream"].ByteOffset
		}
		transport := stream[side[1]].ByteOffset
		if _, plain := stream[side[1]].Type.(*dwarf.PtrType); !plain {
			transport += 8
		}
		fmt.Println(apart, number, transport, structs[side[2]]["conn"].ByteOffset)
	}
}
"#;

/// Nothing is downloaded.
fn go(dir: &Path) -> Command {
    let mut command = Command::new("go");
    let flags = [("GOFLAGS", "-mod=mod"), ("GOPROXY", "off"), ("GONOSUMDB", "*"), ("GOTOOLCHAIN", "local")];
    command.current_dir(dir).envs(flags).stderr(Stdio::null());
    command
}

/// A folder with the program, if this version is here, with symbols and without.
fn program(version: &str) -> Option<tempfile::TempDir> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("main.go"), PROGRAM).unwrap();
    let module = format!("module program\n\ngo 1.22\n\nrequire {MODULE} {version}\n");
    std::fs::write(dir.path().join("go.mod"), module).unwrap();
    let build = |name: &str, flags: &str| {
        go(dir.path()).args(["build", flags, "-o", name, "."]).status().is_ok_and(|status| status.success())
    };
    (build("whole", "-trimpath") && build("stripped", "-ldflags=-s -w")).then_some(dir)
}

/// Words at addresses.
struct Image(BTreeMap<u64, u64>);

impl Memory for Image {
    fn word(&self, address: u64) -> u64 {
        self.0.get(&address).copied().unwrap_or_default()
    }

    fn half(&self, address: u64) -> u32 {
        let place = address & !7;
        (self.word(place) >> (8 * (address - place))) as u32
    }

    fn byte(&self, address: u64) -> u8 {
        self.half(address) as u8
    }
}

const STREAM: u64 = 0xc0_0001_0000;
const COMMON: u64 = 0xc0_0002_0000;
const TRANSPORT: u64 = 0xc0_0003_0000;

/// A stream of this number, as a line of the reader has its fields.
fn image(is_apart: bool, number: u64, transport: u64, id: u64) -> Image {
    let mut words = BTreeMap::new();
    let common = if is_apart { COMMON } else { STREAM };
    if is_apart {
        words.insert(STREAM, COMMON);
    }
    let place = common + number;
    words.insert(place & !7, id << (8 * (place & 7)));
    words.insert(STREAM + transport, TRANSPORT);
    Image(words)
}

fn check_fields(known: &Version, line: &str, serves: bool) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let &[is_apart, number, transport, connection] = words.as_slice() else { panic!("{line}") };
    let [number, transport, connection] =
        [number, transport, connection].map(|word| word.parse::<u64>().unwrap());
    let image = image(is_apart == "true", number, transport, 7);
    let found = if serves {
        served(&image, known.serves, TRANSPORT, STREAM)
    } else {
        called(&image, known.calls, STREAM)
    };
    assert_eq!(found, Some(Stream { id: 7, connection: TRANSPORT + connection }), "{line}");
}

fn check_places(dir: &Path, version: &str) {
    let of = |name: &str| {
        let file = File::open(dir.join(name)).unwrap();
        let build = golang::build(&file).unwrap();
        assert_eq!(build.grpc, Some(GrpcGo::of(version)));
        let (_, points) = golang::points(&file, &build).unwrap();
        let of_grpc = points.into_iter().filter(|point| FUNCTIONS.contains(&point.function));
        of_grpc.map(|point| (point.function, point.instruction, point.inside)).collect::<Vec<_>>()
    };
    let places = of("whole");
    assert!(matches!(places.as_slice(), [(SERVES, begins, _), ..] if begins == "push rbp"), "{places:?}");
    assert!(places[1..].iter().all(|(function, instruction, _)| *function == CALLS && instruction == "ret"));
    assert!(places.len() > 2, "{places:?}");
    assert_eq!(of("stripped"), places);
}

#[test]
fn real_programs_have_their_fields_where_their_versions_do() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("reader.go"), READER).unwrap();
    if !go(dir.path()).args(["build", "reader.go"]).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: no Go here");
        return;
    }
    // What the workloads use, and what else there may be.
    let mut seen = 0;
    for version in ["v1.60.1", "v1.64.1", "v1.68.2", "v1.69.4", "v1.76.0", "v1.77.0", "v1.83.0", "v1.85.0"] {
        let Some(program) = program(version) else {
            eprintln!("{version} is not here");
            continue;
        };
        seen += 1;
        let read =
            Command::new(dir.path().join("reader")).arg(program.path().join("whole")).output().unwrap();
        let text = String::from_utf8(read.stdout).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let &[serves, calls] = lines.as_slice() else { panic!("{version}: {text}") };
        let known = GrpcGo::of(version).known.expect(version);
        check_fields(known, serves, true);
        check_fields(known, calls, false);
        check_places(program.path(), version);
    }
    if seen == 0 {
        eprintln!("skipped: no grpc-go here");
    }
}

#[test]
fn a_program_says_which_version_it_has() {
    let said = |lines: &str| among(&format!("path\tshop\nmod\tshop\t(devel)\t\n{lines}"));
    let found =
        said("dep\tgolang.org/x/net\tv0.26.0\th1:x=\ndep\tgoogle.golang.org/grpc\tv1.64.1\th1:y=\n").unwrap();
    assert_eq!((found.to_string().as_str(), found.needed()), ("grpc-go 1.64.1", None));
    // Another version of it in its place; what follows another module; something else in its place.
    let found =
        said("dep\tgoogle.golang.org/grpc\tv1.99.0\n=>\tgoogle.golang.org/grpc\tv1.85.0\th1:y=\n").unwrap();
    assert_eq!(found, GrpcGo::of("v1.85.0"));
    let found =
        said("dep\tgoogle.golang.org/grpc\tv1.64.1\th1:y=\ndep\tx.org/y\tv1.0.0\n=>\t./y\t(devel)\t\n");
    assert_eq!(found, Some(GrpcGo::of("v1.64.1")));
    let found = said("dep\tgoogle.golang.org/grpc\tv1.64.1\n=>\t./grpc\t(devel)\t\n").unwrap();
    assert!(found.known.is_none());
    for unknown in ["v1.59.0", "v1.999.0", "v2.64.0", "v1", "", "(devel)"] {
        assert!(
            GrpcGo::of(unknown).needed().is_some_and(|needed| needed.ends_with("1.60 to 1.85")),
            "{unknown}"
        );
    }
    assert_eq!(said("dep\tgoogle.golang.org/grpc/examples\tv1.64.1\th1:y=\n"), None);
    assert_eq!(said("dep\tgoogle.golang.org/protobuf\tv1.33.0\th1:y=\n"), None);
}

#[test]
fn what_does_not_fit_is_no_stream() {
    for version in VERSIONS {
        let GrpcFields { is_apart, number, transport } = version.serves;
        let with = |id| image(is_apart, number.into(), transport.into(), id);
        let found = |id| served(&with(id), version.serves, TRANSPORT, STREAM).map(|stream| stream.id);
        assert_eq!(found(9), Some(9));
        // A server's own, none yet, one that cannot be.
        assert_eq!([0, 8, 0x8000_0001].map(found), [None; 3]);
        // Of another connection, and nothing at all.
        assert_eq!(served(&with(9), version.serves, COMMON, STREAM), None);
        assert_eq!(served(&with(9), version.serves, 0, 0), None);
        assert_eq!(called(&with(9), version.calls, 0), None);
    }
}

proptest! {
    /// What a program says of its modules may be anything.
    #[test]
    fn any_modules_are_survived(text in "(dep|=>|\t|\n|google.golang.org/grpc|v1.|[0-9.]){0,40}") {
        if let Some(found) = among(&text) {
            let _ = (found.to_string(), found.needed());
        }
    }

    /// Nor does changed memory lead to a stream that could not be.
    #[test]
    fn changed_memory_is_survived(word in any::<u64>(), at in 0_u64..400, row in 0_usize..5) {
        let version = &VERSIONS[row];
        let GrpcFields { is_apart, number, transport } = version.serves;
        let mut image = image(is_apart, number.into(), transport.into(), 7);
        image.0.insert(STREAM + (at & !7), word);
        if let Some(stream) = served(&image, version.serves, TRANSPORT, STREAM) {
            prop_assert!(stream.id % 2 == 1 && stream.id < 1 << 31 && stream.connection == TRANSPORT + 16);
        }
    }
}
