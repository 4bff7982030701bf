//! The types of a foreign function, as a tree of our own. It is read from the component once, at loading, and
//! bounded, since a type written in a few bytes can unfold into millions.

use std::fmt;

use wasmtime::component::{ResourceType, Type};

/// Deepest nesting of types. For each level of a type, its values nest at most one level deeper in JSON and its
/// schema at most four, so both stay within what JSON libraries read (127 levels).
const DEPTH_MAX: usize = 24;

/// What a type costs of the budget besides its names, in bytes.
const NODE_BYTES: usize = 16;

/// A type whose values can be written as JSON.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape {
    Bool,
    Integer(Integer),
    Float32,
    Float64,
    Char,
    String,
    /// `list<u8>`, which is base64 in JSON.
    Bytes,
    List(Box<Shape>),
    Record(Vec<(String, Shape)>),
    Tuple(Vec<Shape>),
    Variant(Vec<(String, Option<Shape>)>),
    Enum(Vec<String>),
    Option(Box<Shape>),
    Result(Outcome),
    Flags(Vec<String>),
}

/// The two sides of a `result`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Outcome {
    pub(super) ok: Option<Box<Shape>>,
    pub(super) err: Option<Box<Shape>>,
}

/// The kinds of integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Integer {
    U8,
    S8,
    U16,
    S16,
    U32,
    S32,
    U64,
    S64,
}

impl Integer {
    /// The WIT name, and the smallest and largest values.
    pub(super) fn range(self) -> (&'static str, i128, i128) {
        match self {
            Self::U8 => ("u8", 0, u8::MAX.into()),
            Self::S8 => ("s8", i8::MIN.into(), i8::MAX.into()),
            Self::U16 => ("u16", 0, u16::MAX.into()),
            Self::S16 => ("s16", i16::MIN.into(), i16::MAX.into()),
            Self::U32 => ("u32", 0, u32::MAX.into()),
            Self::S32 => ("s32", i32::MIN.into(), i32::MAX.into()),
            Self::U64 => ("u64", 0, u64::MAX.into()),
            Self::S64 => ("s64", i64::MIN.into(), i64::MAX.into()),
        }
    }
}

impl Shape {
    /// Whether null is one of its values, so that an option of it has to mark a present value in another way.
    pub(super) fn is_nullable(&self) -> bool {
        matches!(self, Self::Option(_))
    }
}

/// Reads types. Each reader serves one function, with what is left of the component's budget.
pub(super) struct TypeReader<'a> {
    /// The component's resources, with their names.
    pub(super) resources: &'a [(String, ResourceType)],
    /// The remaining budget for types and names, in bytes.
    pub(super) bytes_left: usize,
}

impl TypeReader<'_> {
    /// Reads a type.
    ///
    /// # Errors
    /// If JSON cannot represent the type. The error names the part at fault, worded to follow "holds".
    pub(super) fn read_type(&mut self, ty: &Type) -> Result<Shape, String> {
        self.at_depth(ty, 1)
    }

    fn at_depth(&mut self, ty: &Type, depth: usize) -> Result<Shape, String> {
        if depth > DEPTH_MAX {
            return Err(format!("types that nest deeper than {DEPTH_MAX} levels"));
        }
        self.charge("")?;
        let below = depth + 1;
        Ok(match ty {
            Type::Bool => Shape::Bool,
            Type::Char => Shape::Char,
            Type::String => Shape::String,
            Type::Float32 => Shape::Float32,
            Type::Float64 => Shape::Float64,
            Type::U8 => Shape::Integer(Integer::U8),
            Type::S8 => Shape::Integer(Integer::S8),
            Type::U16 => Shape::Integer(Integer::U16),
            Type::S16 => Shape::Integer(Integer::S16),
            Type::U32 => Shape::Integer(Integer::U32),
            Type::S32 => Shape::Integer(Integer::S32),
            Type::U64 => Shape::Integer(Integer::U64),
            Type::S64 => Shape::Integer(Integer::S64),
            Type::List(list) if list.ty() == Type::U8 => Shape::Bytes,
            Type::List(list) => Shape::List(Box::new(self.at_depth(&list.ty(), below)?)),
            Type::Record(record) => {
                let fields = record.fields().map(|field| self.named(field.name, &field.ty, below));
                Shape::Record(fields.collect::<Result<_, _>>()?)
            }
            Type::Tuple(tuple) => {
                let types = tuple.types().map(|ty| self.at_depth(&ty, below));
                Shape::Tuple(types.collect::<Result<_, _>>()?)
            }
            Type::Variant(variant) => {
                let cases = variant.cases().map(|case| {
                    self.charge(case.name)?;
                    let payload = case.ty.map(|ty| self.at_depth(&ty, below)).transpose()?;
                    Ok((case.name.to_owned(), payload))
                });
                Shape::Variant(cases.collect::<Result<_, String>>()?)
            }
            Type::Enum(names) => Shape::Enum(self.names(names.names())?),
            Type::Flags(names) => Shape::Flags(self.names(names.names())?),
            Type::Option(option) => Shape::Option(Box::new(self.at_depth(&option.ty(), below)?)),
            Type::Result(result) => {
                let (ok, err) = (result.ok(), result.err());
                let side = |this: &mut Self, ty: Option<Type>| {
                    let shape = ty.map(|ty| this.at_depth(&ty, below)).transpose()?;
                    Ok::<_, String>(shape.map(Box::new))
                };
                Shape::Result(Outcome { ok: side(self, ok)?, err: side(self, err)? })
            }
            Type::Own(resource) | Type::Borrow(resource) => return Err(self.resource(resource)),
            Type::Stream(_) => return Err("a stream".to_owned()),
            Type::Future(_) => return Err("a future".to_owned()),
            Type::ErrorContext => return Err("an error-context".to_owned()),
            Type::Map(_) => return Err("a map".to_owned()),
            Type::FixedLengthList(_) => return Err("a list of fixed length".to_owned()),
        })
    }

    fn resource(&self, resource: &ResourceType) -> String {
        let known = self.resources.iter().find(|(_, ty)| ty == resource);
        known.map_or("a resource".to_owned(), |(name, _)| format!("the resource {name}"))
    }

    /// Reads a named type: a field or a parameter.
    pub(super) fn named(
        &mut self,
        name: &str,
        ty: &Type,
        depth: usize,
    ) -> Result<(String, Shape), String> {
        self.charge(name)?;
        Ok((name.to_owned(), self.at_depth(ty, depth)?))
    }

    fn names<'n>(&mut self, names: impl Iterator<Item = &'n str>) -> Result<Vec<String>, String> {
        let names = names.map(|name| self.charge(name).map(|()| name.to_owned()));
        names.collect()
    }

    fn charge(&mut self, name: &str) -> Result<(), String> {
        let left = self.bytes_left.checked_sub(NODE_BYTES + name.len());
        self.bytes_left = left.ok_or("more types than a tool's description has room for")?;
        Ok(())
    }
}

/// As WIT writes the type, with records and the like written out.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("bool"),
            Self::Integer(integer) => f.write_str(integer.range().0),
            Self::Float32 => f.write_str("f32"),
            Self::Float64 => f.write_str("f64"),
            Self::Char => f.write_str("char"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("list<u8>"),
            Self::List(element) => write!(f, "list<{element}>"),
            Self::Option(inner) => write!(f, "option<{inner}>"),
            Self::Tuple(types) => {
                f.write_str("tuple<")?;
                listed(f, types, |f, shape| shape.fmt(f))?;
                f.write_str(">")
            }
            Self::Record(fields) => {
                f.write_str("record { ")?;
                listed(f, fields, |f, (name, shape)| write!(f, "{name}: {shape}"))?;
                f.write_str(" }")
            }
            Self::Variant(cases) => {
                f.write_str("variant { ")?;
                listed(f, cases, |f, (name, payload)| match payload {
                    Some(payload) => write!(f, "{name}({payload})"),
                    None => f.write_str(name),
                })?;
                f.write_str(" }")
            }
            Self::Enum(names) => write!(f, "enum {{ {} }}", names.join(", ")),
            Self::Flags(names) => write!(f, "flags {{ {} }}", names.join(", ")),
            Self::Result(outcome) => outcome.fmt(f),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.ok, &self.err) {
            (None, None) => f.write_str("result"),
            (Some(ok), None) => write!(f, "result<{ok}>"),
            (None, Some(err)) => write!(f, "result<_, {err}>"),
            (Some(ok), Some(err)) => write!(f, "result<{ok}, {err}>"),
        }
    }
}

fn listed<T>(
    f: &mut fmt::Formatter<'_>,
    items: &[T],
    show: impl Fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    for (place, item) in items.iter().enumerate() {
        if place > 0 {
            f.write_str(", ")?;
        }
        show(f, item)?;
    }
    Ok(())
}
