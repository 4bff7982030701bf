//! A tool `settings` that returns the settings that `names` lists, and all settings.

use guests::Failure;
use guests::sdk::config;
use serde_json::json;

guests::tool!("settings", |arguments| {
    let unreadable = |_: config::Error| Failure::new("unreadable", "the settings cannot be read");
    let names = arguments["names"].as_array().into_iter().flatten();
    let named = names.map(|name| config::get(name.as_str().unwrap_or_default()));
    let named = named.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    let all = config::get_all().map_err(unreadable)?;
    Ok(json!({"named": named, "all": all}).to_string())
});
