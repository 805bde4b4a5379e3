//! What a look through a whole database answers: for every column that holds values of devolutions-crypto, how their
//! headers read, counted by the database itself.

/// How much of a text is looked through for a header, from the first place on that begins like one.
pub(crate) const WITHIN_CHARS_MAX: u32 = 16 << 20;

/// How a value stands in its column, as the database's own expression tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Form {
    Raw,
    /// Standard alphabet or neither; padded, or of whole groups.
    Base64,
    Base64Unpadded,
    UrlSafe,
    UrlSafeUnpadded,
    Hex,
    /// Base64 within a longer text.
    Embedded,
    /// An element of an array, in any of these forms.
    Element,
    /// Within a composite value, as text or as bytes.
    Composite,
    /// A bound of a range, as text or as bytes.
    Range,
}

impl Form {
    /// Forms begin a tag by one letter; the header follows it. That of what holds values of another form is followed by that
    /// one's letter.
    pub(crate) const fn of_letter(letter: char) -> Option<Self> {
        Some(match letter {
            'r' => Self::Raw,
            'b' => Self::Base64,
            'u' => Self::Base64Unpadded,
            's' => Self::UrlSafe,
            'v' => Self::UrlSafeUnpadded,
            'h' => Self::Hex,
            'e' => Self::Embedded,
            'a' => Self::Element,
            'c' => Self::Composite,
            'g' => Self::Range,
            _ => return None,
        })
    }
}

/// Values of one column whose headers read alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tagged {
    /// A form's letter and the header: hexadecimal digits where it is `r` or `h`, else symbols of base64.
    pub(crate) tag: String,
    pub(crate) values: u64,
}

/// A column that was looked into.
#[derive(Debug, Clone)]
pub(crate) struct SeenColumn {
    pub(crate) name: String,
    /// As the database calls it.
    pub(crate) data_type: String,
    pub(crate) tagged: Vec<Tagged>,
}

/// A table, or something else that holds rows, that was looked into.
#[derive(Debug, Clone)]
pub(crate) struct SeenTable {
    /// `None` for the schema that targets.toml leaves out.
    pub(crate) schema: Option<String>,
    pub(crate) name: String,
    /// The columns of its primary key, in order; empty without one.
    pub(crate) key: Vec<String>,
    pub(crate) columns: Vec<SeenColumn>,
}

/// Something that was not looked into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnseenPlace {
    pub(crate) schema: Option<String>,
    pub(crate) table: String,
    /// `None` for the whole table.
    pub(crate) column: Option<String>,
    pub(crate) reason: String,
}

/// Everything.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// The schema that targets.toml may leave out.
    pub(crate) default_schema: Option<String>,
    pub(crate) tables: Vec<SeenTable>,
    pub(crate) unseen: Vec<UnseenPlace>,
    /// Keyturn's own tables, which were passed over.
    pub(crate) own: Vec<String>,
}
