//! Writes the result of a foreign function as JSON. The text is written while the value is walked, so that a result
//! whose text exceeds the limit is never held whole.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::ser::{SerializeMap as _, SerializeSeq as _};
use serde::{Serialize, Serializer};
use wasmtime::component::Val;

use super::schema::{NOT_FINITE, result_cases};
use super::shape::Shape;

/// The result is longer as JSON than the plugin is granted.
#[derive(Debug, thiserror::Error)]
#[error("the answer is too large")]
pub(crate) struct TooLarge;

/// Writes a value of this type in at most `bytes_max` bytes.
///
/// # Errors
/// If the text is longer than that ([`TooLarge`]). There are no other errors, since the engine checks what a guest
/// returns against its type.
pub(super) fn text(shape: &Shape, value: &Val, bytes_max: usize) -> wasmtime::Result<String> {
    let mut buffer = BoundedBuffer { text: Vec::new(), bytes_max };
    match serde_json::to_writer(&mut buffer, &Typed { shape, value }) {
        Ok(()) => Ok(String::from_utf8(buffer.text)?),
        Err(error) if error.is_io() => Err(wasmtime::Error::new(TooLarge)),
        Err(error) => Err(wasmtime::Error::new(error)),
    }
}

/// A buffer of at most `bytes_max` bytes.
struct BoundedBuffer {
    text: Vec<u8>,
    bytes_max: usize,
}

impl io::Write for BoundedBuffer {
    fn write(&mut self, more: &[u8]) -> io::Result<usize> {
        if self.text.len() + more.len() > self.bytes_max {
            return Err(io::Error::other(TooLarge));
        }
        self.text.extend_from_slice(more);
        Ok(more.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A value and its type.
struct Typed<'a> {
    shape: &'a Shape,
    value: &'a Val,
}

impl Serialize for Typed<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match (self.shape, self.value) {
            (Shape::Bool, Val::Bool(value)) => to.serialize_bool(*value),
            (Shape::Integer(_), value) => integer(value, to),
            (Shape::Float32, Val::Float32(value)) if value.is_finite() => to.serialize_f32(*value),
            (Shape::Float32, Val::Float32(value)) => not_finite(f64::from(*value), to),
            (Shape::Float64, Val::Float64(value)) if value.is_finite() => to.serialize_f64(*value),
            (Shape::Float64, Val::Float64(value)) => not_finite(*value, to),
            (Shape::Char, Val::Char(value)) => to.serialize_char(*value),
            (Shape::String, Val::String(value)) | (Shape::Enum(_), Val::Enum(value)) => {
                to.serialize_str(value)
            }
            (Shape::Bytes, Val::List(values)) => {
                let bytes = values.iter().map(|value| match value {
                    Val::U8(byte) => Ok(*byte),
                    _ => Err(mismatch()),
                });
                to.serialize_str(&STANDARD.encode(bytes.collect::<Result<Vec<u8>, _>>()?))
            }
            (Shape::List(element), Val::List(values)) => {
                to.collect_seq(values.iter().map(|value| Typed { shape: element, value }))
            }
            (Shape::Tuple(shapes), Val::Tuple(values)) => {
                let mut seq = to.serialize_seq(Some(values.len()))?;
                for (shape, value) in shapes.iter().zip(values) {
                    seq.serialize_element(&Typed { shape, value })?;
                }
                seq.end()
            }
            (Shape::Record(fields), Val::Record(values)) => {
                let mut map = to.serialize_map(Some(values.len()))?;
                for ((name, shape), (_, value)) in fields.iter().zip(values) {
                    map.serialize_entry(name, &Typed { shape, value })?;
                }
                map.end()
            }
            (Shape::Variant(cases), Val::Variant(case, payload)) => {
                let shape = cases.iter().find(|(name, _)| name == case);
                write_case(
                    case,
                    shape.and_then(|(_, shape)| shape.as_ref()),
                    payload.as_deref(),
                    to,
                )
            }
            (Shape::Result(outcome), Val::Result(result)) => {
                let [(ok, ok_shape), (err, err_shape)] = result_cases(outcome);
                match result {
                    Ok(payload) => write_case(ok, ok_shape, payload.as_deref(), to),
                    Err(payload) => write_case(err, err_shape, payload.as_deref(), to),
                }
            }
            (Shape::Flags(_), Val::Flags(names)) => to.collect_seq(names),
            (Shape::Option(_), Val::Option(None)) => to.serialize_unit(),
            (Shape::Option(inner), Val::Option(Some(value))) if inner.is_nullable() => {
                write_case("some", Some(inner), Some(value), to)
            }
            (Shape::Option(shape), Val::Option(Some(value))) => {
                Typed { shape, value }.serialize(to)
            }
            _ => Err(mismatch()),
        }
    }
}

fn integer<S: Serializer>(value: &Val, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Val::U8(value) => to.serialize_u8(*value),
        Val::S8(value) => to.serialize_i8(*value),
        Val::U16(value) => to.serialize_u16(*value),
        Val::S16(value) => to.serialize_i16(*value),
        Val::U32(value) => to.serialize_u32(*value),
        Val::S32(value) => to.serialize_i32(*value),
        Val::U64(value) => to.serialize_u64(*value),
        Val::S64(value) => to.serialize_i64(*value),
        _ => Err(mismatch()),
    }
}

fn not_finite<S: Serializer>(value: f64, to: S) -> Result<S::Ok, S::Error> {
    let [nan, infinity, negative] = NOT_FINITE;
    to.serialize_str(if value.is_nan() {
        nan
    } else if value > 0.0 {
        infinity
    } else {
        negative
    })
}

/// Writes a case: its name alone, or an object with the payload under its name.
fn write_case<S: Serializer>(
    case: &str,
    shape: Option<&Shape>,
    payload: Option<&Val>,
    to: S,
) -> Result<S::Ok, S::Error> {
    match (shape, payload) {
        (Some(shape), Some(value)) => {
            let mut map = to.serialize_map(Some(1))?;
            map.serialize_entry(case, &Typed { shape, value })?;
            map.end()
        }
        (None, None) => to.serialize_str(case),
        _ => Err(mismatch()),
    }
}

fn mismatch<E: serde::ser::Error>() -> E {
    E::custom("the answer is not of the function's type")
}
