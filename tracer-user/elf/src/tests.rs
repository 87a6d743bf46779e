use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

use proptest::prelude::*;
use tracer_abi::config::TlsCall;

use super::accessor::{self, Value};
use super::elf::{self, Function};
use super::follow;
use super::library::Library;
use super::openssl;
use super::place::{self, Gate, Point, Site};

fn function(code: &[u8]) -> Function {
    Function { name: "f", offset: 0x1000, address: 0x2000, code: code.to_vec() }
}

fn at(point: &Point) -> (u64, Site, bool) {
    assert_eq!(point.offset, 0x1000 + point.inside);
    (point.inside, point.site, point.emulated)
}

fn ends(code: &[u8]) -> Option<Vec<(u64, Site, bool)>> {
    Some(place::ends(&function(code), None)?.iter().map(at).collect())
}

const READ: Site = Site::Begins(TlsCall::Read);

#[test]
fn a_beginning_is_where_the_kernel_emulates() {
    let begins = |code: &[u8]| at(&place::beginning(&function(code), TlsCall::Read).unwrap());
    // sub $24,%rsp; test %edx,%edx; js +0; ret
    assert_eq!(begins(&[0x48, 0x83, 0xec, 0x18, 0x85, 0xd2, 0x78, 0x00, 0xc3]), (6, READ, true));
    // endbr64; push %rbx; ret
    assert_eq!(begins(&[0xf3, 0x0f, 0x1e, 0xfa, 0x53, 0xc3]), (4, READ, true));
    // xor %edx,%edx; push %rbx: an argument is gone.
    assert_eq!(begins(&[0x31, 0xd2, 0x53, 0xc3]), (0, READ, false));
    // sub $8,%rsp; ret; push %rbx: behind the end.
    assert_eq!(begins(&[0x48, 0x83, 0xec, 0x08, 0xc3, 0x53, 0xc3]), (0, READ, false));
    // xor %eax,%eax; push %rbx; jmp -3: who jumps to the push does not begin.
    assert_eq!(begins(&[0x31, 0xc0, 0x53, 0xeb, 0xfd]), (0, READ, false));
    // The fourth argument counts where there is one. xor %ecx,%ecx; push %rbx
    let function = function(&[0x31, 0xc9, 0x53, 0xc3]);
    assert!(place::beginning(&function, TlsCall::Read).unwrap().emulated);
    assert!(!place::beginning(&function, TlsCall::ReadEx).unwrap().emulated);
}

#[test]
fn an_end_is_a_branch_that_is_not_taken() {
    // jne +5; add $24,%rsp; ret; nop: where it goes otherwise is in the function, too.
    assert_eq!(
        ends(&[0x75, 0x05, 0x48, 0x83, 0xc4, 0x18, 0xc3, 0x90]),
        Some(vec![(0, Site::Ends(Gate::IfZero), true)])
    );
    assert_eq!(ends(&[0x74, 0x01, 0xc3, 0x90]), Some(vec![(0, Site::Ends(Gate::IfNotZero), true)]));
    // jne +2; xor %eax,%eax; ret: the result changes.
    assert_eq!(ends(&[0x75, 0x02, 0x31, 0xc0, 0xc3]), Some(vec![(4, Site::Ends(Gate::Always), false)]));
    // jne to the return itself; ret
    assert_eq!(ends(&[0x75, 0x01, 0x90, 0xc3]), Some(vec![(3, Site::Ends(Gate::Always), false)]));
    // Two ends.
    assert_eq!(ends(&[0xc3, 0xc3]).map(|ends| ends.len()), Some(2));
    // jmp *%rax; jmp out of the function; no end at all
    assert_eq!(ends(&[0xff, 0xe0, 0xc3]), None);
    assert_eq!(ends(&[0xeb, 0x40, 0xc3]), None);
    assert_eq!(ends(&[0x90]), None);
}

/// Compilers put what a function seldom comes to elsewhere.
#[test]
fn a_part_that_lies_elsewhere_is_a_function_s_own() {
    // ja 0x2040; ret
    let own = function(&[0x77, 0x3e, 0xc3]);
    let ends = |seldom: &[u8]| {
        let part = Function { name: "f.cold", offset: 0x1040, address: 0x2040, code: seldom.to_vec() };
        place::ends(&own, Some(&part)).map(|ends| ends.len())
    };
    // call abort; and: jmp 0x2002
    assert_eq!(ends(&[0xe8, 0, 0, 0, 0]), Some(1));
    assert_eq!(ends(&[0xeb, 0xc0]), Some(1));
    // It returns itself, goes elsewhere, goes to where is not known; it is not there.
    assert_eq!(ends(&[0xc3]), None);
    assert_eq!(ends(&[0xeb, 0x40]), None);
    assert_eq!(ends(&[0xff, 0xe0]), None);
    assert!(place::ends(&own, None).is_none());
}

/// Go's functions look for room on their stack first, and begin again when they have made it.
#[test]
fn a_call_of_go_begins_behind_the_look_at_its_stack() {
    let check: &[u8] = &[0x49, 0x3b, 0x66, 0x10, 0x76, 0x06];
    let begins =
        |code: &[u8]| place::behind_stack_check(&function(code), TlsCall::Read).map(|point| at(&point));
    // cmp 16(%r14),%rsp; jbe +6; push %rbp; mov %rsp,%rbp; ret; call 0
    assert_eq!(
        begins(&[check, &[0x55, 0x48, 0x89, 0xe5, 0xc3, 0x90, 0xe8, 0, 0, 0, 0]].concat()),
        Some((6, READ, true))
    );
    // lea -80(%rsp),%r12; cmp 16(%r14),%r12; jbe +2; push %rbp; ret
    let large = [0x4c, 0x8d, 0x64, 0x24, 0xb0, 0x4d, 0x3b, 0x66, 0x10, 0x76, 0x01, 0x55, 0xc3];
    assert_eq!(begins(&large), Some((11, READ, true)));
    // An argument is gone, the stack pointer has moved, or there is no such look: xor %ebx,%ebx; sub $8,%rsp; nothing.
    assert_eq!(begins(&[check, &[0x31, 0xdb, 0x55, 0xc3, 0x90, 0x90]].concat()), None);
    assert_eq!(begins(&[check, &[0x48, 0x83, 0xec, 0x08, 0x55, 0xc3]].concat()), None);
    assert_eq!(begins(&[0x55, 0xc3]), None);
    let ends = |code: &[u8]| {
        place::returns(&function(code))
            .map(|points| points.iter().map(|point| point.inside).collect::<Vec<_>>())
    };
    // je +1; ret; ret: both, and where they are, not before.
    assert_eq!(ends(&[0x74, 0x01, 0xc3, 0xc3]), Some(vec![2, 3]));
    // jmp out of the function
    assert_eq!(ends(&[0xeb, 0x40, 0xc3]), None);
}

/// What the host's own library is like: its plaintext goes through these.
#[test]
fn the_library_of_this_host_is_understood() {
    let Some(library) = super::standard().into_iter().next() else {
        eprintln!("there is no OpenSSL on this host");
        return;
    };
    for name in ["SSL_read", "SSL_read_ex", "SSL_write", "SSL_write_ex", "SSL_do_handshake"] {
        let of = |is: fn(&Site) -> bool| {
            library.points.iter().filter(|point| point.function == name && is(&point.site)).count()
        };
        assert_eq!(of(|site| matches!(site, Site::Begins(_))), 1, "{name}");
        assert!(of(|site| matches!(site, Site::Ends(_) | Site::Returns)) >= 1, "{name}");
    }
    assert_eq!(library.points.iter().filter(|point| point.site == Site::Frees).count(), 1);
    // In the file are the bytes that were decoded.
    let file = File::open(library.handle()).unwrap();
    let functions = elf::functions(&file, &["SSL_read"]).unwrap();
    let begins = library.points.iter().find(|point| point.function == "SSL_read").unwrap();
    assert_eq!(begins.offset - begins.inside, functions[0].offset);
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// What is added to a register may be another one, and more than fits.
#[test]
fn odd_numbers_are_survived() {
    const ADD_RAX_TO_RDI: [u8; 3] = [0x48, 0x01, 0xc7];
    const ADD_RAX_TO_RSP: [u8; 3] = [0x48, 0x01, 0xc4];
    const GROW_BY_2_GIB: [u8; 7] = [0x48, 0x81, 0xec, 0xff, 0xff, 0xff, 0x7f];
    const JUMP_TO_RAX: [u8; 2] = [0xff, 0xe0];
    let added = [&ADD_RAX_TO_RDI[..], &JUMP_TO_RAX].concat();
    let moved = [&ADD_RAX_TO_RSP[..], &JUMP_TO_RAX].concat();
    let grown = [&GROW_BY_2_GIB[..], &GROW_BY_2_GIB, &JUMP_TO_RAX].concat();
    for (code, depth) in [(added, Some(0)), (moved, None), (grown, None)] {
        let function = function(&code);
        let _ = accessor::follow(&function);
        assert!(follow::returns(&file_of(&code), &[], &function).is_err());
        let jump =
            Point { inside: (code.len() - JUMP_TO_RAX.len()) as u64, ..place::caught(&function).unwrap() };
        assert_eq!(follow::depth(&function, &jump), depth);
    }
}

proptest! {
    /// Code may be anything.
    #[test]
    fn any_code_is_survived(code in prop::collection::vec(any::<u8>(), 0..200)) {
        let function = function(&code);
        for point in place::beginning(&function, TlsCall::WriteEx)
            .into_iter()
            .chain(place::freeing(&function))
            .chain(place::caught(&function))
            .chain(place::ends(&function, None).into_iter().flatten())
        {
            prop_assert!(point.inside < code.len() as u64);
        }
        let _ = accessor::follow(&function);
        let segment = elf::Segment { address: 0x2000, offset: 0, len: code.len() as u64, code: true, writable: false };
        let _ = follow::returns(&file_of(&code), &[segment], &function);
    }

    /// So may a file: one that is damaged anywhere is refused, or its places are inside of it.
    #[test]
    fn any_file_is_survived(damage in prop::collection::vec((0_usize..4096, any::<u8>()), 0..40), cut in 64_usize..60_000) {
        let mut bytes = vec![0; cut];
        let len = File::open("/proc/self/exe").unwrap().read(&mut bytes).unwrap();
        bytes.truncate(len);
        for (at, byte) in damage {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        let _ = elf::functions(&file_of(&bytes), &["SSL_read", "malloc"]);
        let _ = Library::open(file_of(&bytes), None, Path::new("x"));
        let _ = Library::gnutls(file_of(&bytes), Path::new("x"));
    }
}

fn named(name: &'static str, code: &[u8]) -> Function {
    Function { name, offset: 0x1000, address: 0x2000, code: code.to_vec() }
}

#[test]
fn what_a_function_looks_at_is_read_off_its_code() {
    let seen = |code: &[u8]| accessor::follow(&function(code)).unwrap();
    // mov 0x38(%rdi),%eax; xor %edi,%edi; ret
    assert_eq!(seen(&[0x8b, 0x47, 0x38, 0x31, 0xff, 0xc3]).returned, [Value::Field(0x38)].into());
    // mov 0x20(%rdi),%rax; test %rax,%rax; jne +5; mov 0x18(%rdi),%rax; ret; mov %rax,%rdi; jmp elsewhere
    let code = [
        0x48, 0x8b, 0x47, 0x20, 0x48, 0x85, 0xc0, 0x75, 0x05, 0x48, 0x8b, 0x47, 0x18, 0xc3, 0x48, 0x89, 0xc7,
        0xeb, 0x40,
    ];
    let both = seen(&code);
    assert_eq!(both.returned, [Value::Field(0x18)].into());
    assert_eq!(both.passed, [Value::Field(0x20)].into());
    assert_eq!(both.touched, [0x18, 0x20].into());
    // add $0x70,%rdi; mov %rdi,%rax; ret
    assert_eq!(
        seen(&[0x48, 0x83, 0xc7, 0x70, 0x48, 0x89, 0xf8, 0xc3]).returned,
        [Value::Inside(0x70)].into()
    );
    // cmpl $1,(%rdi); ret; movl $1,0x548(%rdi); ret
    assert_eq!(seen(&[0x83, 0x3f, 0x01, 0xc3]).compared, [(0, 1)].into());
    let cork = seen(&[0xc7, 0x87, 0x48, 5, 0, 0, 1, 0, 0, 0, 0xc3]);
    assert_eq!((cork.written, cork.compared), ([(0x548, 1)].into(), [].into()));
    // mov $0x30000130,%eax; ret
    let number = [0xb8, 0x30, 0x01, 0x00, 0x30, 0xc3];
    assert_eq!(seen(&number).returned, [Value::Number(0x3000_0130)].into());
    assert_eq!(openssl::version(&[named("OpenSSL_version_num", &number)]).as_deref(), Some("3.0.19"));
    let older = [0xb8, 0x7f, 0x11, 0x10, 0x10, 0xc3];
    assert_eq!(openssl::version(&[named("OpenSSL_version_num", &older)]).as_deref(), Some("1.1.1w"));
    // mov 0x10(%rdi),%rax; mov 8(%rax),%rax; ret: of another object.
    assert_eq!(
        seen(&[0x48, 0x8b, 0x47, 0x10, 0x48, 0x8b, 0x40, 0x08, 0xc3]).returned,
        [Value::Unknown].into()
    );
    // push %rbx; mov %rdi,%rbx; call; mov 8(%rbx),%rax; pop %rbx; ret: what a call keeps.
    let code = [0x53, 0x48, 0x89, 0xfb, 0xe8, 0, 1, 0, 0, 0x48, 0x8b, 0x43, 0x08, 0x5b, 0xc3];
    assert_eq!(seen(&code).returned, [Value::Field(8)].into());
    // push %rbx; mov %rdi,%rbx; mov (%rdi),%eax; test %eax,%eax; je +8; call; mov %rax,%rbx; mov 0x60(%rbx),%rdi;
    // test %rdi,%rdi; jne +6; mov 0x58(%rbx),%rax; pop %rbx; ret; pop %rbx; jmp: of what a call returned, or of the first
    // argument.
    let code = [
        &[0x53, 0x48, 0x89, 0xfb, 0x8b, 0x07, 0x85, 0xc0, 0x74, 0x08, 0xe8, 0, 1, 0, 0, 0x48, 0x89, 0xc3][..],
        &[0x48, 0x8b, 0x7b, 0x60, 0x48, 0x85, 0xff, 0x75, 0x06, 0x48, 0x8b, 0x43, 0x58, 0x5b, 0xc3],
        &[0x5b, 0xe9, 0, 1, 0, 0],
    ]
    .concat();
    let either = seen(&code);
    assert_eq!(either.returned, [Value::Unknown, Value::Field(0x58)].into());
    assert_eq!(either.passed, [Value::Unknown, Value::Inside(0), Value::Field(0x60)].into());
    // jmp to itself
    assert!(seen(&[0xeb, 0xfe]).returned.is_empty());
}

/// What is in the library's and in node's own memory, and in those that packages bring along, is not guessed.
#[test]
fn the_library_of_this_host_says_where_its_hellos_are() {
    let program = |path: &str| {
        let file = File::open(path).ok()?;
        Library::inside(file, Path::new(path)).unwrap()
    };
    let is_openssl = |library: &Library| matches!(library.stack, super::Stack::OpenSsl(_));
    let found: Vec<Library> =
        super::standard().into_iter().filter(is_openssl).chain(program("/usr/bin/node")).collect();
    for library in &found {
        let layout = library.layout.unwrap();
        assert_eq!(layout.client_random.abs_diff(layout.server_random), 32, "{layout:?}");
        assert!(layout.number_written > layout.number_read, "{layout:?}");
        assert!(matches!(library.stack, super::Stack::OpenSsl(Some(_))), "{}", library.stack);
    }
    // What holds no such library says nothing of one.
    assert!(program("/bin/sh").is_none());
}

/// `gnutls_record_recv` goes on in a function that has no name, and what gathers plaintext is told apart.
#[test]
fn the_gnutls_of_this_host_is_understood() {
    let path = Path::new("/usr/lib/x86_64-linux-gnu/libgnutls.so.30");
    let Ok(file) = File::open(path) else {
        eprintln!("there is no GnuTLS on this host");
        return;
    };
    let library = Library::gnutls(file, path).unwrap();
    let super::Stack::GnuTls(version, fields) = &library.stack else { panic!() };
    assert!(version.as_deref().is_some_and(|version| version.starts_with("3.")), "{version:?}");
    assert!(fields.hellos > 0 && fields.corked > fields.hellos, "{fields:?}");
    for name in ["gnutls_record_send2", "gnutls_record_recv", "gnutls_record_recv_packet"] {
        let of = |is: fn(&Site) -> bool| {
            library.points.iter().filter(|point| point.function == name && is(&point.site)).count()
        };
        assert_eq!(of(|site| matches!(site, Site::Begins(_))), 1, "{name}");
        assert!(of(|site| matches!(site, Site::Ends(Gate::Always))) >= 1, "{name}");
    }
    // Who sends comes to another function for that.
    assert!(!library.points.iter().any(|point| point.function == "gnutls_record_send"));
    let mut offsets: Vec<u64> = library.points.iter().map(|point| point.offset).collect();
    offsets.sort_unstable();
    offsets.dedup();
    assert_eq!(offsets.len(), library.points.len());
}

#[test]
fn a_function_that_goes_on_elsewhere_ends_there() {
    // The file holds this from its beginning, which is loaded at 0x2000.
    let ends = |code: &[u8], size: usize| {
        let segment =
            elf::Segment { address: 0x2000, offset: 0, len: code.len() as u64, code: true, writable: false };
        let function = Function { name: "f", offset: 0, address: 0x2000, code: code[..size].to_vec() };
        let points = follow::returns(&file_of(code), &[segment], &function).ok()?;
        Some(points.iter().map(|point| point.offset).collect::<Vec<u64>>())
    };
    let nops = [0x90; 16];
    // jmp +1; nop; push %rbx; pop %rbx; ret
    assert_eq!(ends(&[&[0xeb, 0x01, 0x90, 0x53, 0x5b, 0xc3][..], &nops].concat(), 2), Some(vec![5]));
    // je +1; ret; jmp -4, back into the function
    assert_eq!(ends(&[&[0x74, 0x01, 0xc3, 0xeb, 0xfd][..], &nops].concat(), 3), Some(vec![2]));
    // jmp *%rax: to where is not known, also where another function goes on so.
    assert_eq!(ends(&[&[0xff, 0xe0, 0xc3][..], &nops].concat(), 3), None);
    assert_eq!(ends(&[&[0xeb, 0x00, 0xff, 0xe0][..], &nops].concat(), 2), None);
    // push %rbx; jmp *%rax; pop %rbx; ret: a table of cases.
    assert_eq!(ends(&[&[0x53, 0xff, 0xe0, 0x5b, 0xc3][..], &nops].concat(), 5), Some(vec![4]));
    // push %rbx; jmp *%rax; jmp *%rcx; pop %rbx; ret: a table of which a case has another one.
    assert_eq!(ends(&[&[0x53, 0xff, 0xe0, 0xff, 0xe1, 0x5b, 0xc3][..], &nops].concat(), 7), Some(vec![6]));
    // push %rbx; jmp *%rax; pop %rbx; jmp *%rcx; ret: a case that goes on elsewhere.
    assert_eq!(ends(&[&[0x53, 0xff, 0xe0, 0x5b, 0xff, 0xe1, 0xc3][..], &nops].concat(), 7), None);
    // push %rbx; pop %rbx; jmp *%rax; ret
    assert_eq!(ends(&[&[0x53, 0x5b, 0xff, 0xe0, 0xc3][..], &nops].concat(), 5), None);
    // mov %rsi,%rsp; jmp *%rax; ret
    assert_eq!(ends(&[&[0x48, 0x89, 0xf4, 0xff, 0xe0, 0xc3][..], &nops].concat(), 6), None);
    // jmp to itself, and out of the file
    assert_eq!(ends(&[&[0xeb, 0x00, 0xeb, 0xfe][..], &nops].concat(), 2), None);
    assert_eq!(ends(&[0xeb, 0x40], 2), None);
}

#[test]
fn how_far_the_stack_has_grown_is_counted() {
    let depth = |code: &[u8]| {
        let function = function(code);
        follow::depth(&function, &place::beginning(&function, TlsCall::Read).unwrap())
    };
    // push %rbx
    assert_eq!(depth(&[0x53, 0xc3]), Some(0));
    // sub $24,%rsp; test %edx,%edx; js +0
    assert_eq!(depth(&[0x48, 0x83, 0xec, 0x18, 0x85, 0xd2, 0x78, 0x00, 0xc3]), Some(3));
    // mov %rsi,%rsp; push %rbx
    assert_eq!(depth(&[0x48, 0x89, 0xf4, 0x53, 0xc3]), None);
}
