//! Reads what an earlier release stored. postcard writes the fields of a struct one after the other, without names or
//! number, so a field that a type has gained since must not be looked for. It stands last in its type, with a default; here
//! is how many fields each such type had, and a deserializer that reads that many and no more.

use std::fmt;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor,
};

/// How many fields structs had in a version, where it was another number than now.
type Fields = &'static [(&'static str, usize)];

/// Version 2: before downtime budgets and backups, before the numbers of removed coordinators were kept, and before it was told
/// what nobody looked into.
const VERSION_2: Fields = &[
    ("RotationOptions", 3),
    ("Inspection", 9),
    ("Survey", 7),
    ("Plan", 9),
    ("NodeProgress", 11),
    ("Rotation", 26),
    ("State", 8),
];

/// Reads a value as version 2 wrote it.
pub(super) fn read_version_2<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, postcard::Error> {
    let mut inner = postcard::Deserializer::from_bytes(bytes);
    T::deserialize(Earlier { inner: &mut inner, fields: VERSION_2 })
}

/// Any deserializer, visitor, seed or access, which hands the number of fields on to all that is within it.
struct Earlier<I> {
    inner: I,
    fields: Fields,
}

/// Methods of a deserializer that are handed on with the visitor wrapped.
macro_rules! hand_on {
    ($($method:ident($($name:ident: $kind:ty),*)),* $(,)?) => {
        $(fn $method<V: Visitor<'de>>(self, $($name: $kind,)* visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method($($name,)* Earlier { inner: visitor, fields: self.fields })
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Earlier<D> {
    type Error = D::Error;

    hand_on! {
        deserialize_any(), deserialize_bool(), deserialize_i8(), deserialize_i16(), deserialize_i32(),
        deserialize_i64(), deserialize_i128(), deserialize_u8(), deserialize_u16(), deserialize_u32(),
        deserialize_u64(), deserialize_u128(), deserialize_f32(), deserialize_f64(), deserialize_char(),
        deserialize_str(), deserialize_string(), deserialize_bytes(), deserialize_byte_buf(), deserialize_option(),
        deserialize_unit(), deserialize_seq(), deserialize_map(), deserialize_identifier(), deserialize_ignored_any(),
        deserialize_unit_struct(name: &'static str), deserialize_newtype_struct(name: &'static str),
        deserialize_tuple(len: usize), deserialize_tuple_struct(name: &'static str, len: usize),
        deserialize_enum(name: &'static str, variants: &'static [&'static str]),
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        all: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let known = self.fields.iter().find(|(other, _)| *other == name).map_or(all.len(), |(_, count)| *count);
        self.inner.deserialize_struct(
            name,
            &all[..known.min(all.len())],
            Earlier { inner: visitor, fields: self.fields },
        )
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// Values without anything within, which a visitor gets as they are.
macro_rules! plain {
    ($($method:ident: $kind:ty),* $(,)?) => {
        $(fn $method<E: serde::de::Error>(self, value: $kind) -> Result<V::Value, E> {
            self.inner.$method(value)
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Earlier<V> {
    type Value = V::Value;

    plain! {
        visit_bool: bool, visit_i8: i8, visit_i16: i16, visit_i32: i32, visit_i64: i64, visit_i128: i128,
        visit_u8: u8, visit_u16: u16, visit_u32: u32, visit_u64: u64, visit_u128: u128, visit_f32: f32, visit_f64: f64,
        visit_char: char, visit_str: &str, visit_borrowed_str: &'de str, visit_string: String, visit_bytes: &[u8],
        visit_borrowed_bytes: &'de [u8], visit_byte_buf: Vec<u8>,
    }

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(Earlier { inner, fields: self.fields })
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.inner.visit_newtype_struct(Earlier { inner, fields: self.fields })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.inner.visit_seq(Earlier { inner, fields: self.fields })
    }

    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(Earlier { inner, fields: self.fields })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(Earlier { inner, fields: self.fields })
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Earlier<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(Earlier { inner, fields: self.fields })
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Earlier<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.inner.next_element_seed(Earlier { inner: seed, fields: self.fields })
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Earlier<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.inner.next_key_seed(Earlier { inner: seed, fields: self.fields })
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.next_value_seed(Earlier { inner: seed, fields: self.fields })
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Earlier<A> {
    type Error = A::Error;
    type Variant = Earlier<A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), A::Error> {
        let (value, variant) = self.inner.variant_seed(Earlier { inner: seed, fields: self.fields })?;
        Ok((value, Earlier { inner: variant, fields: self.fields }))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Earlier<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.newtype_variant_seed(Earlier { inner: seed, fields: self.fields })
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.inner.tuple_variant(len, Earlier { inner: visitor, fields: self.fields })
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.inner.struct_variant(fields, Earlier { inner: visitor, fields: self.fields })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Serialize};

    use super::*;

    /// `Plan` as it is here; nine of its fields were there before.
    mod now {
        use super::*;

        #[derive(Debug, PartialEq, Eq, Deserialize)]
        pub(super) struct Plan(pub(super) u8);

        #[derive(Debug, PartialEq, Eq, Deserialize)]
        pub(super) struct RotationOptions {
            pub(super) a: u32,
            pub(super) b: Option<String>,
            pub(super) c: Vec<u8>,
            #[serde(default)]
            pub(super) d: Option<u64>,
        }

        #[derive(Debug, PartialEq, Eq, Deserialize)]
        pub(super) enum Event {
            Nothing,
            Asked { by: String, options: RotationOptions },
            All(BTreeMap<u8, Vec<Option<RotationOptions>>>),
        }
    }

    #[derive(Serialize, Clone)]
    struct Then {
        a: u32,
        b: Option<String>,
        c: Vec<u8>,
    }

    #[derive(Serialize)]
    enum EventThen {
        Nothing,
        Asked { by: String, options: Then },
        All(BTreeMap<u8, Vec<Option<Then>>>),
    }

    #[test]
    fn what_a_type_has_gained_since_is_not_looked_for_wherever_it_stands() {
        let then = Then { a: 300, b: Some("b".to_owned()), c: vec![1, 2] };
        let now = || now::RotationOptions { a: 300, b: Some("b".to_owned()), c: vec![1, 2], d: None };
        let all = BTreeMap::from([(7, vec![Some(then.clone()), None, Some(then.clone())])]);
        for (written, expected) in [
            (EventThen::Nothing, now::Event::Nothing),
            (
                EventThen::Asked { by: "alice".to_owned(), options: then.clone() },
                now::Event::Asked { by: "alice".to_owned(), options: now() },
            ),
            (EventThen::All(all), now::Event::All(BTreeMap::from([(7, vec![Some(now()), None, Some(now())])]))),
        ] {
            // What follows must be read from where the value ends.
            let bytes = postcard::to_stdvec(&(written, 42_u64)).expect("written");
            assert_eq!(read_version_2::<(now::Event, u64)>(&bytes).expect("read"), (expected, 42));
        }
        let newtype = postcard::to_stdvec(&9_u8).expect("written");
        assert_eq!(read_version_2::<now::Plan>(&newtype).expect("read"), now::Plan(9));
        assert!(read_version_2::<now::Event>(&[9]).is_err());
    }
}
