//! What both sides of the kernel boundary agree on: records, limits, configuration, reasons.
//!
//! It holds no logic beyond conversions and what both sides run: the byte classifier, and the walks through a program's
//! memory. The rules of this ABI:
//!
//! 1. A record starts with [`event::Header`]; every multi-byte field is in host byte order unless its name or type
//!    says otherwise; every record is 8-byte aligned and has no implicit padding ([`layout`] proves it).
//! 2. Codes are integers on the wire and are append-only: a retired code is never given a new meaning. User
//!    space converts them with `TryFrom`, so that an unexpected byte is an error and not undefined behaviour.
//! 3. Nothing but the types of this crate crosses the boundary.
//! 4. A change of any layout or meaning increments [`ABI_VERSION`].
#![no_std]
#![forbid(unsafe_code)]

pub mod config;
pub mod conn;
pub mod error;
pub mod event;
pub mod frame;
pub mod golang;
pub mod golang_grpc;
pub mod golang_streams;
pub mod greenlet;
pub mod java;
pub mod java_waits;
pub mod java_work;
mod layout;
pub mod limits;
pub mod nginx;
pub mod openssl;
pub mod python;
pub mod python_chain;
pub mod python_frame;
pub mod python_streams;
pub mod python_suspended;
pub mod python_thread;
pub mod python_waits;
pub mod python_work;
pub mod sniff;
pub mod task;
pub mod time;
pub mod tokio;

/// Version of every layout and code in this crate. Written into recordings.
pub const ABI_VERSION: u32 = 6;

/// The oldest version all of whose records mean the same in this one: it has none of TLS.
pub const OLDEST_ABI_VERSION: u32 = 2;

/// A code that this version of the ABI does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownCode {
    /// Which code space the value was looked up in.
    pub space: &'static str,
    pub code: u32,
}

impl core::fmt::Display for UnknownCode {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "unknown {} code {}", self.space, self.code)
    }
}

impl core::error::Error for UnknownCode {}

/// Declares a code space: an enum for user space, its integer on the wire, and the total conversion.
macro_rules! codes {
    ($(#[$meta:meta])* $space:literal $name:ident: $repr:ty { $($(#[$vmeta:meta])* $variant:ident = $code:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr($repr)]
        pub enum $name { $($(#[$vmeta])* $variant = $code,)+ }

        impl $name {
            /// Every value, in code order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The integer on the wire.
            pub const fn code(self) -> $repr {
                self as $repr
            }
        }

        impl TryFrom<$repr> for $name {
            type Error = $crate::UnknownCode;

            fn try_from(code: $repr) -> Result<Self, $crate::UnknownCode> {
                match code {
                    $($code => Ok(Self::$variant),)+
                    _ => Err($crate::UnknownCode { space: $space, code: code as u32 }),
                }
            }
        }
    };
}
pub(crate) use codes;
