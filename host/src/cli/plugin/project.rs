//! Generates the files of a new plugin's project.
//!
//! Most files are templates, with one source file for each role. The files that depend on the choice of roles are
//! generated here. The plugin interface and the SDK are embedded in this program, so that a project matches the
//! gateway of the same build and needs no registry for either.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;

use super::standalone;

include!(concat!(env!("OUT_DIR"), "/authors_files.rs"));

/// The manifest of the SDK's workspace, from which its packages inherit.
const SDK_WORKSPACE: &str = include_str!("../../../../plugins/Cargo.toml");

/// The lock file with which the bundled plugins were built. Cargo drops the entries that a project does not use.
const SDK_LOCK: &str = include_str!("../../../../plugins/Cargo.lock");

/// The SDK's folder in a project. From there it finds the interface at `../../wit`, as in its own repository.
const SDK_FOLDER: &str = "vendor/wardgate-sdk";

/// The language of a plugin's source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Language {
    Rust,
    Js,
    Python,
}

/// A role of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(super) enum Role {
    /// Verifies that a request comes from its claimed sender
    Verifier,
    /// Maps a payload to the parameters of a run
    PayloadMapper,
    /// Gets one value from a finished task
    ResponseGetter,
    /// Formats the answer for the provider and delivers it
    Replier,
    /// Provides tools for agents
    Toolbox,
    /// Describes and checks the plugin's settings
    About,
}

/// A plugin project to generate.
#[derive(Debug)]
pub(super) struct Project<'a> {
    pub(super) name: &'a str,
    pub(super) language: Language,
    pub(super) roles: BTreeSet<Role>,
}

/// The version of the plugin interface that this program supports.
const VERSION: &str = env!("PLUGIN_INTERFACE_VERSION");

/// The full name of an interface in the plugin interface's package.
macro_rules! interface {
    ($name:literal) => {
        concat!("wardgate:plugin/", $name, "@", env!("PLUGIN_INTERFACE_VERSION"))
    };
}

/// What a plugin can import besides what its language needs, with a description.
const IMPORTS: [(&str, &str); 9] = [
    (interface!("request"), "The request that a call is about."),
    (interface!("task"), "The task that a call is about, once there is one."),
    (interface!("context"), "What the gateway knows about a call: tenant, deadline, channel."),
    (interface!("secrets"), "Secrets, to compare and to sign with."),
    (interface!("egress"), "Outgoing HTTP."),
    ("wasi:config/store@0.2.0-rc.1", "Settings."),
    ("wasi:logging/logging@0.1.0-draft", "Log lines, kept with the task."),
    ("wasi:keyvalue/store@0.2.0-draft", "Values that outlive a call."),
    ("wasi:keyvalue/atomics@0.2.0-draft", "Counters that outlive a call."),
];

impl Language {
    /// The folder of the language's templates.
    fn folder(self) -> &'static str {
        match self {
            Self::Rust => "rust/",
            Self::Js => "js/",
            Self::Python => "python/",
        }
    }
}

impl Role {
    /// The role's name in the plugin interface.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Verifier => "verifier",
            Self::PayloadMapper => "payload-mapper",
            Self::ResponseGetter => "response-getter",
            Self::Replier => "replier",
            Self::Toolbox => "toolbox",
            Self::About => "about",
        }
    }

    fn named(name: &str) -> Option<Self> {
        use clap::ValueEnum as _;
        Self::value_variants().iter().copied().find(|role| role.name() == name)
    }

    /// The name as in `PayloadMapper`.
    fn in_pascal_case(self) -> String {
        let capital = |word: &str| {
            let mut characters = word.chars();
            let first = characters.next().map(|first| first.to_ascii_uppercase());
            first.into_iter().chain(characters).collect::<String>()
        };
        self.name().split('-').map(capital).collect()
    }

    /// The name as in `payloadMapper`.
    fn in_camel_case(self) -> String {
        let mut name = self.in_pascal_case();
        if let Some(first) = name.get_mut(..1) {
            first.make_ascii_lowercase();
        }
        name
    }

    /// The name as in `payload_mapper`.
    fn in_snake_case(self) -> String {
        self.name().replace('-', "_")
    }

    /// What the role's example imports, as substrings of the names in [`IMPORTS`].
    fn imports(self) -> &'static [&'static str] {
        match self {
            Self::Verifier => &["/request@", "/secrets@"],
            Self::PayloadMapper => &["/request@"],
            Self::ResponseGetter => &["/task@"],
            Self::Replier => &["/task@", "/egress@", "wasi:config/"],
            Self::Toolbox | Self::About => &[],
        }
    }
}

impl Project<'_> {
    /// The path of the built component within the project.
    pub(super) fn component(&self) -> String {
        match self.language {
            Language::Rust => {
                format!("target/wasm32-wasip2/release/{}.wasm", self.name.replace('-', "_"))
            }
            Language::Js | Language::Python => format!("{}.wasm", self.name),
        }
    }

    /// The command that builds the component.
    pub(super) fn build_command(&self) -> String {
        match self.language {
            Language::Rust => "cargo build --release --target wasm32-wasip2".to_owned(),
            Language::Js => "npm install && npm run build".to_owned(),
            Language::Python => format!(
                "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt\n  \
                 .venv/bin/componentize-py --wit-path wit --world plugin componentize app --python-path src \
                 --output {}",
                self.component()
            ),
        }
    }

    /// The roles' names in the plugin interface, separated by commas.
    pub(super) fn role_names(&self) -> String {
        self.roles.iter().map(|role| role.name()).collect::<Vec<_>>().join(", ")
    }

    /// The files of the project, by their paths within it.
    ///
    /// # Errors
    /// If this program was built from inconsistent sources.
    pub(super) fn files(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let mut files = BTreeMap::new();
        for (path, text) in TEMPLATES {
            if let Some(path) = self.output_path(path) {
                files.insert(path, self.filled_in(text));
            }
        }
        let (path, text) = self.entry();
        files.insert(path.to_owned(), text);
        files.insert("grants.toml".to_owned(), self.grants());
        let of_interface = match self.language {
            Language::Rust => "",
            Language::Js | Language::Python => "deps/wardgate-plugin/",
        };
        for (path, text) in WIT.iter().filter(|(path, _)| path.ends_with(".wit")) {
            let folder = if path.starts_with("deps/") { "" } else { of_interface };
            files.insert(format!("wit/{folder}{path}"), (*text).to_owned());
        }
        if self.language == Language::Rust {
            for (path, text) in SDK {
                files.insert(format!("{SDK_FOLDER}/{path}"), (*text).to_owned());
            }
            let manifest = files.get_mut(&format!("{SDK_FOLDER}/Cargo.toml"));
            let manifest = manifest.context("the SDK has no manifest")?;
            *manifest = standalone::manifest(manifest, SDK_WORKSPACE)?;
            files.insert("Cargo.lock".to_owned(), SDK_LOCK.to_owned());
        } else {
            files.insert("wit/world.wit".to_owned(), self.world());
        }
        Ok(files)
    }

    /// The path of a template's file in the project. None if the template is for another language or role.
    fn output_path(&self, template: &str) -> Option<String> {
        if let Some(fixture) = template.strip_prefix("fixtures/") {
            let (role, file) = fixture.split_once('/')?;
            return self.roles.contains(&Role::named(role)?).then(|| format!("fixtures/{file}"));
        }
        let file = template.strip_prefix(self.language.folder())?;
        if file == "gitignore" {
            return Some(".gitignore".to_owned());
        }
        let stem = file.strip_prefix("src/").and_then(|name| name.split_once('.'));
        let role = stem.and_then(|(stem, _)| Role::named(&stem.replace('_', "-")));
        role.is_none_or(|role| self.roles.contains(&role)).then(|| file.to_owned())
    }

    fn filled_in(&self, template: &str) -> String {
        template
            .replace("{{name}}", self.name)
            .replace("{{roles}}", &self.role_names())
            .replace("{{component}}", &self.component())
            .replace("{{interface-version}}", VERSION)
    }

    /// The path and text of the file that exports the roles, in the order that formatters want.
    fn entry(&self) -> (&'static str, String) {
        let mut roles: Vec<_> = self.roles.iter().collect();
        roles.sort_by_key(|role| role.name());
        let roles = roles.into_iter();
        match self.language {
            Language::Rust => {
                let mods = roles.map(|role| format!("mod {};\n", role.in_snake_case()));
                let doc =
                    "//! A Wardgate plugin: each module is one of its roles and exports it.\n\n";
                ("src/lib.rs", doc.to_owned() + &mods.collect::<String>())
            }
            Language::Js => {
                let exports = roles.map(|role| {
                    format!(
                        "export {{ {} }} from \"./{}.js\";\n",
                        role.in_camel_case(),
                        role.name()
                    )
                });
                let doc = "// A Wardgate plugin: each export is one of its roles, as wit/world.wit names them.\n\n";
                ("src/plugin.js", doc.to_owned() + &exports.collect::<String>())
            }
            Language::Python => {
                let imports = roles.map(|role| {
                    let class = role.in_pascal_case();
                    format!("from {} import {class} as {class}\n", role.in_snake_case())
                });
                let doc = "\"\"\"A Wardgate plugin: each class is one of its roles, as wit/world.wit names them.\"\"\"\n\n";
                ("src/app.py", doc.to_owned() + &imports.collect::<String>())
            }
        }
    }

    /// The WIT world for a language whose tools import everything that a world names, used or not. Imports that the
    /// examples do not use are commented out.
    fn world(&self) -> String {
        let mut world = "// What the plugin imports and exports. All that is imported here is asked for, used or not, so import\n\
                         // what you use and nothing else.\npackage local:plugin;\n\nworld plugin {\n"
            .to_owned();
        for (import, about) in IMPORTS {
            let used = |role: &Role| role.imports().iter().any(|word| import.contains(word));
            let slashes = if self.roles.iter().any(used) { "" } else { "// " };
            world.push_str(&format!("    // {about}\n    {slashes}import {import};\n"));
        }
        world.push('\n');
        for role in &self.roles {
            world.push_str(&format!("    export wardgate:plugin/{}@{VERSION};\n", role.name()));
        }
        world.push_str("}\n");
        world
    }

    /// The grants file that an operator is asked to approve.
    fn grants(&self) -> String {
        let part = |name: &str| {
            let file = format!("grants/{name}.toml");
            TEMPLATES.iter().find(|(path, _)| *path == file).map(|(_, text)| self.filled_in(text))
        };
        let parts = self.roles.iter().filter_map(|role| part(role.name()));
        part("header").into_iter().chain(parts).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum as _;

    fn files(language: Language, roles: &[Role]) -> BTreeMap<String, String> {
        let roles = roles.iter().copied().collect();
        Project { name: "order-desk", language, roles }.files().unwrap()
    }

    #[test]
    fn each_role_has_an_example_and_golden_cases_in_each_language() {
        for &language in Language::value_variants() {
            let without_role = files(language, &[]);
            for &role in Role::value_variants() {
                let mut added = files(language, &[role]);
                added.retain(|path, _| !without_role.contains_key(path));
                let count =
                    |folder: &str| added.keys().filter(|path| path.starts_with(folder)).count();
                assert_eq!(count("src/"), 1, "{language:?} {role:?}");
                assert!(count("fixtures/") > 0, "{language:?} {role:?}");
                assert_eq!(count(""), count("src/") + count("fixtures/"), "{language:?} {role:?}");
            }
        }
    }

    #[test]
    fn every_template_is_used_and_filled_in() {
        let mut used = BTreeSet::new();
        for &language in Language::value_variants() {
            let roles: BTreeSet<_> = Role::value_variants().iter().copied().collect();
            let project = Project { name: "order-desk", language, roles };
            let placed = TEMPLATES.iter().filter(|(path, _)| project.output_path(path).is_some());
            used.extend(placed.map(|(path, _)| *path));
            for (path, text) in project.files().unwrap() {
                assert!(path.starts_with("vendor/") || !text.contains("{{"), "{path}");
            }
        }
        let unused = |path: &&str| !used.contains(path) && !path.starts_with("grants/");
        assert_eq!(TEMPLATES.iter().map(|(path, _)| *path).find(unused), None);
    }

    #[test]
    fn templates_speak_of_the_interface_as_it_is() {
        let project = files(Language::Js, Role::value_variants());
        let own = project.iter().filter(|(path, _)| !path.starts_with("wit/deps/"));
        for (path, text) in own {
            for named in text.split("wardgate:plugin/").skip(1) {
                let (_, named) = named.split_once('@').unwrap();
                assert!(named.starts_with(VERSION), "{path} names another version than {VERSION}");
            }
        }
    }

    #[test]
    fn only_what_the_examples_use_is_imported() {
        let world = &files(Language::Python, &[Role::PayloadMapper])["wit/world.wit"];
        let lines = |word| world.lines().filter(move |line| line.trim().starts_with(word));
        let imports: Vec<_> = lines("import ").map(str::trim).collect();
        assert_eq!(imports, [concat!("import ", interface!("request"), ";")]);
        assert_eq!(lines("// import ").count(), IMPORTS.len() - 1);
        let exports: Vec<_> = lines("export ").map(str::trim).collect();
        assert_eq!(exports, [concat!("export ", interface!("payload-mapper"), ";")]);
    }
}
