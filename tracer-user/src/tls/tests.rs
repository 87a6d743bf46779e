use std::fs::File;
use std::io::{Read as _, Write as _};

use proptest::prelude::*;
use tracer_abi::config::TlsCall;

use super::elf::{self, Function};
use super::library::Library;
use super::place::{self, Gate, Point, Site};

fn function(code: &[u8]) -> Function {
    Function { name: "f", offset: 0x1000, address: 0x2000, code: code.to_vec() }
}

fn at(point: &Point) -> (u64, Site, bool) {
    assert_eq!(point.offset, 0x1000 + point.inside);
    (point.inside, point.site, point.emulated)
}

fn ends(code: &[u8]) -> Option<Vec<(u64, Site, bool)>> {
    Some(place::ends(&function(code))?.iter().map(at).collect())
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

proptest! {
    /// Code may be anything.
    #[test]
    fn any_code_is_survived(code in prop::collection::vec(any::<u8>(), 0..200)) {
        let function = function(&code);
        for point in place::beginning(&function, TlsCall::WriteEx)
            .into_iter()
            .chain(place::freeing(&function))
            .chain(place::caught(&function))
            .chain(place::ends(&function).into_iter().flatten())
        {
            prop_assert!(point.inside < code.len() as u64);
        }
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
        let _ = Library::open(file_of(&bytes), std::path::Path::new("x"));
    }
}
