//! The kernel half's table of where libraries keep what ties sessions to sockets: each layout once.

use anyhow::Context as _;
use aya::Pod;
use aya::maps::{Array, MapData};
use tracer_abi::openssl::{MAX_LAYOUTS, OpenSslLayout};

use crate::capture::object::Loaded;
use crate::tls::Library;

pub(super) struct Layouts {
    table: Array<MapData, Value>,
    /// The first one has number 1.
    known: Vec<OpenSslLayout>,
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Value(OpenSslLayout);

// SAFETY: `repr(C)` integers without padding.
unsafe impl Pod for Value {}

impl Layouts {
    pub(super) fn new(loaded: &mut Loaded) -> anyhow::Result<Self> {
        let table = loaded.take_map("TRACER_OPENSSL")?.try_into().context("open map TRACER_OPENSSL")?;
        Ok(Self { table, known: Vec::new() })
    }

    /// Number of the library's layout; zero: none is known, or the table is full.
    pub(super) fn number(&mut self, library: &Library) -> u16 {
        let Some(layout) = library.layout else { return 0 };
        if let Some(at) = self.known.iter().position(|known| *known == layout) {
            return at as u16 + 1;
        }
        let number = self.known.len() as u32 + 1;
        if number >= MAX_LAYOUTS || self.table.set(number, Value(layout), 0).is_err() {
            return 0;
        }
        self.known.push(layout);
        number as u16
    }
}
