//! Records: eight bytes of header, then content, then padding (FastCGI specification 1.0, section 3.3).

/// Length of a header, and of the content of a begin or end.
pub(super) const HEADER: usize = 8;
/// A begin, or an end, with its header.
pub const WHOLE: usize = 16;

const VERSION: u8 = 1;

/// Section 8, in order of their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Begin,
    Abort,
    End,
    Params,
    Stdin,
    Stdout,
    Stderr,
    Data,
    GetValues,
    GetValuesResult,
    UnknownType,
}

impl Kind {
    const ALL: [Self; 11] = [
        Self::Begin,
        Self::Abort,
        Self::End,
        Self::Params,
        Self::Stdin,
        Self::Stdout,
        Self::Stderr,
        Self::Data,
        Self::GetValues,
        Self::GetValuesResult,
        Self::UnknownType,
    ];

    const fn comes_from_server(self) -> bool {
        match self {
            Self::Begin | Self::Abort | Self::Params | Self::Stdin | Self::Data | Self::GetValues => true,
            Self::End | Self::Stdout | Self::Stderr | Self::GetValuesResult | Self::UnknownType => false,
        }
    }

    const fn is_management(self) -> bool {
        matches!(self, Self::GetValues | Self::GetValuesResult | Self::UnknownType)
    }
}

/// Which direction a record goes in: what the specification calls the Web server asks, the application answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Asks,
    Answers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) kind: Kind,
    pub(super) stream: u16,
    pub(super) content: u16,
    pub(super) padding: u8,
}

impl Record {
    /// `None`: not a header of a record that goes in this direction.
    pub(super) fn parse(header: [u8; HEADER], side: Side) -> Option<Self> {
        let [version, kind, id_high, id_low, len_high, len_low, padding, _reserved] = header;
        let kind = *Kind::ALL.get(usize::from(kind).checked_sub(1)?)?;
        let record = Self {
            kind,
            stream: u16::from_be_bytes([id_high, id_low]),
            content: u16::from_be_bytes([len_high, len_low]),
            padding,
        };
        let fixed = match kind {
            Kind::Begin | Kind::End | Kind::UnknownType => record.content == HEADER as u16,
            Kind::Abort => record.content == 0,
            Kind::Params
            | Kind::Stdin
            | Kind::Stdout
            | Kind::Stderr
            | Kind::Data
            | Kind::GetValues
            | Kind::GetValuesResult => true,
        };
        // Section 3.3: null request ids are those of management records.
        let valid = version == VERSION
            && fixed
            && kind.comes_from_server() == (side == Side::Asks)
            && kind.is_management() == (record.stream == 0);
        valid.then_some(record)
    }

    /// The header that `bytes` begin with.
    pub(super) fn first(bytes: &[u8], side: Side) -> Option<Self> {
        Self::parse(*bytes.first_chunk()?, side)
    }
}

/// How an application says that a request ended (section 5.5).
pub(super) fn end_of(content: [u8; HEADER]) -> (u32, u8) {
    let [a, b, c, d, protocol_status, ..] = content;
    (u32::from_be_bytes([a, b, c, d]), protocol_status)
}

/// Whether `bytes` begin with a whole begin record, as no other bytes look: its role is one of three, and what is
/// reserved is zero.
pub fn is_begin(bytes: &[u8]) -> bool {
    let Some([_, _, _, _, _, _, _, reserved, 0, 1..=3, flags, 0, 0, 0, 0, 0]) = bytes.first_chunk::<WHOLE>()
    else {
        return false;
    };
    *reserved == 0
        && *flags <= 1
        && Record::first(bytes, Side::Asks).is_some_and(|record| record.kind == Kind::Begin)
}

/// The stream that `bytes` say has ended, if they end with an end record without padding.
pub fn ends_with_end(bytes: &[u8]) -> Option<u16> {
    let whole = bytes.last_chunk::<WHOLE>()?;
    let record = Record::first(whole, Side::Answers)?;
    // PHP leaves what is reserved at the very end as it was.
    let clean = whole[7] == 0 && whole[12] <= 3;
    (record.kind == Kind::End && record.padding == 0 && clean).then_some(record.stream)
}

/// The stream whose body `bytes` say is over, if they end with its empty record.
pub(super) fn ends_with_stdin(bytes: &[u8]) -> Option<u16> {
    let header = *bytes.last_chunk::<HEADER>()?;
    let record = Record::parse(header, Side::Asks)?;
    let empty = (record.kind, record.content, record.padding, header[7]) == (Kind::Stdin, 0, 0, 0);
    empty.then_some(record.stream)
}
