//! Reads the kernel's type information (BTF) as far as the kernel half needs it: where a field lies, and whether a
//! function or a trace point exists.
//!
//! It does not build a type graph. The format is that of `Documentation/bpf/btf.rst`; input is not trusted.

use std::path::Path;

use thiserror::Error;

/// The running kernel's type information.
pub(crate) const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const HEADER_BYTES: usize = 24;
const TYPE_BYTES: usize = 12;
const MEMBER_BYTES: usize = 12;

/// How deep anonymous members may nest, and type modifiers follow one another: real kernels need three. It bounds
/// what a malformed input can cost.
const MAX_DEPTH: usize = 16;

// `BTF_KIND_*`
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC: u32 = 12;
const TYPE_TAG: u32 = 18;

/// Why type information could not be read, or does not have what was asked for.
#[derive(Debug, Error)]
pub(crate) enum BtfError {
    #[error("read {KERNEL_BTF}")]
    Unreadable(#[source] std::io::Error),
    #[error("the kernel's type information is malformed: {0}")]
    Malformed(&'static str),
    #[error("the kernel has no struct {0}")]
    NoStruct(String),
    #[error("the kernel's struct {0} has no field {1}")]
    NoField(String, String),
    #[error("field {1} of struct {0} is not at a byte boundary")]
    BitField(String, String),
}

/// Parsed type information.
pub(crate) struct TypeInfo {
    data: Vec<u8>,
    strings: std::ops::Range<usize>,
    /// Where each type begins in `data`; type ids count from 1.
    types: Vec<u32>,
}

/// One type, as its fixed part gives it.
#[derive(Clone, Copy)]
struct Type {
    name_at: u32,
    kind: u32,
    members: usize,
    has_bit_sizes: bool,
    target: u32,
    /// Where its variable part begins.
    at: usize,
}

impl TypeInfo {
    /// That of the running kernel.
    pub(crate) fn of_running_kernel() -> Result<Self, BtfError> {
        Self::parse(std::fs::read(Path::new(KERNEL_BTF)).map_err(BtfError::Unreadable)?)
    }

    pub(crate) fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        if data.len() < HEADER_BYTES || data.get(..2) != Some(&MAGIC.to_ne_bytes()) {
            return Err(BtfError::Malformed("not in this machine's BTF format"));
        }
        let word = |at| word(&data, at).ok_or(BtfError::Malformed("short header"));
        let header_len = word(4)? as usize;
        let section = |offset: u32, len: u32| {
            let start = header_len.checked_add(offset as usize)?;
            let end = start.checked_add(len as usize)?;
            (end <= data.len()).then_some(start..end)
        };
        let out_of_range = BtfError::Malformed("section out of range");
        let Some((types_range, strings)) = section(word(8)?, word(12)?).zip(section(word(16)?, word(20)?))
        else {
            return Err(out_of_range);
        };
        let mut types = Vec::new();
        let mut at = types_range.start;
        while at < types_range.end {
            let kind = type_at(&data, at).ok_or(BtfError::Malformed("short type"))?;
            types.push(at as u32);
            let len = variable_bytes(kind).ok_or(BtfError::Malformed("unknown kind of type"))?;
            at = kind.at + len;
        }
        if at != types_range.end {
            return Err(BtfError::Malformed("types run over their section"));
        }
        Ok(Self { data, strings, types })
    }

    /// Byte offset of a field. `path` may descend into members by `.`; anonymous members are seen through.
    pub(crate) fn field_offset(&self, structure: &str, path: &str) -> Result<u32, BtfError> {
        let missing = || BtfError::NoField(structure.to_owned(), path.to_owned());
        let mut current = self
            .find(structure, |kind| kind == STRUCT || kind == UNION)
            .ok_or_else(|| BtfError::NoStruct(structure.to_owned()))?;
        let mut bits = 0_u32;
        for (depth, name) in path.split('.').enumerate() {
            if depth > 0 {
                current = self.resolve(current.target).ok_or_else(missing)?;
            }
            let (member_type, offset) = self.member(current, name, 0).ok_or_else(missing)?;
            bits = bits.checked_add(offset).ok_or(BtfError::Malformed("field offset overflows"))?;
            // Keep the member's type where the next step looks for it.
            current = Type { target: member_type, ..current };
        }
        if bits.is_multiple_of(8) {
            Ok(bits / 8)
        } else {
            Err(BtfError::BitField(structure.to_owned(), path.to_owned()))
        }
    }

    /// Whether a trace point with this name takes programs that know its argument types.
    pub(crate) fn has_trace_point(&self, name: &str) -> bool {
        self.find(&format!("btf_trace_{name}"), |kind| kind == TYPEDEF).is_some()
    }

    pub(crate) fn has_function(&self, name: &str) -> bool {
        self.find(name, |kind| kind == FUNC).is_some()
    }

    fn find(&self, name: &str, wanted: impl Fn(u32) -> bool) -> Option<Type> {
        self.types
            .iter()
            .filter_map(|&at| type_at(&self.data, at as usize))
            .find(|kind| wanted(kind.kind) && self.string(kind.name_at) == Some(name.as_bytes()))
    }

    /// The struct or union behind names and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<Type> {
        for _ in 0..MAX_DEPTH {
            let kind = self.by_id(id)?;
            match kind.kind {
                STRUCT | UNION => return Some(kind),
                TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG => id = kind.target,
                _ => return None,
            }
        }
        None
    }

    /// Type and bit offset of a member, looked for in anonymous members too.
    fn member(&self, kind: Type, name: &str, depth: usize) -> Option<(u32, u32)> {
        if depth > MAX_DEPTH {
            return None;
        }
        (0..kind.members).find_map(|i| {
            let at = kind.at + i * MEMBER_BYTES;
            let member_name = self.string(word(&self.data, at)?)?;
            let member_type = word(&self.data, at + 4)?;
            let offset = word(&self.data, at + 8)?;
            // With bit sizes, the upper byte is the size of a bit field.
            let offset = if kind.has_bit_sizes { offset & 0x00ff_ffff } else { offset };
            if member_name == name.as_bytes() {
                return Some((member_type, offset));
            }
            if !member_name.is_empty() {
                return None;
            }
            let (found, inner) = self.member(self.resolve(member_type)?, name, depth + 1)?;
            Some((found, offset.checked_add(inner)?))
        })
    }

    fn by_id(&self, id: u32) -> Option<Type> {
        let index = (id as usize).checked_sub(1)?;
        type_at(&self.data, *self.types.get(index)? as usize)
    }

    fn string(&self, at: u32) -> Option<&[u8]> {
        let tail = self.data.get(self.strings.clone())?.get(at as usize..)?;
        tail.split(|&byte| byte == 0).next()
    }
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn type_at(data: &[u8], at: usize) -> Option<Type> {
    let info = word(data, at + 4)?;
    Some(Type {
        name_at: word(data, at)?,
        kind: info >> 24 & 0x1f,
        members: (info & 0xffff) as usize,
        has_bit_sizes: info >> 31 != 0,
        target: word(data, at + 8)?,
        at: at + TYPE_BYTES,
    })
}

/// Bytes behind a type's fixed part.
fn variable_bytes(kind: Type) -> Option<usize> {
    Some(match kind.kind {
        // Pointers, forward declarations, names, qualifiers, functions, floats, tags of types.
        2 | 7..=12 | 16 | 18 => 0,
        // Integers, variables, tags of declarations.
        1 | 14 | 17 => 4,
        // Arrays.
        3 => 12,
        // Structs, unions, sections, 64-bit enums.
        STRUCT | UNION | 15 | 19 => kind.members * MEMBER_BYTES,
        // Enums, function prototypes.
        6 | 13 => kind.members * 8,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds type information: types are appended in id order, names are interned.
    #[derive(Default)]
    struct Builder {
        types: Vec<u8>,
        strings: Vec<u8>,
    }

    impl Builder {
        fn name(&mut self, name: &str) -> u32 {
            if self.strings.is_empty() {
                self.strings.push(0);
            }
            if name.is_empty() {
                return 0;
            }
            let at = self.strings.len() as u32;
            self.strings.extend(name.bytes().chain([0]));
            at
        }

        fn add(
            &mut self,
            name: &str,
            kind: u32,
            flag: bool,
            count: u32,
            target: u32,
            rest: &[u32],
        ) -> &mut Self {
            let name = self.name(name);
            let info = kind << 24 | u32::from(flag) << 31 | count;
            for word in [name, info, target].iter().chain(rest) {
                self.types.extend(word.to_ne_bytes());
            }
            self
        }

        fn members(&mut self, list: &[(&str, u32, u32)]) -> Vec<u32> {
            list.iter().flat_map(|&(name, kind, bits)| [self.name(name), kind, bits]).collect()
        }

        fn build(&self) -> Vec<u8> {
            let mut data = MAGIC.to_ne_bytes().to_vec();
            data.extend([1, 0]);
            let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
            for word in [HEADER_BYTES as u32, 0, types, types, strings] {
                data.extend(word.to_ne_bytes());
            }
            data.extend(&self.types);
            data.extend(&self.strings);
            data
        }
    }

    /// int; struct inner { int x; int y }; typedef inner; union { int a; inner_t b }; and a struct of all.
    fn sample() -> Vec<u8> {
        let mut btf = Builder::default();
        btf.add("int", 1, false, 0, 4, &[32]);
        let inner = btf.members(&[("x", 1, 0), ("y", 1, 32)]);
        btf.add("inner", STRUCT, false, 2, 8, &inner);
        btf.add("inner_t", TYPEDEF, false, 0, 2, &[]);
        let choice = btf.members(&[("a", 1, 0), ("b", 3, 0)]);
        btf.add("", UNION, false, 2, 8, &choice);
        let outer =
            btf.members(&[("first", 1, 0), ("", 4, 64), ("named", 3, 128), ("bits", 1, 3 << 24 | 193)]);
        btf.add("outer", STRUCT, true, 4, 32, &outer);
        btf.add("btf_trace_thing", TYPEDEF, false, 0, 1, &[]);
        btf.add("a_function", FUNC, false, 0, 1, &[]);
        btf.build()
    }

    #[test]
    fn fields_are_found_through_anonymous_members_and_names() {
        let info = TypeInfo::parse(sample()).unwrap();
        let check =
            |path: &str, want: u32| assert_eq!(info.field_offset("outer", path).unwrap(), want, "{path}");
        check("first", 0);
        check("a", 8);
        check("b.y", 12);
        check("named.x", 16);
        check("named.y", 20);
        assert!(matches!(info.field_offset("outer", "absent"), Err(BtfError::NoField(..))));
        assert!(matches!(info.field_offset("outer", "first.x"), Err(BtfError::NoField(..))));
        assert!(matches!(info.field_offset("outer", "bits"), Err(BtfError::BitField(..))));
        assert!(matches!(info.field_offset("absent", "x"), Err(BtfError::NoStruct(_))));
    }

    #[test]
    fn trace_points_and_functions_are_told_from_other_names() {
        let info = TypeInfo::parse(sample()).unwrap();
        assert!(info.has_trace_point("thing") && !info.has_trace_point("other"));
        assert!(info.has_function("a_function") && !info.has_function("outer"));
    }

    #[test]
    fn cut_or_damaged_input_never_panics() {
        let whole = sample();
        for len in 0..whole.len() {
            if let Ok(info) = TypeInfo::parse(whole[..len].to_vec()) {
                let _ = info.field_offset("outer", "b.y");
            }
        }
        for at in 0..whole.len() {
            for value in [0, 0x7f, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] = value;
                if let Ok(info) = TypeInfo::parse(damaged) {
                    let _ = info.field_offset("outer", "b.y");
                    let _ = info.has_function("a_function");
                }
            }
        }
    }

    #[test]
    fn a_type_that_names_itself_ends_the_search() {
        let mut btf = Builder::default();
        btf.add("loop", TYPEDEF, false, 0, 1, &[]);
        let members = btf.members(&[("", 3, 0), ("named", 1, 0)]);
        btf.add("outer", STRUCT, false, 2, 8, &members);
        let nested = btf.members(&[("", 3, 0)]);
        btf.add("", STRUCT, false, 1, 8, &nested);
        let info = TypeInfo::parse(btf.build()).unwrap();
        assert!(info.field_offset("outer", "absent").is_err());
        assert!(info.field_offset("outer", "named.x").is_err());
    }
}
