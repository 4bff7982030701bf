//! `wardgate plugin try`: makes one call and prints its outcome.

use std::io::Read as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::super::print;
use super::harness::{cost, open};
use crate::fixture::{Case, distinct};
use crate::settings::Settings;

/// Largest body or file that is read, in bytes.
const INPUT_BYTES_MAX: u64 = 16 << 20;

/// See [`super::Plugin::Try`].
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Try {
    /// Component file, or the name of a bundled plugin.
    #[arg(value_name = "PLUGIN")]
    plugin: String,
    /// Function to call; optional with --case.
    ///
    /// One of verify, map-payload, get-value, reply, deliver, list-tools, call-tool, config-schema and check-config.
    #[arg(value_name = "CALL", required_unless_present = "case")]
    call: Option<String>,
    /// Golden case to start from; other arguments override its fields.
    #[arg(long, value_name = "FILE")]
    case: Option<PathBuf>,
    /// File with the request's body; `-` reads it from standard input.
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// Request header, `name: value`; can be repeated.
    #[arg(long = "header", short = 'H', value_name = "HEADER")]
    headers: Vec<String>,
    /// Request method.
    #[arg(long)]
    method: Option<String>,
    /// Request query, without `?`.
    #[arg(long)]
    query: Option<String>,
    /// Mapping, as in `params_mapping`, for map-payload.
    #[arg(long, value_name = "JSON")]
    spec: Option<String>,
    /// Path of the value, as in `getter`, for get-value.
    #[arg(long)]
    path: Option<String>,
    /// JSON file with the task, for get-value, reply and deliver.
    #[arg(long, value_name = "FILE")]
    task: Option<PathBuf>,
    /// Tool to call, for call-tool.
    #[arg(long)]
    tool: Option<String>,
    /// Arguments of the tool, or the settings for check-config.
    #[arg(long, value_name = "JSON")]
    arguments: Option<String>,
    /// Setting, `name=value`; can be repeated.
    // Its id differs from that of the global option `--settings`: clap treats equal ids as one argument.
    #[arg(long = "setting", id = "setting", value_name = "SETTING")]
    settings: Vec<String>,
    /// Secret, `name=FILE`; can be repeated.
    ///
    /// The value is read from a file, which keeps it out of the shell's history.
    #[arg(long = "secret", value_name = "SECRET")]
    secrets: Vec<String>,
    /// Grants file (TOML) of the plugin.
    ///
    /// Its egress rules allow requests to the real network. Without egress rules, nothing is sent.
    #[arg(long, value_name = "FILE")]
    grants: Option<PathBuf>,
}

impl Try {
    pub(super) async fn execute(self, settings: &Settings) -> anyhow::Result<()> {
        let case = self.case()?;
        let (harness, binding) = open(&self.plugin, self.grants.as_deref(), settings).await?;
        // Egress answers, a time or values in the case replace the outside world. Without them, the call uses the
        // real one.
        let scripted = !case.egress.is_empty() || case.now.is_some() || !case.values.is_empty();
        let ran = if scripted {
            harness.run_scripted(&binding, &case).await?
        } else {
            harness.run_case(&binding, &case, None).await?
        };
        let logs = ran.logs.iter().map(|line| format!("log: {line}\n")).collect::<String>();
        let differences = ran.differences(&case);
        let differs = differences.iter().map(|one| format!("\nnot as expected: {one}"));
        let differs = differs.collect::<String>();
        print(&format!("{logs}{:#}\n{}{differs}", ran.outcome, cost(ran.cost)))?;
        if ran.outcome.get("ok").is_none() && case.expect.is_none() {
            bail!("the call gave no value");
        }
        if !differences.is_empty() {
            bail!("what came is not what the case expects");
        }
        Ok(())
    }

    /// The case that the arguments describe.
    fn case(&self) -> anyhow::Result<Case> {
        let mut case = match &self.case {
            Some(path) => {
                let text = read_input(path)?;
                serde_json::from_slice(&text).with_context(|| path.display().to_string())?
            }
            None => json!({}),
        };
        let fields = case.as_object_mut().context("the case is not a JSON object")?;
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                fields.insert(name.to_owned(), value);
            }
        };
        set("call", self.call.clone().map(Value::from));
        set("path", self.path.clone().map(Value::from));
        set("tool", self.tool.clone().map(Value::from));
        set("spec", self.spec.as_deref().map(|spec| parsed("--spec", spec)).transpose()?);
        let arguments = self.arguments.as_deref();
        let arguments = arguments.map(|text| parsed("--arguments", text)).transpose()?;
        let checks = self.call.as_deref() == Some("check-config");
        set(if checks { "config" } else { "arguments" }, arguments);
        if let Some(path) = &self.task {
            let task = serde_json::from_slice(&read_input(path)?);
            set("task", Some(task.with_context(|| path.display().to_string())?));
        }
        let request = self.request(fields.get("request"))?;
        if let Some(request) = request {
            fields.insert("request".to_owned(), request);
        }
        extend(fields, "settings", pairs(&self.settings)?.into_iter())?;
        let secrets = pairs(&self.secrets)?.into_iter().map(|(name, file)| {
            let text = String::from_utf8(read_input(&PathBuf::from(file))?);
            let text = text.with_context(|| format!("the secret {name} is not UTF-8"))?;
            Ok((name, text.trim_end_matches(['\r', '\n']).to_owned()))
        });
        let secrets = secrets.collect::<anyhow::Result<Vec<_>>>()?;
        extend(fields, "secrets", secrets.into_iter())?;
        Ok(Case::parse(&case.to_string())?)
    }

    fn request(&self, before: Option<&Value>) -> anyhow::Result<Option<Value>> {
        let has_no_overrides = self.body.is_none()
            && self.headers.is_empty()
            && self.method.is_none()
            && self.query.is_none();
        if has_no_overrides {
            return Ok(None);
        }
        let mut request = before.cloned().unwrap_or_else(|| json!({}));
        let fields = request.as_object_mut().context("the case's request is not a JSON object")?;
        if let Some(path) = &self.body {
            let bytes = read_input(path)?;
            fields.remove("body");
            fields.insert("body_base64".to_owned(), STANDARD.encode(bytes).into());
        }
        if let Some(method) = &self.method {
            fields.insert("method".to_owned(), method.clone().into());
        }
        if let Some(query) = &self.query {
            fields.insert("query".to_owned(), query.clone().into());
        }
        let headers = self.headers.iter().map(|header| {
            let (name, value) = header
                .split_once(':')
                .with_context(|| format!("{header:?} is not a header: write `name: value`"))?;
            Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        });
        let headers = headers.collect::<anyhow::Result<Vec<_>>>()?;
        extend(fields, "headers", headers.into_iter())?;
        Ok(Some(request))
    }
}

fn extend(
    fields: &mut Map<String, Value>,
    name: &str,
    pairs: impl ExactSizeIterator<Item = (String, String)>,
) -> anyhow::Result<()> {
    if pairs.len() == 0 {
        return Ok(());
    }
    let object = fields.entry(name).or_insert_with(|| json!({}));
    let object = object.as_object_mut().with_context(|| format!("{name} is not a JSON object"))?;
    object.extend(pairs.map(|(name, value)| (name, value.into())));
    Ok(())
}

fn parsed(option: &str, text: &str) -> anyhow::Result<Value> {
    distinct::parse(text).with_context(|| format!("{option} is not taken"))
}

fn pairs(texts: &[String]) -> anyhow::Result<Vec<(String, String)>> {
    let pairs = texts.iter().map(|text| {
        let pair = text.split_once('=').with_context(|| format!("{text:?} lacks a ="))?;
        Ok((pair.0.to_owned(), pair.1.to_owned()))
    });
    pairs.collect()
}

fn read_input(path: &PathBuf) -> anyhow::Result<Vec<u8>> {
    let failed = || format!("cannot read {}", path.display());
    let mut bytes = Vec::new();
    if path.as_os_str() == "-" {
        std::io::stdin().take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    } else {
        let file = std::fs::File::open(path).with_context(failed)?;
        file.take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes).with_context(failed)?;
    }
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        bail!("{} is larger than 16 MiB", path.display());
    }
    Ok(bytes)
}
