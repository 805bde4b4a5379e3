//! Primary keys as values, and the notation in which plan, ledger and messages write them.

use std::fmt::{self, Write as _};

use rotation::KeyBound;

use crate::table::{KeyKind, Table};

/// One column's value in a primary key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum KeyValue {
    /// A whole number.
    Integer(i64),
    /// Text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A value of another type, as the text that the database itself writes and reads back exactly: UUIDs,
    /// timestamps, dates, numerics.
    Other(String),
}

/// A primary key: the values of its columns, in its order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key(pub(crate) Vec<KeyValue>);

/// A text that is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a JSON array of key values such as [\"i:42\"]")]
pub(crate) struct NotAKey;

impl KeyValue {
    const fn is_of(&self, kind: KeyKind) -> bool {
        match self {
            Self::Integer(_) => matches!(kind, KeyKind::Integer | KeyKind::Any),
            Self::Text(_) => matches!(kind, KeyKind::Text | KeyKind::Any),
            Self::Bytes(_) => matches!(kind, KeyKind::Bytes | KeyKind::Any),
            Self::Other(_) => matches!(kind, KeyKind::Other),
        }
    }

    /// The notation as a JSON string.
    fn write_json(&self, out: &mut String) {
        // Writing to a string does not fail.
        let _ = match self {
            Self::Integer(number) => write!(out, "\"i:{number}\""),
            Self::Bytes(bytes) => write!(out, "\"b:{}\"", hex::encode(bytes)),
            Self::Text(text) => write_tagged(out, 't', text),
            Self::Other(text) => write_tagged(out, 'o', text),
        };
    }

    fn parse(notation: &str) -> Result<Self, NotAKey> {
        let (tag, text) = notation.split_once(':').ok_or(NotAKey)?;
        Ok(match tag {
            "i" => {
                let number: i64 = text.parse().map_err(|_| NotAKey)?;
                // Only the canonical form: `i:+1` and `i:1` must not be two names of one key.
                if number.to_string() != text {
                    return Err(NotAKey);
                }
                Self::Integer(number)
            }
            "t" => Self::Text(text.to_owned()),
            "b" => {
                let bytes = hex::decode(text).map_err(|_| NotAKey)?;
                if hex::encode(&bytes) != text {
                    return Err(NotAKey);
                }
                Self::Bytes(bytes)
            }
            "o" => Self::Other(text.to_owned()),
            _ => return Err(NotAKey),
        })
    }
}

fn write_tagged(out: &mut String, tag: char, text: &str) -> fmt::Result {
    let is_plain = !text.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\');
    if is_plain {
        return write!(out, "\"{tag}:{text}\"");
    }
    let quoted = serde_json::to_string(text).expect("a string always has a JSON form");
    write!(out, "\"{tag}:{}", &quoted[1..])
}

impl Key {
    /// Reads what [`Key`] displays.
    pub(crate) fn parse(text: &str) -> Result<Self, NotAKey> {
        let parts: Vec<String> = serde_json::from_str(text).map_err(|_| NotAKey)?;
        if parts.is_empty() {
            return Err(NotAKey);
        }
        Ok(Self(parts.iter().map(|part| KeyValue::parse(part)).collect::<Result<_, _>>()?))
    }

    /// Whether it has the columns of this table's key, each of the right kind.
    pub(crate) fn fits(&self, table: &Table) -> bool {
        self.0.len() == table.key.len() && self.0.iter().zip(&table.key).all(|(value, column)| value.is_of(column.kind))
    }

    /// Appends the notation. For who needs very many, one after the other.
    pub(crate) fn write_to(&self, text: &mut String) {
        text.push('[');
        for (at, value) in self.0.iter().enumerate() {
            if at > 0 {
                text.push(',');
            }
            value.write_json(text);
        }
        text.push(']');
    }

    pub(crate) fn bound(&self) -> KeyBound {
        KeyBound(self.to_string())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.write_to(&mut text);
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_notation_is_a_json_array_of_tagged_values() {
        let key = Key(vec![
            KeyValue::Integer(-42),
            KeyValue::Text("a:\"b\"".to_owned()),
            KeyValue::Bytes(vec![0, 255]),
            KeyValue::Other("2024-02-29 12:00:00.5".to_owned()),
        ]);
        assert_eq!(key.to_string(), r#"["i:-42","t:a:\"b\"","b:00ff","o:2024-02-29 12:00:00.5"]"#);
        assert_eq!(Key::parse(&key.to_string()), Ok(key));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in [
            "",
            "[]",
            "42",
            "[42]",
            r#"["42"]"#,
            r#"["x:1"]"#,
            r#"["i:+1"]"#,
            r#"["i:01"]"#,
            r#"["b:0"]"#,
            r#"["b:AB"]"#,
        ] {
            assert_eq!(Key::parse(text), Err(NotAKey), "{text}");
        }
    }

    fn any_value() -> impl Strategy<Value = KeyValue> {
        prop_oneof![
            any::<i64>().prop_map(KeyValue::Integer),
            any::<String>().prop_map(KeyValue::Text),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(KeyValue::Bytes),
            any::<String>().prop_map(KeyValue::Other),
        ]
    }

    proptest! {
        #[test]
        fn every_key_survives_its_notation(values in proptest::collection::vec(any_value(), 1..5)) {
            let key = Key(values);
            prop_assert_eq!(Key::parse(&key.to_string()), Ok(key));
        }

        #[test]
        fn the_notation_is_what_a_json_library_writes(text in any::<String>(), bytes in any::<Vec<u8>>()) {
            let key = Key(vec![KeyValue::Text(text.clone()), KeyValue::Bytes(bytes.clone()), KeyValue::Other(text.clone())]);
            let parts = [format!("t:{text}"), format!("b:{}", hex::encode(bytes)), format!("o:{text}")];
            prop_assert_eq!(key.to_string(), serde_json::to_string(&parts).unwrap());
        }

        #[test]
        fn two_keys_never_share_a_notation(a in any_value(), b in any_value()) {
            prop_assert_eq!(a == b, Key(vec![a]).to_string() == Key(vec![b]).to_string());
        }
    }
}
