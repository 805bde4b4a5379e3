//! The first bytes of a bundle, read by hand and wholly before anything is derived: the file says how much memory and
//! time its key derivation takes, and the library would believe it.

/// Above 1 GiB an opener's machine is being attacked, not its attacker slowed.
pub const MEMORY_KIB_MAX: u32 = 1024 * 1024;
/// At the largest memory sixteen passes take about half a minute, which nobody should wait for more than once.
pub const ITERATIONS_MAX: u32 = 16;
/// The library computes lanes one after the other, so more of them only slow the honest opener.
pub const LANES_MAX: u32 = 16;

/// `0D 0C`, little-endian as all its numbers: every structure of devolutions-crypto begins so.
const SIGNATURE: u16 = 0x0C0D;
const TYPE_CIPHERTEXT: u16 = 2;
const TYPE_KEY_DERIVATION: u16 = 8;
const TYPE_KDF_ENCRYPTED_DATA: u16 = 9;
/// Version of the structure that joins parameters and ciphertext.
const KDF_ENCRYPTED_DATA_V1: u16 = 1;
/// Key derivation by Argon2; 1 would be PBKDF2.
const KEY_DERIVATION_V2: u16 = 2;
const CIPHERTEXT_V2: u16 = 2;
const SUBTYPE_SYMMETRIC: u16 = 1;
/// Version of the Argon2 parameters' own layout.
const ARGON2_LAYOUT: u32 = 1;
const ARGON2ID: u8 = 2;
const ARGON2_VERSION_13: u8 = 0x13;
/// XChaCha20-Poly1305 takes a key of this length and no other.
const DERIVED_BYTES: u32 = 32;
/// Argon2 takes no shorter salt.
const SALT_BYTES_MIN: usize = 8;
/// Every writer uses 16.
const SALT_BYTES_MAX: usize = 64;
/// The nonce and the tag around an empty plaintext.
const CIPHERTEXT_BYTES_MIN: usize = 24 + 16;

/// What opening a bundle costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Argon2Cost {
    /// Memory, KiB.
    pub memory_kib: u32,
    /// Passes over that memory.
    pub iterations: u32,
    /// Lanes.
    pub lanes: u32,
}

/// What a bundle says of itself without its password. None of it is authenticated yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BundleHeader {
    /// What opening it costs.
    pub argon2: Argon2Cost,
    /// Length of the encrypted payload with nonce and tag, bytes.
    pub ciphertext_bytes: usize,
}

/// Why the first bytes are not those of a bundle that this release opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Another file.
    #[error("it does not begin as a bundle does; it is another kind of file")]
    Foreign,
    /// It begins as a bundle and ends too early.
    #[error("it is cut short: it begins as a bundle, and its end is missing")]
    Truncated,
    /// Lengths that contradict each other, or values that no writer uses.
    #[error("it begins as a bundle, but its lengths or parameters contradict each other")]
    Malformed,
    /// Another version of one of the structures.
    #[error("its {what} has version {version}, which this release does not read")]
    Version {
        /// Which structure.
        what: &'static str,
        /// The version found.
        version: u32,
    },
    /// Opening it would take more than is sane.
    #[error("opening it would take Argon2 with {what} of {value}, and at most {max} is accepted; nothing was derived")]
    CostTooHigh {
        /// Which parameter, with its unit.
        what: &'static str,
        /// Its value.
        value: u32,
        /// The limit.
        max: u32,
    },
}

impl HeaderError {
    /// What to do now.
    pub const fn next_step(&self) -> &'static str {
        match self {
            Self::Foreign => "check the path: a bundle is what `keyturn key generate` or `keyturn key export` wrote",
            Self::Truncated | Self::Malformed => "copy the bundle again from where it is kept, and compare the sizes",
            Self::Version { .. } => "open it with the release of keyturn that wrote it",
            Self::CostTooHigh { .. } => {
                "do not trust this file: no release of keyturn writes such parameters; take another copy"
            }
        }
    }
}

/// Reads and checks a bundle's first bytes. Needs no password and derives nothing.
pub fn inspect_header(bundle: &[u8]) -> Result<BundleHeader, HeaderError> {
    let mut reader = Reader(bundle);
    let outer = reader.header().map_err(|_| HeaderError::Foreign)?;
    if (outer.signature, outer.data_type) != (SIGNATURE, TYPE_KDF_ENCRYPTED_DATA) {
        return Err(HeaderError::Foreign);
    }
    outer.expect("file", 0, KDF_ENCRYPTED_DATA_V1)?;
    let parameters_bytes = reader.length()?;
    let ciphertext_bytes = reader.length()?;
    let mut parameters = Reader(reader.take(parameters_bytes)?);
    let mut ciphertext = Reader(reader.take(ciphertext_bytes)?);
    reader.end()?;

    let argon2 = read_parameters(&mut parameters).map_err(within)?;
    let header = ciphertext.header().map_err(within)?;
    if (header.signature, header.data_type) != (SIGNATURE, TYPE_CIPHERTEXT) {
        return Err(HeaderError::Malformed);
    }
    header.expect("ciphertext", SUBTYPE_SYMMETRIC, CIPHERTEXT_V2)?;
    if ciphertext.0.len() < CIPHERTEXT_BYTES_MIN {
        return Err(HeaderError::Malformed);
    }
    Ok(BundleHeader { argon2, ciphertext_bytes })
}

fn read_parameters(reader: &mut Reader<'_>) -> Result<Argon2Cost, HeaderError> {
    let header = reader.header()?;
    if (header.signature, header.data_type) != (SIGNATURE, TYPE_KEY_DERIVATION) {
        return Err(HeaderError::Malformed);
    }
    header.expect("key derivation", 0, KEY_DERIVATION_V2)?;
    let layout = reader.u32()?;
    if layout != ARGON2_LAYOUT {
        return Err(HeaderError::Version { what: "Argon2 layout", version: layout });
    }
    let derived_bytes = reader.u32()?;
    let cost = Argon2Cost { lanes: reader.u32()?, memory_kib: reader.u32()?, iterations: reader.u32()? };
    let (variant, version) = (reader.u8()?, reader.u8()?);
    let associated_bytes = reader.length()?;
    reader.take(associated_bytes)?;
    let salt_bytes = reader.length()?;
    reader.take(salt_bytes)?;
    reader.end()?;

    for (what, value, max) in [
        ("memory (KiB)", cost.memory_kib, MEMORY_KIB_MAX),
        ("passes", cost.iterations, ITERATIONS_MAX),
        ("lanes", cost.lanes, LANES_MAX),
    ] {
        if value > max {
            return Err(HeaderError::CostTooHigh { what, value, max });
        }
    }
    // Argon2 takes at least one lane, one pass, and eight blocks of a KiB in each lane.
    let possible = cost.lanes >= 1 && cost.iterations >= 1 && cost.memory_kib >= 8 * cost.lanes;
    let usual = derived_bytes == DERIVED_BYTES
        && (variant, version) == (ARGON2ID, ARGON2_VERSION_13)
        && associated_bytes == 0
        && (SALT_BYTES_MIN..=SALT_BYTES_MAX).contains(&salt_bytes);
    if possible && usual { Ok(cost) } else { Err(HeaderError::Malformed) }
}

/// Inside a part whose length was already found to be there, an end that comes early is a contradiction.
fn within(error: HeaderError) -> HeaderError {
    match error {
        HeaderError::Truncated => HeaderError::Malformed,
        other => other,
    }
}

/// The eight bytes that every structure begins with.
struct StructureHeader {
    signature: u16,
    data_type: u16,
    subtype: u16,
    version: u16,
}

impl StructureHeader {
    fn expect(&self, what: &'static str, subtype: u16, version: u16) -> Result<(), HeaderError> {
        if self.version != version {
            return Err(HeaderError::Version { what, version: self.version.into() });
        }
        if self.subtype == subtype { Ok(()) } else { Err(HeaderError::Malformed) }
    }
}

/// Takes little-endian numbers from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], HeaderError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(HeaderError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], HeaderError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(HeaderError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, HeaderError> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, HeaderError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, HeaderError> {
        self.array().map(u32::from_le_bytes)
    }

    fn length(&mut self) -> Result<usize, HeaderError> {
        self.u32().and_then(|length| usize::try_from(length).map_err(|_| HeaderError::Malformed))
    }

    fn header(&mut self) -> Result<StructureHeader, HeaderError> {
        Ok(StructureHeader {
            signature: self.u16()?,
            data_type: self.u16()?,
            subtype: self.u16()?,
            version: self.u16()?,
        })
    }

    fn end(&self) -> Result<(), HeaderError> {
        if self.0.is_empty() { Ok(()) } else { Err(HeaderError::Malformed) }
    }
}
