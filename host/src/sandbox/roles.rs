//! The roles that a component exports and the grants that it asks for, read from its type without running it.

use wasmtime::Engine;
use wasmtime::component::{Component, InstancePre};

use super::LoadError;
use super::bindings::v0_1::exports::wardgate::plugin as exports;
use super::foreign::ForeignComponent;
use super::grants::ComponentImports;
use crate::sandbox::call::state::CallState;

/// The prefix of this package's interfaces.
const PACKAGE: &str = "wardgate:plugin/";

/// The version of the package that this host serves: that of `wit/`.
const VERSION: &str = env!("PLUGIN_INTERFACE_VERSION");

/// The export indices of each role's functions; `None` if the component does not have the role.
pub(super) struct Roles {
    pub(super) mapper: Option<exports::payload_mapper::GuestIndices>,
    pub(super) getter: Option<exports::response_getter::GuestIndices>,
    pub(super) toolbox: Option<exports::toolbox::GuestIndices>,
    pub(super) verifier: Option<exports::verifier::GuestIndices>,
    pub(super) replier: Option<exports::replier::GuestIndices>,
    pub(super) about: Option<exports::about::GuestIndices>,
    /// The functions of a component that has none of the roles, which become its tools.
    pub(super) foreign: Option<ForeignComponent>,
}

impl Roles {
    /// Looks up the roles. A component that exports nothing of the package is a toolbox of the functions that it
    /// exports.
    ///
    /// # Errors
    /// [`LoadError::NoRole`] if the component has no role of this version and no functions that can be tools. It
    /// names what was looked for and what was found.
    pub(super) fn from_instance(
        pre: &InstancePre<CallState>,
        engine: &Engine,
    ) -> Result<Self, LoadError> {
        let component = pre.component();
        let mut roles = Self {
            mapper: export_indices(
                pre,
                "payload-mapper",
                exports::payload_mapper::GuestIndices::new,
            ),
            getter: export_indices(
                pre,
                "response-getter",
                exports::response_getter::GuestIndices::new,
            ),
            toolbox: export_indices(pre, "toolbox", exports::toolbox::GuestIndices::new),
            verifier: export_indices(pre, "verifier", exports::verifier::GuestIndices::new),
            replier: export_indices(pre, "replier", exports::replier::GuestIndices::new),
            about: export_indices(pre, "about", exports::about::GuestIndices::new),
            foreign: None,
        };
        if !roles.names().is_empty() {
            return Ok(roles);
        }
        let ours = exported(component, engine);
        let missing = describe_missing(&ours);
        if let Some(what) = known_world(component, engine) {
            return Err(LoadError::NoRole(format!("{what}; {missing}")));
        }
        if ours.is_empty() {
            let foreign = ForeignComponent::from_component(component, engine);
            roles.foreign =
                foreign.map_err(|why| LoadError::NoRole(format!("{missing}; and {why}")))?;
        }
        if roles.foreign.is_some() { Ok(roles) } else { Err(LoadError::NoRole(missing)) }
    }

    pub(super) fn names(&self) -> Vec<&'static str> {
        [
            ("verifier", self.verifier.is_some()),
            ("payload-mapper", self.mapper.is_some()),
            ("response-getter", self.getter.is_some()),
            ("replier", self.replier.is_some()),
            ("toolbox", self.toolbox.is_some() || self.foreign.is_some()),
            ("about", self.about.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, has)| has.then_some(name))
        .collect()
    }
}

/// The export indices of a role's functions. Most components have one or two roles, so the export is looked up first:
/// `indices` alone would create an error for each missing role, and may capture a backtrace for it.
fn export_indices<I>(
    pre: &InstancePre<CallState>,
    interface: &str,
    indices: fn(&InstancePre<CallState>) -> wasmtime::Result<I>,
) -> Option<I> {
    let name = format!("{PACKAGE}{interface}@{VERSION}");
    pre.component().get_export_index(None, &name)?;
    indices(pre).ok()
}

/// What the component is, if it is made for another kind of host (a command line, an HTTP server). `None` if its
/// functions may be tools.
fn known_world(component: &Component, engine: &Engine) -> Option<&'static str> {
    let ty = component.component_type();
    let exports = |interface: &str| ty.exports(engine).any(|(name, _)| name.starts_with(interface));
    if exports("wasi:cli/run@") {
        return Some("it is a command (it exports wasi:cli/run), which has no functions to call");
    }
    if exports("wasi:http/incoming-handler@") {
        return Some(
            "it is an HTTP server (it exports wasi:http/incoming-handler), which waits for requests of its own",
        );
    }
    None
}

fn describe_missing(ours: &[String]) -> String {
    let looked_for = "verifier, payload-mapper, response-getter, replier, toolbox, about";
    if ours.is_empty() {
        format!("it exports none of the roles of {PACKAGE}*@{VERSION}: {looked_for}")
    } else {
        let exported = ours.join(", ");
        format!("it exports {exported}, but this gateway serves {PACKAGE}*@{VERSION}")
    }
}

/// The grants that the component asks for, from the names of its imports.
pub(super) fn component_imports(component: &Component, engine: &Engine) -> ComponentImports {
    let ty = component.component_type();
    let mut imports = ComponentImports::default();
    for (name, _) in ty.imports(engine) {
        imports.egress |= name.starts_with("wardgate:plugin/egress@")
            || name.starts_with("wasi:http/outgoing-handler@");
        imports.secrets |= name.starts_with("wardgate:plugin/secrets@");
        imports.settings |= name.starts_with("wasi:config/store@");
        imports.values |= name.starts_with("wasi:keyvalue/");
        imports.folder |= name.starts_with("wasi:filesystem/");
    }
    imports
}

/// The names of the package's interfaces that the component exports, in any version.
fn exported(component: &Component, engine: &Engine) -> Vec<String> {
    let ty = component.component_type();
    let names = ty.exports(engine).map(|(name, _)| name);
    names.filter(|name| name.starts_with(PACKAGE)).map(str::to_owned).collect()
}
