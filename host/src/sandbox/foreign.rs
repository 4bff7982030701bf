//! Foreign components: those that were not made for this gateway. Their ordinary typed functions become tools.
//! Parameters and results are read from the component's type when it is loaded. A call uses dynamic values, in the
//! same store and under the same limits as any other.
//!
//! A function that the component exports directly keeps its name; a function of an interface `pkg:name/ops` is
//! named `ops-` and its own name. WASI interfaces do not become tools, since they are meant for hosts. A function
//! whose parameters or result JSON cannot represent (a resource, a stream, a future) is left out, with a reason.

mod from_json;
mod names;
mod schema;
mod shape;
#[cfg(test)]
mod tests;
mod to_json;

use wasmtime::component::types::{ComponentFunc, ComponentItem};
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, ResourceType, Val};
use wasmtime::{Engine, Store};

use super::bindings::v0_1::wardgate::plugin::types::Failure;
use super::host::failure;
use crate::sandbox::call::state::CallState;
use crate::tool::Tool;
use names::Names;
use shape::{Outcome, Shape, TypeReader};
pub(super) use to_json::TooLarge;

/// Most tools of one component.
const TOOLS_MAX: usize = 128;

/// Budget for the types and names of one function, in bytes: about a fifth of what its schema may take.
const FUNCTION_BYTES_MAX: usize = 32 << 10;

/// Budget for all functions of a component together, in bytes. Models are sent all of it.
const COMPONENT_BYTES_MAX: usize = 256 << 10;

/// Most functions listed as left out, and the longest reason, in characters: a component may export a hundred
/// thousand functions, with names of a hundred thousand letters.
const REASONS_MAX: usize = 50;
const REASON_CHARS_MAX: usize = 400;

/// Longest description of a tool, in characters.
const DESCRIPTION_CHARS_MAX: usize = 1_200;

/// Functions that build tools leave in a component: the one that sets up the interpreter, by interface, name and
/// first parameters. It runs any script with the plugin's grants, so it is not offered as a tool. (componentize-qjs
/// 0.4, componentize-py 0.25.)
const BUILD_TOOL_EXPORTS: [(Option<&str>, &str, [&str; 2]); 2] =
    [(None, "init", ["shim", "script"]), (Some("exports"), "init", ["app-name", "symbols"])];

/// The prefix of WASI's interfaces.
const WASI: &str = "wasi:";

/// The functions of a foreign component.
pub(super) struct ForeignComponent {
    functions: Vec<Function>,
    skipped_functions: Vec<String>,
}

struct Function {
    tool: Tool,
    export_index: ComponentExportIndex,
    params: Vec<(String, Shape)>,
    result: ResultShape,
}

/// What a function returns.
enum ResultShape {
    Nothing,
    Value(Shape),
    /// A `result`: its error becomes the tool's error.
    Fallible(Outcome),
}

impl ForeignComponent {
    /// Reads what a component exports. `None` if it exports no functions of its own.
    ///
    /// # Errors
    /// If it exports functions, but none of them can be a tool. The error is a sentence that says why.
    pub(super) fn from_component(
        component: &Component,
        engine: &Engine,
    ) -> Result<Option<Self>, String> {
        let resources = resources(component, engine);
        let mut foreign = Self { functions: Vec::new(), skipped_functions: Vec::new() };
        let (mut names, mut bytes_left) = (Names::default(), COMPONENT_BYTES_MAX);
        let functions = functions(component, engine);
        let mut more = 0_usize;
        for function in &functions {
            let budget = bytes_left.min(FUNCTION_BYTES_MAX);
            let mut reader = TypeReader { resources: &resources, bytes_left: budget };
            let read = if foreign.functions.len() < TOOLS_MAX {
                function.read_function(component, &mut reader, &mut names)
            } else {
                Err(format!("the component has more than {TOOLS_MAX} functions"))
            };
            match read {
                Ok(function) => foreign.functions.push(function),
                Err(reason) if foreign.skipped_functions.len() < REASONS_MAX => {
                    let reason = format!("{function}: {reason}");
                    foreign.skipped_functions.push(reason.chars().take(REASON_CHARS_MAX).collect());
                }
                Err(_) => more += 1,
            }
            bytes_left -= budget - reader.bytes_left.min(budget);
        }
        if more > 0 {
            foreign.skipped_functions.push(format!("{more} more functions"));
        }
        if functions.is_empty() {
            return Ok(None);
        }
        if foreign.functions.is_empty() {
            let reasons = foreign.skipped_functions.join("; ");
            return Err(format!("none of the functions that it exports can be a tool: {reasons}"));
        }
        Ok(Some(foreign))
    }

    /// The tools, those that the component exports directly first.
    pub(super) fn tools(&self) -> Vec<Tool> {
        self.functions.iter().map(|function| function.tool.clone()).collect()
    }

    /// The functions that are not tools, with the reason.
    pub(super) fn skipped_functions(&self) -> &[String] {
        &self.skipped_functions
    }

    /// Calls a function. Returns the result as JSON text, or the error that the model is shown. Arguments that do
    /// not fit are rejected before the component is instantiated.
    pub(super) async fn call(
        &self,
        pre: &InstancePre<CallState>,
        store: &mut Store<CallState>,
        (name, arguments): (&str, &str),
        bytes_max: usize,
    ) -> wasmtime::Result<Result<String, Failure>> {
        let function = self.functions.iter().find(|function| function.tool.name == name);
        let Some(function) = function else {
            return Ok(Err(failure("not-found", "the component has no such function")));
        };
        let params = match from_json::arguments(&function.params, arguments) {
            Ok(params) => params,
            Err(error) => return Ok(Err(failure("invalid-input", &error))),
        };
        let instance = pre.instantiate_async(&mut *store).await?;
        let missing = || wasmtime::Error::msg("the function is missing");
        let callee = instance.get_func(&mut *store, function.export_index).ok_or_else(missing)?;
        // Placeholders that the call overwrites.
        let mut results = vec![Val::Bool(false); function.result.count()];
        callee.call_async(store, &params, &mut results).await?;
        function.result.to_tool_result(results.first(), bytes_max)
    }
}

impl ResultShape {
    /// The number of values that the function returns.
    fn count(&self) -> usize {
        usize::from(!matches!(self, Self::Nothing))
    }

    fn schema(&self) -> Option<serde_json::Value> {
        match self {
            Self::Nothing => None,
            Self::Value(shape) => Some(schema::json_schema(shape)),
            Self::Fallible(outcome) => outcome.ok.as_deref().map(schema::json_schema),
        }
    }

    fn to_tool_result(
        &self,
        value: Option<&Val>,
        bytes_max: usize,
    ) -> wasmtime::Result<Result<String, Failure>> {
        let text = |shape: Option<&Shape>, value: Option<&Val>| match (shape, value) {
            (Some(shape), Some(value)) => to_json::text(shape, value, bytes_max).map(Some),
            _ => Ok(None),
        };
        let null = || "null".to_owned();
        Ok(match (self, value) {
            (Self::Value(shape), value) => Ok(text(Some(shape), value)?.unwrap_or_else(null)),
            (Self::Fallible(outcome), Some(Val::Result(Ok(value)))) => {
                Ok(text(outcome.ok.as_deref(), value.as_deref())?.unwrap_or_else(null))
            }
            (Self::Fallible(outcome), Some(Val::Result(Err(value)))) => {
                let text = text(outcome.err.as_deref(), value.as_deref())?;
                Err(failure("tool-error", text.as_deref().unwrap_or("it failed and says no more")))
            }
            (Self::Fallible(_) | Self::Nothing, _) => Ok(null()),
        })
    }
}

/// An exported function, and the interface that contains it.
struct ExportedFunction {
    interface: Option<String>,
    name: String,
    ty: ComponentFunc,
}

impl std::fmt::Display for ExportedFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.interface {
            Some(interface) => write!(f, "{} of {interface}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl ExportedFunction {
    fn read_function(
        &self,
        component: &Component,
        reader: &mut TypeReader<'_>,
        names: &mut Names,
    ) -> Result<Function, String> {
        if self.ty.async_() {
            return Err("it is asynchronous".to_owned());
        }
        if self.is_build_tool_export() {
            return Err("it was for the tool that built the component".to_owned());
        }
        let params = self.ty.params().map(|(name, ty)| {
            let read = reader.named(name, &ty, 1);
            read.map_err(|what| format!("its parameter {name} holds {what}"))
        });
        let params: Vec<_> = params.collect::<Result<_, _>>()?;
        let answers = self.ty.results().map(|ty| reader.read_type(&ty));
        let answers: Result<Vec<_>, _> = answers.collect();
        let result = match answers.map_err(|what| format!("its answer holds {what}"))?.pop() {
            None => ResultShape::Nothing,
            Some(Shape::Result(outcome)) => ResultShape::Fallible(outcome),
            Some(shape) => ResultShape::Value(shape),
        };
        let interface = self.interface.as_deref();
        let within = interface.and_then(|name| component.get_export_index(None, name));
        let export_index = component.get_export_index(within.as_ref(), &self.name);
        let tool = Tool {
            name: names.name(interface, &self.name),
            description: self.description(&params, &result),
            input_schema: schema::object(&params),
            output_schema: result.schema(),
            // A component's type does not say what a function does.
            destructive: true,
            idempotent: false,
        };
        Ok(Function { tool, export_index: export_index.ok_or("it is not there")?, params, result })
    }

    fn is_build_tool_export(&self) -> bool {
        let interface = self.interface.as_deref();
        BUILD_TOOL_EXPORTS.iter().any(|(within, name, first)| {
            let params = self.ty.params().map(|(name, _)| name);
            *within == interface && *name == self.name && params.take(2).eq(first.iter().copied())
        })
    }

    fn description(&self, params: &[(String, Shape)], result: &ResultShape) -> String {
        let params: Vec<_> =
            params.iter().map(|(name, shape)| format!("{name}: {shape}")).collect();
        let result = match result {
            ResultShape::Nothing => String::new(),
            ResultShape::Value(shape) => format!(" -> {shape}"),
            ResultShape::Fallible(outcome) => format!(" -> {outcome}"),
        };
        let of = self.interface.as_deref().map(|name| format!(" of {name}")).unwrap_or_default();
        let text = format!("The function {}: func({}){result}{of}", self.name, params.join(", "));
        text.chars().take(DESCRIPTION_CHARS_MAX).collect()
    }
}

/// The functions that a component exports, except those of WASI interfaces.
fn functions(component: &Component, engine: &Engine) -> Vec<ExportedFunction> {
    let mut functions = Vec::new();
    for (name, item) in component.component_type().exports(engine) {
        match item.ty {
            ComponentItem::ComponentFunc(ty) => {
                functions.push(ExportedFunction { interface: None, name: name.to_owned(), ty });
            }
            ComponentItem::ComponentInstance(instance) if !name.starts_with(WASI) => {
                for (function, item) in instance.exports(engine) {
                    if let ComponentItem::ComponentFunc(ty) = item.ty {
                        let (interface, name) = (Some(name.to_owned()), function.to_owned());
                        functions.push(ExportedFunction { interface, name, ty });
                    }
                }
            }
            _ => {}
        }
    }
    // Names that are made unique must not depend on the engine's order of exports.
    functions
        .sort_by(|one, other| (&one.interface, &one.name).cmp(&(&other.interface, &other.name)));
    functions
}

/// The resources that a component imports or exports, with their names.
fn resources(component: &Component, engine: &Engine) -> Vec<(String, ResourceType)> {
    let ty = component.component_type();
    let mut resources = Vec::new();
    for (name, item) in ty.imports(engine).chain(ty.exports(engine)) {
        match item.ty {
            ComponentItem::Resource(ty) => resources.push((name.to_owned(), ty)),
            ComponentItem::ComponentInstance(instance) => {
                for (name, item) in instance.exports(engine) {
                    if let ComponentItem::Resource(ty) = item.ty {
                        resources.push((name.to_owned(), ty));
                    }
                }
            }
            _ => {}
        }
    }
    resources
}
