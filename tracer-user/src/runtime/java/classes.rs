//! Classes of Java, as HotSpot keeps them: their names, and where their objects have which field.
//!
//! | until | fields of a class are | source |
//! |---|---|---|
//! | 20 | an array of half words, six for each | `fieldInfo.hpp` |
//! | from 21 on | a stream of numbers in one to five bytes each | `fieldInfo.hpp`, `unsigned5.hpp` |

use super::Failure;
use super::structs::Structs;
use crate::runtime::memory::Bytes;

/// Longest name that is read.
const MAX_NAME: usize = 256;

/// Fields of a class that are looked through: `Thread` has some dozens.
const MAX_FIELDS: u64 = 1024;

/// Bytes of a class's fields.
const MAX_STREAM: u32 = 1 << 14;

// Of a field, until 20.
const FIELD_HALVES: u64 = 6;
const PACKED_TAGS: u64 = 3;
const PACKED_OFFSET: u64 = 1;
/// It is the machine's own, and named in another way.
const IS_INTERNAL: u64 = 0x400;

// Of a field from 21 on: numbers that follow it if a bit is set.
const HAS_VALUE: u64 = 1;
const IS_INJECTED: u64 = 1 << 1;
const HAS_SIGNATURE: u64 = 1 << 2;
const IS_CONTENDED: u64 = 1 << 4;

const IS_STATIC: u64 = 8;

/// Where HotSpot keeps what a class is.
#[derive(Debug)]
pub(super) struct Classes<'m, M> {
    memory: &'m M,
    pub(super) name: u32,
    pub(super) ancestors: u32,
    pub(super) name_len: u32,
    pub(super) name_text: u32,
    constants: u32,
    constants_len: u32,
    constants_first: u32,
    fields: Fields,
}

#[derive(Debug)]
enum Fields {
    Halves { array: u32, data: u32, count: u32 },
    Stream { array: u32, data: u32, len: u32 },
}

impl<'m, M: Bytes> Classes<'m, M> {
    pub(super) fn of(structs: &Structs, memory: &'m M) -> Result<Self, Failure> {
        let field = |structure, names: &[&str]| {
            structs.field(structure, names).ok_or(Failure::Unfit("its classes are of another layout"))
        };
        let fields = if structs.field("InstanceKlass", &["_fieldinfo_stream"]).is_some() {
            Fields::Stream {
                array: field("InstanceKlass", &["_fieldinfo_stream"])?,
                data: field("Array<u1>", &["_data"])?,
                len: field("Array<int>", &["_length"])?,
            }
        } else {
            Fields::Halves {
                array: field("InstanceKlass", &["_fields"])?,
                data: field("Array<u2>", &["_data"])?,
                count: field("InstanceKlass", &["_java_fields_count"])?,
            }
        };
        Ok(Self {
            memory,
            name: field("Klass", &["_name"])?,
            ancestors: field("Klass", &["_primary_supers[0]"])?,
            name_len: field("Symbol", &["_length"])?,
            name_text: field("Symbol", &["_body[0]", "_body"])?,
            constants: field("InstanceKlass", &["_constants"])?,
            constants_len: field("ConstantPool", &["_length"])?,
            constants_first: structs
                .size("ConstantPool")
                .ok_or(Failure::Unfit("its classes are of another layout"))?,
            fields,
        })
    }

    fn word(&self, base: u64, offset: u32) -> u64 {
        self.memory.word(base.wrapping_add(u64::from(offset)))
    }

    /// As in `java/lang/Thread`.
    pub(super) fn name(&self, class: u64) -> Option<String> {
        self.symbol(self.word(class, self.name))
    }

    fn symbol(&self, symbol: u64) -> Option<String> {
        let len = self.memory.bytes(symbol.wrapping_add(u64::from(self.name_len)));
        let len = usize::from(len.map_or(0, u16::from_le_bytes));
        let mut text = vec![0; len];
        let at = symbol.wrapping_add(u64::from(self.name_text));
        let fits = symbol != 0 && (1..=MAX_NAME).contains(&len) && self.memory.fill(at, &mut text);
        fits.then(|| String::from_utf8(text).ok()).flatten()
    }

    /// Where objects of a class have this field of theirs, which this class declares.
    pub(super) fn field(&self, class: u64, name: &str, signature: &str) -> Option<u32> {
        let is = |index: u64, text: &str| self.constant(class, index).is_some_and(|found| found == text);
        let found = self
            .declared(class)
            .into_iter()
            .find(|field| is(field.name, name) && is(field.signature, signature))?;
        u32::try_from(found.offset).ok()
    }

    /// A name in a class's table of constants.
    fn constant(&self, class: u64, index: u64) -> Option<String> {
        let constants = self.word(class, self.constants);
        let len = self.memory.half(constants.wrapping_add(u64::from(self.constants_len)));
        if constants == 0 || index == 0 || index >= u64::from(len) {
            return None;
        }
        self.symbol(self.word(constants.wrapping_add(8 * index), self.constants_first))
    }

    /// The fields of objects of a class.
    fn declared(&self, class: u64) -> Vec<Declared> {
        match self.fields {
            Fields::Halves { array, data, count } => {
                let first = self.word(class, array).wrapping_add(u64::from(data));
                let count = self.memory.bytes(class.wrapping_add(u64::from(count)));
                let count = count.map_or(0, u16::from_le_bytes);
                let half = |index: u64| {
                    let half = self.memory.bytes(first.wrapping_add(2 * index));
                    u64::from(half.map_or(0, u16::from_le_bytes))
                };
                let fields = (0..u64::from(count).min(MAX_FIELDS)).map(|n| FIELD_HALVES * n);
                let of_objects = fields.filter(|at| half(*at) & (IS_STATIC | IS_INTERNAL) == 0);
                let declared = of_objects.filter_map(|at| {
                    let packed = half(at + 5) << 16 | half(at + 4);
                    let (name, signature) = (half(at + 1), half(at + 2));
                    let offset = packed >> PACKED_TAGS.count_ones();
                    (packed & PACKED_TAGS == PACKED_OFFSET).then_some(Declared { name, signature, offset })
                });
                declared.collect()
            }
            Fields::Stream { array, data, len } => {
                let array = self.word(class, array);
                let len = self.memory.half(array.wrapping_add(u64::from(len))).min(MAX_STREAM);
                let mut bytes = vec![0; len as usize];
                if !self.memory.fill(array.wrapping_add(u64::from(data)), &mut bytes) {
                    return Vec::new();
                }
                Numbers(&bytes).fields().unwrap_or_default()
            }
        }
    }
}

/// A field, by places in its class's table of constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Declared {
    name: u64,
    signature: u64,
    offset: u64,
}

/// Numbers in the encoding UNSIGNED5: bytes from 192 on say that more follow, and no byte is zero.
struct Numbers<'b>(&'b [u8]);

impl Numbers<'_> {
    const MAX_BYTES: u32 = 5;

    fn next(&mut self) -> Option<u64> {
        let mut number = 0;
        for place in 0..Self::MAX_BYTES {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number += u64::from(byte.checked_sub(1)?) << (6 * place);
            if byte < 192 {
                break;
            }
        }
        Some(number)
    }

    /// `None`: there is no stream of fields.
    fn fields(mut self) -> Option<Vec<Declared>> {
        let (count, _injected) = (self.next()?, self.next()?);
        let mut found = Vec::new();
        for _ in 0..count.min(MAX_FIELDS) {
            let [name, signature, offset, access, flags] =
                [self.next()?, self.next()?, self.next()?, self.next()?, self.next()?];
            for bit in [HAS_VALUE, HAS_SIGNATURE, IS_CONTENDED] {
                if flags & bit != 0 {
                    self.next()?;
                }
            }
            if access & IS_STATIC == 0 && flags & IS_INJECTED == 0 {
                found.push(Declared { name, signature, offset });
            }
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_of_one_to_five_bytes() {
        // As the source has them: the largest of one byte, the least of two, and 32 bits.
        for (bytes, number) in [
            (&[1_u8][..], 0),
            (&[191], 190),
            (&[192, 1], 191),
            (&[193, 1], 192),
            (&[192, 2], 255),
            (&[255, 191], 254 + (190 << 6)),
            (&[192, 192, 1], 191 + (191 << 6)),
        ] {
            assert_eq!(Numbers(bytes).next(), Some(number), "{bytes:?}");
        }
        assert_eq!(Numbers(&[]).next(), None);
        assert_eq!(Numbers(&[0]).next(), None);
        assert_eq!(Numbers(&[200]).next(), None);
    }

    #[test]
    fn fields_of_objects_are_told_from_others() {
        // Two fields and one of the class; the first with a value, the second with a signature and contended.
        let bytes = [4, 1, 2, 3, 77, 1, 2, 9, 4, 5, 100, 1, 21, 9, 9, 6, 7, 13, 9, 1];
        let want =
            [Declared { name: 1, signature: 2, offset: 76 }, Declared { name: 3, signature: 4, offset: 99 }];
        assert_eq!(Numbers(&bytes).fields().unwrap(), want);
        assert_eq!(Numbers(&bytes[..bytes.len() - 1]).fields(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Numbers(&bytes).fields();
        }
    }
}
