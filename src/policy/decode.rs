//! Tree to model, by `serde`. Errors know their place and never show a value.
//!
//! The text of a custom error is its message; further lines are hints.

use std::fmt;

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor, value::StrDeserializer,
};

use super::{
    diagnostic::Problem,
    suggest,
    yaml::{Key, Node, Place, Value},
};

/// Reads `T` from a node. `around` is where a missing key is reported.
pub(super) fn decode<T: DeserializeOwned>(node: &Node, around: Place) -> Result<T, Problem> {
    T::deserialize(Decoder(node)).map_err(|error| error.into_problem(around))
}

/// Why a node is not what was expected.
#[derive(Debug)]
pub(super) struct DecodeError {
    place: Option<Place>,
    /// A missing key is reported at the key around it, which the mapping itself does not know.
    missing: bool,
    message: String,
    hints: Vec<String>,
}

impl DecodeError {
    fn at(place: Place, message: impl Into<String>) -> Self {
        Self { place: Some(place), missing: false, message: message.into(), hints: Vec::new() }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    fn or_at(mut self, place: Place) -> Self {
        if !self.missing {
            self.place.get_or_insert(place);
        }
        self
    }

    fn or_missing_at(mut self, place: Place) -> Self {
        self.missing = false;
        self.or_at(place)
    }

    /// Places an error of the value under `key`. Nothing after a colon has no place of its own, and
    /// what is missing in a mapping is missing under its key.
    fn under(mut self, key: &Key, value: &Node) -> Self {
        if value.is_null() {
            self.place = None;
        }
        let place = if self.missing || value.is_null() { key.place } else { value.place };
        self.or_missing_at(place)
    }

    fn into_problem(self, around: Place) -> Problem {
        let mut problem = Problem::error(self.place.unwrap_or(around), self.message);
        problem.hints = self.hints;
        problem
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(text: T) -> Self {
        let text = text.to_string();
        let mut lines = text.lines().map(str::to_owned);
        let message = lines.next().unwrap_or_default();
        Self { place: None, missing: false, message, hints: lines.collect() }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { missing: true, ..Self::custom(format!("`{field}` is missing")) }
            .hint(format!("add `{field}: …` here"))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format!("unknown key `{field}`"))
            .hint(suggest::hint(field, expected.iter().copied()))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format!("unknown choice `{variant}`"))
            .hint(suggest::hint(variant, expected.iter().copied()))
    }
}

#[derive(Clone, Copy)]
struct Decoder<'a>(&'a Node);

impl<'a> Decoder<'a> {
    fn mismatch(self, expected: &str) -> DecodeError {
        let found = match &self.0.value {
            _ if self.0.is_null() => "nothing",
            Value::Scalar { .. } => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        };
        let error = DecodeError::at(self.0.place, format!("expected {expected}, found {found}"));
        match (&self.0.value, expected) {
            (Value::Scalar { .. }, "a list") if !self.0.is_null() => {
                error.hint("write it in brackets, one item or several: [a, b]")
            }
            _ => error.hint(match expected {
                "text" | "a whole number" => "write a single value here",
                "a list" => "write a list here: [a, b]",
                _ => "write keys and values here: { key: value }",
            }),
        }
    }

    fn text(self) -> Result<&'a str, DecodeError> {
        match &self.0.value {
            Value::Scalar { text, .. } if !self.0.is_null() => Ok(text),
            _ => Err(self.mismatch("text")),
        }
    }

    fn number<T: std::str::FromStr>(self) -> Result<T, DecodeError> {
        match &self.0.value {
            Value::Scalar { text, plain: true } => text.parse().map_err(|_| {
                DecodeError::at(self.0.place, "expected a whole number, zero or more")
                    .hint("write digits only, such as 3")
            }),
            Value::Scalar { text, .. } if text.parse::<T>().is_ok() => {
                Err(DecodeError::at(self.0.place, "expected a whole number, found text in quotes")
                    .hint("remove the quotes"))
            }
            _ => Err(self.mismatch("a whole number")),
        }
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $type:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            visitor.$visit(self.number::<$type>()?).map_err(|error: DecodeError| error.or_at(self.0.place))
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Decoder<'de> {
    type Error = DecodeError;

    /// Used only for bodies that are not interpreted yet.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.0.value {
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.deserialize_map(visitor),
            Value::Scalar { .. } if self.0.is_null() => visitor.visit_unit(),
            Value::Scalar { text, plain: true } if text == "true" || text == "false" => {
                visitor.visit_bool(text == "true")
            }
            Value::Scalar { text, plain } => match text.parse::<i64>() {
                Ok(number) if *plain => visitor.visit_i64(number),
                _ => visitor.visit_str(text),
            },
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.0.value {
            Value::Scalar { text, plain: true } if text == "true" => visitor.visit_bool(true),
            Value::Scalar { text, plain: true } if text == "false" => visitor.visit_bool(false),
            _ => Err(DecodeError::at(self.0.place, "expected true or false").hint(
                "write it without quotes; `yes`, `no`, `on` and `off` are plain text in YAML 1.2",
            )),
        }
    }

    numbers!(
        deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16, deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64, deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32, deserialize_i64 visit_i64 i64, deserialize_f32 visit_f32 f32,
        deserialize_f64 visit_f64 f64, deserialize_char visit_char char
    );

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let text = self.text()?;
        visitor.visit_borrowed_str(text).map_err(|error: DecodeError| error.or_at(self.0.place))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.0.value {
            Value::List(items) => visitor.visit_seq(Items(items.iter())),
            _ => Err(self.mismatch("a list")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.0.value {
            Value::Map(entries) => {
                visitor.visit_map(Entries { entries: entries.iter(), value: None })
            }
            _ => Err(self.mismatch("a mapping of names to values")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match &self.0.value {
            Value::Map(_) => self.deserialize_map(visitor),
            _ => Err(self
                .mismatch("a mapping")
                .hint(format!("with keys of these: {}", listed(fields)))),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let one_of = || format!("exactly one of {} is needed", listed(variants));
        match &self.0.value {
            Value::Scalar { .. } if !self.0.is_null() && !NEVER_BARE.contains(&name) => visitor
                .visit_enum(Choice { node: self.0, value: None })
                .map_err(|e| e.or_at(self.0.place)),
            Value::Map(entries) => match entries.as_slice() {
                [(key, value)] => visitor
                    .visit_enum(Choice { node: self.0, value: Some((key, value)) })
                    .map_err(|error| error.or_at(key.place)),
                [] => Err(DecodeError::at(self.0.place, one_of()).hint("add one of them")),
                [_, (second, _), ..] => Err(DecodeError::at(second.place, one_of())
                    .hint(format!("remove `{}` or the other", second.name))),
            },
            _ => Err(self.mismatch("a mapping with one key").hint(one_of())),
        }
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        i128 u128 bytes byte_buf unit unit_struct tuple tuple_struct
    }
}

/// Enums whose every choice has settings, so that a bare word is never one.
const NEVER_BARE: [&str; 5] = ["Schedule", "Program", "State", "PostgresAction", "StarRocksAction"];

fn listed(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

struct Items<'a>(std::slice::Iter<'a, Node>);

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        let Some(node) = self.0.next() else {
            return Ok(None);
        };
        seed.deserialize(Decoder(node)).map(Some).map_err(|error| error.or_missing_at(node.place))
    }
}

struct Entries<'a> {
    entries: std::slice::Iter<'a, (Key, Node)>,
    value: Option<&'a (Key, Node)>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, DecodeError> {
        self.value = self.entries.next();
        let Some((key, _)) = self.value else {
            return Ok(None);
        };
        let name: StrDeserializer<'_, DecodeError> = key.name.as_str().into_deserializer();
        seed.deserialize(name).map(Some).map_err(|error| error.or_at(key.place))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, DecodeError> {
        let Some((key, value)) = self.value.take() else {
            return Err(de::Error::custom("a value is missing"));
        };
        seed.deserialize(Decoder(value)).map_err(|error| error.under(key, value))
    }
}

/// An enum: a bare name, or a mapping with one key.
struct Choice<'a> {
    node: &'a Node,
    value: Option<(&'a Key, &'a Node)>,
}

impl<'de> EnumAccess<'de> for Choice<'de> {
    type Error = DecodeError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Self), DecodeError> {
        let name = match self.value {
            Some((key, _)) => &key.name,
            None => Decoder(self.node).text()?,
        };
        let name: StrDeserializer<'_, DecodeError> = name.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> Choice<'de> {
    fn content(&self) -> Result<(&'de Key, &'de Node), DecodeError> {
        self.value.ok_or_else(|| {
            DecodeError::at(self.node.place, "this choice needs a value")
                .hint("write it as a mapping: { CHOICE: VALUE }")
        })
    }
}

impl<'de> VariantAccess<'de> for Choice<'de> {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        match self.value {
            None => Ok(()),
            Some((key, _)) => {
                Err(DecodeError::at(key.place, "expected a single value, found a mapping")
                    .hint("write only the name of the choice"))
            }
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<T::Value, DecodeError> {
        let (key, value) = self.content()?;
        seed.deserialize(Decoder(value)).map_err(|error| error.under(key, value))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, DecodeError> {
        de::Deserializer::deserialize_seq(Decoder(self.content()?.1), visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let (key, value) = self.content()?;
        de::Deserializer::deserialize_struct(Decoder(value), "", fields, visitor)
            .map_err(|error| error.or_missing_at(key.place))
    }
}
