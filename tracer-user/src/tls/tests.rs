use std::fs::File;
use std::path::Path;

use tracer_abi::config::TlsCall;

use super::{Gate, Library, Site, Stack};

/// The tracer itself exports through it, and so has it inside.
#[test]
fn the_rustls_of_this_program_is_understood() {
    let path = Path::new("/proc/self/exe");
    let library = Library::inside(File::open(path).unwrap(), path).unwrap().unwrap();
    let Stack::Rustls(version) = &library.stack else { panic!("{}", library.stack) };
    assert!(version.starts_with("0.23."), "{version}");
    for (name, call) in
        [("MessageEncrypter::encrypt", TlsCall::Write), ("MessageDecrypter::decrypt", TlsCall::Read)]
    {
        let of = |is: &dyn Fn(&Site) -> bool| {
            library.points.iter().filter(|point| point.function == name && is(&point.site)).count()
        };
        // TLS 1.3, and two sorts of ciphers before it.
        assert_eq!(of(&|site| *site == Site::Begins(call)), 3, "{name}");
        assert!(of(&|site| *site == Site::Ends(Gate::Always)) >= 3, "{name}");
    }
}
