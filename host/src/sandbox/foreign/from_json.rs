//! Reads the arguments of a foreign function from JSON. The text is read along the function's types and never
//! becomes a tree of its own, so neither its nesting nor its shape costs more than the types allow. Reading stops
//! at the first mismatch, with a sentence that names the place.

mod messages;
mod reader_state;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use wasmtime::component::Val;

use super::schema::NOT_FINITE;
use super::shape::{Integer, Shape};
use messages::{expected, names, shortened};
use reader_state::ReaderState;

/// Longest arguments, in bytes.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// Reads the arguments object of a function with these parameters.
///
/// # Errors
/// If the arguments do not fit the parameters. The error is a sentence for the model.
pub(super) fn arguments(params: &[(String, Shape)], text: &str) -> Result<Vec<Val>, String> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("the arguments are longer than {TEXT_BYTES_MAX} bytes"));
    }
    if !text.trim_start().starts_with('{') {
        return Err("the arguments are not a JSON object".to_owned());
    }
    let state = ReaderState::default();
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let read = Fields { fields: params, state: &state };
    let values = deserializer.deserialize_any(read).and_then(|values| {
        deserializer.end()?;
        Ok(values)
    });
    values.map_err(|error| match state.error() {
        Some(error) => error,
        None => format!("the arguments are not valid JSON: {error}"),
    })
}

/// Reads one value of a type.
#[derive(Clone, Copy)]
struct Typed<'a> {
    shape: &'a Shape,
    state: &'a ReaderState,
}

impl<'de> DeserializeSeed<'de> for Typed<'_> {
    type Value = Val;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Val, D::Error> {
        self.state.count(1)?;
        from.deserialize_any(self)
    }
}

impl<'a> Typed<'a> {
    /// For an option that is written as its value: the reader of that value.
    fn inner(self) -> Option<Self> {
        match self.shape {
            // An option of an option is written as an object if it has a value, and is read as such.
            Shape::Option(inner) if !inner.is_nullable() => Some(Self { shape: inner, ..self }),
            _ => None,
        }
    }

    fn float<E: Error>(self, value: f64, shown: fmt::Arguments<'_>) -> Result<Val, E> {
        match self.shape {
            Shape::Float64 => Ok(Val::Float64(value)),
            Shape::Float32 => {
                let narrow = value as f32;
                if narrow.is_finite() {
                    Ok(Val::Float32(narrow))
                } else {
                    Err(self.state.mismatch(self.shape, &shown.to_string()))
                }
            }
            _ => Err(self.state.mismatch(self.shape, &format!("the number {shown}"))),
        }
    }

    fn whole<E: Error>(self, value: i128) -> Result<Val, E> {
        match (self.inner(), self.shape) {
            (Some(inner), _) => inner.whole(value).map(some),
            (None, Shape::Integer(kind)) => kind
                .val(value)
                .ok_or_else(|| self.state.mismatch(self.shape, &format!("the number {value}"))),
            // Beyond 2^53 this rounds to the nearest float, as every JSON reader does.
            _ => self.float(value as f64, format_args!("{value}")),
        }
    }

    fn element<'de, A: SeqAccess<'de>>(
        self,
        shape: &Shape,
        seq: &mut A,
        place: usize,
    ) -> Result<Option<Val>, A::Error> {
        let seed = Typed { shape, state: self.state };
        self.state.at_step(&place.to_string(), || seq.next_element_seed(seed))
    }

    fn elements<'de, A: SeqAccess<'de>>(
        self,
        shape: &Shape,
        mut seq: A,
    ) -> Result<Vec<Val>, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = self.element(shape, &mut seq, values.len())? {
            values.push(value);
        }
        Ok(values)
    }

    /// Reads a case with a payload, which is written as an object with the case as its key.
    fn read_case<'de, A: MapAccess<'de>>(
        self,
        mut map: A,
        cases: &[(&str, Option<&'a Shape>)],
    ) -> Result<(String, Val), A::Error> {
        let bare = || self.state.mismatch(self.shape, "an object without a case");
        let case = map.next_key::<String>()?.ok_or_else(bare)?;
        let known = cases.iter().find(|(name, _)| *name == case);
        let payload = match known {
            Some((_, Some(payload))) => *payload,
            Some((_, None)) => {
                let what = format!("the case {case} has no payload: it is written as {case:?}");
                return Err(self.state.fail(&what));
            }
            None => return Err(self.unknown_case(&case, cases)),
        };
        let seed = Typed { shape: payload, ..self };
        let value = self.state.at_step(&case, || map.next_value_seed(seed))?;
        if map.next_key::<IgnoredAny>()?.is_some() {
            return Err(self.state.mismatch(self.shape, "an object of several fields"));
        }
        Ok((case, value))
    }

    fn unknown_case<E: Error>(self, case: &str, cases: &[(&str, Option<&Shape>)]) -> E {
        let names = names(cases.iter().map(|(name, _)| *name));
        self.state.fail(&format!("there is no case {:?}, but {names}", shortened(case, 64)))
    }

    fn text<E: Error>(self, text: &str) -> Result<Val, E> {
        let not_finite = || match NOT_FINITE.iter().position(|name| *name == text) {
            Some(0) => Some(f64::NAN),
            Some(1) => Some(f64::INFINITY),
            Some(_) => Some(f64::NEG_INFINITY),
            None => None,
        };
        let value = match self.shape {
            Shape::String => Some(Val::String(text.to_owned())),
            Shape::Char => {
                let mut chars = text.chars();
                chars.next().filter(|_| chars.next().is_none()).map(Val::Char)
            }
            Shape::Float32 => not_finite().map(|value| Val::Float32(value as f32)),
            Shape::Float64 => not_finite().map(Val::Float64),
            Shape::Bytes => {
                let bytes = STANDARD.decode(text);
                let no_base64 = |error| self.state.fail(&format!("it is not base64: {error}"));
                let bytes = bytes.map_err(no_base64)?;
                self.state.count(bytes.len())?;
                Some(Val::List(bytes.into_iter().map(Val::U8).collect()))
            }
            Shape::Enum(names) => {
                names.iter().find(|name| *name == text).map(|name| Val::Enum(name.clone()))
            }
            Shape::Variant(cases) => match cases.iter().find(|(name, _)| name == text) {
                Some((name, None)) => Some(Val::Variant(name.clone(), None)),
                Some((name, Some(_))) => return Err(self.payload_missing(name)),
                None => {
                    let cases: Vec<_> =
                        cases.iter().map(|(name, _)| (name.as_str(), None)).collect();
                    return Err(self.unknown_case(text, &cases));
                }
            },
            Shape::Result(outcome) => match (text, &outcome.ok, &outcome.err) {
                ("ok", None, _) => Some(Val::Result(Ok(None))),
                ("err", _, None) => Some(Val::Result(Err(None))),
                ("ok", ..) | ("err", ..) => return Err(self.payload_missing(text)),
                _ => None,
            },
            _ => None,
        };
        value.ok_or_else(|| {
            let found = format!("the text {:?}", shortened(text, 64));
            self.state.mismatch(self.shape, &found)
        })
    }

    fn payload_missing<E: Error>(self, case: &str) -> E {
        self.state.fail(&format!("the case {case} has a payload: write {{{case:?}: …}}"))
    }
}

impl<'de> Visitor<'de> for Typed<'_> {
    type Value = Val;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&expected(self.shape))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Val, E> {
        match (self.inner(), self.shape) {
            (Some(inner), _) => inner.visit_bool(value).map(some),
            (None, Shape::Bool) => Ok(Val::Bool(value)),
            _ => Err(self.state.mismatch(self.shape, &value.to_string())),
        }
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Val, E> {
        self.whole(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Val, E> {
        self.whole(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Val, E> {
        match (self.inner(), self.shape) {
            (Some(inner), _) => inner.visit_f64(value).map(some),
            // JSON Schema accepts 7.0 as an integer, and some models write it. A number beyond 64 bits is out of
            // every range.
            (None, Shape::Integer(_)) if value.fract() == 0.0 && value.abs() < 1e20 => {
                self.whole(value as i128)
            }
            _ => self.float(value, format_args!("{value:?}")),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Val, E> {
        match self.inner() {
            Some(inner) => inner.text(text).map(some),
            None => self.text(text),
        }
    }

    fn visit_unit<E: Error>(self) -> Result<Val, E> {
        match self.shape {
            Shape::Option(_) => Ok(Val::Option(None)),
            _ => Err(self.state.mismatch(self.shape, "null")),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Val, A::Error> {
        if let Some(inner) = self.inner() {
            return inner.visit_seq(seq).map(some);
        }
        match self.shape {
            Shape::List(element) => Ok(Val::List(self.elements(element, seq)?)),
            Shape::Tuple(shapes) => {
                let mut values = Vec::with_capacity(shapes.len());
                for (place, shape) in shapes.iter().enumerate() {
                    let next = self.element(shape, &mut seq, place)?;
                    let found = || format!("an array of {place}");
                    values.push(next.ok_or_else(|| self.state.mismatch(self.shape, &found()))?);
                }
                match seq.next_element::<IgnoredAny>()? {
                    Some(_) => Err(self.state.mismatch(self.shape, "an array of more")),
                    None => Ok(Val::Tuple(values)),
                }
            }
            Shape::Flags(names) => {
                let set = self.elements(&Shape::Enum(names.clone()), seq)?;
                let times = |name: &String| {
                    let named = Val::Enum(name.clone());
                    set.iter().filter(|flag| **flag == named).count()
                };
                if let Some(twice) = names.iter().find(|name| times(name) > 1) {
                    return Err(self.state.fail(&format!("{twice} is there twice")));
                }
                Ok(Val::Flags(names.iter().filter(|name| times(name) == 1).cloned().collect()))
            }
            _ => Err(self.state.mismatch(self.shape, "an array")),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Val, A::Error> {
        if let Some(inner) = self.inner() {
            return inner.visit_map(map).map(some);
        }
        match self.shape {
            Shape::Record(fields) => {
                let values = Fields { fields, state: self.state }.visit_map(map)?;
                let names = fields.iter().map(|(name, _)| name.clone());
                Ok(Val::Record(names.zip(values).collect()))
            }
            Shape::Variant(cases) => {
                let cases: Vec<_> =
                    cases.iter().map(|(name, shape)| (name.as_str(), shape.as_ref())).collect();
                let (case, value) = self.read_case(map, &cases)?;
                Ok(Val::Variant(case, Some(Box::new(value))))
            }
            Shape::Result(outcome) => {
                let (case, value) = self.read_case(map, &super::schema::result_cases(outcome))?;
                let value = Some(Box::new(value));
                Ok(Val::Result(if case == "ok" { Ok(value) } else { Err(value) }))
            }
            Shape::Option(inner) => {
                let (_, value) = self.read_case(map, &[("some", Some(inner))])?;
                Ok(some(value))
            }
            _ => Err(self.state.mismatch(self.shape, "an object")),
        }
    }
}

/// Reads an object with these fields in any order, and returns their values in the order of the type.
struct Fields<'a> {
    fields: &'a [(String, Shape)],
    state: &'a ReaderState,
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = Vec<Val>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<Val>, A::Error> {
        let Self { fields, state } = self;
        let mut values: Vec<Option<Val>> = vec![None; fields.len()];
        while let Some(name) = map.next_key::<String>()? {
            let index = fields.iter().position(|(known, _)| *known == name);
            let field = index.and_then(|place| Some((fields.get(place)?, values.get_mut(place)?)));
            let Some(((_, shape), value)) = field else {
                let known = names(fields.iter().map(|(name, _)| name.as_str()));
                let what = format!("there is no field {:?}, but {known}", shortened(&name, 64));
                return Err(state.fail(&what));
            };
            if value.is_some() {
                return Err(state.fail(&format!("the field {name:?} is there twice")));
            }
            let seed = Typed { shape, state };
            *value = Some(state.at_step(&name, || map.next_value_seed(seed))?);
        }
        let values = fields.iter().zip(values).map(|((name, shape), value)| match value {
            Some(value) => Ok(value),
            None if shape.is_nullable() => Ok(Val::Option(None)),
            None => Err(state.fail(&format!("the field {name:?} is missing"))),
        });
        values.collect()
    }
}

impl Integer {
    /// The value as this kind of integer. `None` if it is out of range.
    fn val(self, value: i128) -> Option<Val> {
        Some(match self {
            Self::U8 => Val::U8(value.try_into().ok()?),
            Self::S8 => Val::S8(value.try_into().ok()?),
            Self::U16 => Val::U16(value.try_into().ok()?),
            Self::S16 => Val::S16(value.try_into().ok()?),
            Self::U32 => Val::U32(value.try_into().ok()?),
            Self::S32 => Val::S32(value.try_into().ok()?),
            Self::U64 => Val::U64(value.try_into().ok()?),
            Self::S64 => Val::S64(value.try_into().ok()?),
        })
    }
}

fn some(value: Val) -> Val {
    Val::Option(Some(Box::new(value)))
}
