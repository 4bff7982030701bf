//! An operator's grants apply to a component, not to a name: a component that a tenant's admin installs under the
//! plugin's name does not get them unless the grants file says so.

use serde_json::{Value, json};
use sqlx::{ConnectOptions as _, Connection as _};
use wardgate::tenants::KeyHolder;

use super::{
    command, digest, frozen, guest, home, installation_form, supply_file, versioned, versions,
    write,
};
use crate::support::web::Web;
use crate::support::{Client, Gateway, Setup};

/// Every grant that a file can contain.
fn all_grants(web: &Web, folder: &std::path::Path) -> String {
    format!(
        "[[egress]]\nhost = \"127.0.0.1\"\nscheme = \"http\"\nport = {}\nnetworks = [\"127.0.0.0/8\"]\n\
         credentials = [\"api\"]\n[credentials.api]\nsecret = \"webhook\"\nheader = \"x-key\"\n\
         [secrets]\nsigning = {{ secret = \"webhook\", use = [\"sign\", \"verify\"] }}\n[settings]\ngreeting = \"hello\"\n\
         [key-value]\nbytes = 4096\n[folder]\npath = \"{}\"\naccess = \"read-write\"\n\
         [limits]\ntool_cpu_ms = 10000\n",
        web.port,
        folder.display()
    )
}

/// A key of the tenant's admin.
async fn admin_key(gateway: &Gateway) -> String {
    gateway.new_key(KeyHolder::Admin(gateway.tenant)).await
}

/// Installs a component with this key, and returns the notes in the response.
async fn install(gateway: &Gateway, key: &str, name: &str, component: Vec<u8>) -> Vec<String> {
    let target = format!("/admin/tenants/{}/plugins/{name}", gateway.tenant);
    let put = gateway.request("PUT", &target).key(key).multipart(installation_form(component, &[]));
    notes(&put.expect(200).await.json())
}

fn notes(answer: &Value) -> Vec<String> {
    serde_json::from_value(answer["notes"].clone()).unwrap()
}

async fn put_grants(gateway: &Gateway, name: &str, grants: &str) -> String {
    let put = gateway.admin_request("PUT", &format!("/plugins/{name}/grants"));
    put.text("application/toml", grants.to_owned()).expect(200).await.text
}

/// The plugin's setting `greeting`, which shows whether its grants are in force.
async fn greeting(gateway: &Gateway, name: &str) -> Option<String> {
    let plugins = &gateway.services.plugins;
    let binding = plugins.binding(gateway.tenant, &name.parse().unwrap()).await.unwrap();
    binding.settings().get("greeting").cloned()
}

/// The note about grants that are not in force.
fn withheld_grants_note(notes: &[String]) -> &str {
    notes
        .iter()
        .find(|note| note.contains("is not in force"))
        .unwrap_or_else(|| panic!("{notes:?}"))
}

/// An agent whose only plugin has this name.
async fn agent(gateway: &Gateway, name: &str) -> Client {
    let change = |agent: &mut wardgate::tenants::AgentDefinition| {
        agent.tools = vec![name.parse().unwrap()];
        agent.allow_destructive_tools = true;
    };
    gateway.agent_with(change).await
}

async fn tool_result(agent: &Client, tool: &str, arguments: &Value) -> Value {
    let answer = agent.ask(json!({"prompt": format!("{tool} {arguments}")})).await;
    answer.report()["tools"][0]["result"].clone()
}

const GREETING: &str = "[settings]\ngreeting = \"hello\"\n";

#[tokio::test]
async fn nothing_that_an_operator_granted_reaches_what_an_admin_installs_under_the_name() {
    let (gateway, web) = (Gateway::start().await, Web::serve_egress_targets().await);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.txt"), "for the plugin").unwrap();
    gateway.store_secret("webhook", "s3cret-s3cret", false).await;
    let (admin, operator) = (admin_key(&gateway).await, gateway.operator_key());
    let grants = all_grants(&web, folder.path());
    install(&gateway, &operator, "hook", guest("ignores")).await;
    assert_eq!(put_grants(&gateway, "hook", &grants).await, grants);
    let url = format!("http://127.0.0.1:{}/open/hello", web.port);
    let secret = json!({"name": "signing", "algorithm": "sha256", "message": "", "presented": ""});
    let agent = agent(&gateway, "hook").await;
    for (component, tool, arguments, place, denied, allowed) in [
        ("calls_egress", "fetch", json!({"url": url}), "/code", json!("forbidden"), Value::Null),
        (
            "calls_egress",
            "fetch",
            json!({"url": url, "credential": "api"}),
            "/code",
            json!("forbidden"),
            Value::Null,
        ),
        ("uses_secrets", "secret", secret, "/code", json!("forbidden"), Value::Null),
        (
            "opens_files",
            "files",
            json!({"do": "read", "path": "/data/a.txt"}),
            "/ok",
            Value::Null,
            json!("for the plugin"),
        ),
        (
            "keeps_values",
            "values",
            json!({"do": [["set", "a", "b"], ["get", "a"]]}),
            "/error",
            json!("access-denied"),
            Value::Null,
        ),
        (
            "reads_settings",
            "settings",
            json!({"names": ["greeting"]}),
            "/named/0",
            Value::Null,
            json!("hello"),
        ),
    ] {
        let at = async || {
            let actual = tool_result(&agent, tool, &arguments).await;
            assert!(actual.is_object() || actual.is_array(), "{component}: {actual}");
            actual.pointer(place).cloned().unwrap_or_default()
        };
        // A component that no operator ever installed.
        let hostile = versioned(&guest(component), &format!("of the admin, {}", arguments));
        let printed = install(&gateway, &admin, "hook", hostile.clone()).await;
        assert_eq!(at().await, denied, "{component}: denied");
        let why = withheld_grants_note(&printed);
        for part in [
            "[[egress]] (1), [credentials] api, [secrets] signing, [settings] greeting, [key-value], [folder], [limits]",
            "an admin of the tenant installed",
            &format!("component = \"{}\"", digest(&hostile)),
            "hook.toml",
        ] {
            assert!(why.contains(part), "{part}: {why}");
        }
        let shown = gateway.admin_request("GET", "/plugins/hook").expect(200).await.json();
        assert_eq!(withheld_grants_note(&notes(&shown)), why);
        // With the line that the note suggests, the grants are in force.
        let pinned = format!("component = \"{}\"\n{grants}", digest(&hostile));
        put_grants(&gateway, "hook", &pinned).await;
        assert_eq!(at().await, allowed, "{component}: allowed");
        put_grants(&gateway, "hook", &format!("component = \"{}\"\n{grants}", digest(b"none")))
            .await;
        assert_eq!(at().await, denied, "{component}: denied once more");
        // Restores the file by hand, because the gateway would bind it to the current component.
        gateway.write_grants("hook", &grants);
        gateway.reload_grants().await;
    }
}

#[tokio::test]
async fn a_bundled_plugins_grants_are_not_for_what_stands_before_it() {
    let (gateway, web) = (Gateway::start().await, Web::serve_egress_targets().await);
    let folder = tempfile::tempdir().unwrap();
    gateway.write_grants("http-fetch", &all_grants(&web, folder.path()));
    let url = json!({"url": format!("http://127.0.0.1:{}/open/hello", web.port)});
    let agent = agent(&gateway, "http-fetch").await;
    assert_eq!(tool_result(&agent, "http_fetch", &url).await["body"], "hello");
    let admin = admin_key(&gateway).await;
    let printed = install(&gateway, &admin, "http-fetch", guest("calls_egress")).await;
    assert!(withheld_grants_note(&printed).contains("http-fetch.toml"), "{printed:?}");
    let denied = tool_result(&agent, "fetch", &url).await;
    assert_eq!(denied["code"], "forbidden");
    let message = denied["message"].as_str().unwrap();
    assert!(message.contains("the plugin http-fetch, which are not in force"), "{message}");
    let target = format!("/admin/tenants/{}/plugins/http-fetch", gateway.tenant);
    gateway.request("DELETE", &target).key(&admin).expect(204).await;
    assert_eq!(
        tool_result(&agent, "http_fetch", &url).await["body"],
        "hello",
        "the bundled one again"
    );
}

#[tokio::test]
async fn what_operators_install_has_the_grants_and_is_told_so_and_so_it_is_after_a_rollback() {
    let gateway = Gateway::start().await;
    let (admin, operator) = (admin_key(&gateway).await, gateway.operator_key());
    let [first, second, theirs] =
        ["1", "2", "3"].map(|version| versioned(&guest("reads_settings"), version));
    assert_eq!(install(&gateway, &operator, "hook", first.clone()).await, Vec::<String>::new());
    put_grants(&gateway, "hook", GREETING).await;
    let printed = install(&gateway, &operator, "hook", second).await;
    assert!(
        printed[0].contains("it has what grants/") && printed[0].contains("[settings] greeting"),
        "{printed:?}"
    );
    assert_eq!(greeting(&gateway, "hook").await.as_deref(), Some("hello"));

    withheld_grants_note(&install(&gateway, &admin, "hook", theirs.clone()).await);
    assert_eq!(greeting(&gateway, "hook").await, None);
    let target = format!("/admin/tenants/{}/plugins/hook/rollback", gateway.tenant);
    let roll_back = async |to: Option<String>| {
        let call = gateway.request("POST", &target).key(&admin).json(&json!({"to": to}));
        notes(&call.expect(200).await.json())
    };
    let printed = roll_back(None).await;
    assert!(printed[0].contains("[settings] greeting"), "{printed:?}");
    assert_eq!(greeting(&gateway, "hook").await.as_deref(), Some("hello"));
    withheld_grants_note(&roll_back(Some(digest(&theirs))).await);
    assert_eq!(greeting(&gateway, "hook").await, None);

    // A component that an operator installed keeps the grants, even if an admin installs it again.
    let printed = install(&gateway, &admin, "hook", first.clone()).await;
    assert!(printed[0].contains("[settings] greeting"), "{printed:?}");
    assert_eq!(greeting(&gateway, "hook").await.as_deref(), Some("hello"));
    assert_eq!(versions(&gateway).await[0], format!("*{}", digest(&first)));
    // An admin's component gets the grants once an operator installs it.
    install(&gateway, &admin, "hook", theirs.clone()).await;
    assert_eq!(greeting(&gateway, "hook").await, None);
    install(&gateway, &operator, "hook", theirs).await;
    assert_eq!(greeting(&gateway, "hook").await.as_deref(), Some("hello"));
}

#[tokio::test]
async fn a_file_that_names_components_is_for_those_and_for_no_others_whoever_installs_them() {
    let gateway = Gateway::start().await;
    let keys = [admin_key(&gateway).await, gateway.operator_key()];
    let [one, two, other] =
        ["1", "2", "3"].map(|version| versioned(&guest("reads_settings"), version));
    let list = format!("component = [\"{}\", \"{}\"]\n{GREETING}", digest(&one), digest(&two));
    for (file, component, holds) in [
        (&list, &one, true),
        (&list, &two, true),
        (&list, &other, false),
        (&format!("component = \"any\"\n{GREETING}"), &other, true),
        (&format!("component = \"{}\"\n{GREETING}", digest(&one)), &two, false),
    ] {
        for key in &keys {
            gateway.write_grants("hook", file);
            let printed = install(&gateway, key, "hook", component.clone()).await;
            assert_eq!(greeting(&gateway, "hook").await.is_some(), holds, "{file}");
            match holds {
                true => assert!(printed[0].contains("it has what"), "{printed:?}"),
                false => assert!(
                    withheld_grants_note(&printed).contains(&digest(component)),
                    "{printed:?}"
                ),
            }
            gateway.admin_request("DELETE", "/plugins/hook").expect(204).await;
        }
    }
    // A file that names components does not apply to a bundled plugin either.
    gateway.write_grants("calculator", &list);
    assert_eq!(greeting(&gateway, "calculator").await, None);
}

#[tokio::test]
async fn a_file_that_names_a_signer_is_for_what_that_one_has_signed() {
    let key = |name: &str| supply_file(name).lines().nth(1).unwrap().to_owned();
    let pinned = |settings: &mut wardgate::settings::Settings| {
        settings.plugins.signers.insert("vendor".to_owned(), key("vendor.pub"));
        settings.plugins.signers.insert("other".to_owned(), key("other.pub"));
    };
    let gateway = Setup::new().settings(pinned).start().await;
    let admin = admin_key(&gateway).await;
    let file = format!("signer = \"vendor\"\n{GREETING}");
    gateway.write_grants("hook", &file);
    let target = format!("/admin/tenants/{}/plugins/hook", gateway.tenant);
    let install_signed = async |component: Vec<u8>, signature: &str| {
        let form = installation_form(component, &[("signature", &supply_file(signature))]);
        notes(&gateway.request("PUT", &target).key(&admin).multipart(form).expect(200).await.json())
    };
    let printed = install_signed(frozen(), "plugin.wasm.minisig").await;
    assert!(printed[0].contains("[settings] greeting"), "{printed:?}");
    assert_eq!(greeting(&gateway, "hook").await.as_deref(), Some("hello"));
    // Another version by the vendor, and the same component again without its signature.
    install_signed(versioned(&frozen(), "2.0.0"), "plugin-2.0.0.wasm.minisig").await;
    assert_eq!(greeting(&gateway, "hook").await.as_deref(), Some("hello"));
    install(&gateway, &admin, "hook", frozen()).await;
    assert_eq!(greeting(&gateway, "hook").await.as_deref(), Some("hello"));

    for key in [&admin, &gateway.operator_key()] {
        let printed =
            install(&gateway, key, "hook", versioned(&guest("reads_settings"), "unsigned")).await;
        assert!(withheld_grants_note(&printed).contains("vendor did not sign"), "{printed:?}");
        assert_eq!(greeting(&gateway, "hook").await, None);
        gateway.admin_request("DELETE", "/plugins/hook").expect(204).await;
    }
    let printed = install_signed(frozen(), "plugin.wasm.by-other.minisig").await;
    assert!(withheld_grants_note(&printed).contains("vendor did not sign"), "{printed:?}");
    // If the file has both lines, both must match.
    let both = format!("component = \"{}\"\n{file}", digest(&frozen()));
    put_grants(&gateway, "hook", &both).await;
    assert_eq!(greeting(&gateway, "hook").await, None);
    let put =
        gateway.admin_request("PUT", "/plugins/hook/grants").body(file.replace("vendor", "nobody"));
    assert!(put.expect(422).await.detail().contains("plugins.signers"), "an unknown signer");
}

#[tokio::test]
async fn grants_that_are_put_have_to_say_that_they_are_for_what_an_admin_installed() {
    let gateway = Gateway::start().await;
    let admin = admin_key(&gateway).await;
    let [first, second] = ["1", "2"].map(|version| versioned(&guest("reads_settings"), version));
    install(&gateway, &admin, "hook", first.clone()).await;
    // An operator who sends the same file again may not know that an admin has since installed another component.
    let put =
        gateway.admin_request("PUT", "/plugins/hook/grants").text("application/toml", GREETING);
    let refused = put.expect(422).await;
    let line = format!("component = \"{}\"", digest(&first));
    assert!(refused.detail().contains(&line), "{}", refused.text);
    assert_eq!(gateway.admin_request("GET", "/plugins/hook/grants").expect(200).await.text, "");
    assert_eq!(greeting(&gateway, "hook").await, None);
    put_grants(&gateway, "hook", &format!("{line}\n{GREETING}")).await;
    assert_eq!(greeting(&gateway, "hook").await.as_deref(), Some("hello"));
    withheld_grants_note(&install(&gateway, &admin, "hook", second).await);
    assert_eq!(greeting(&gateway, "hook").await, None);
    // A file that names its components is stored unchanged.
    let any = format!("component = \"any\"\n{GREETING}");
    assert_eq!(put_grants(&gateway, "hook", &any).await, any);
}

#[tokio::test]
async fn what_a_file_takes_away_holds_for_every_component() {
    let gateway = Gateway::start().await;
    let admin = admin_key(&gateway).await;
    gateway
        .write_grants("hook", "clocks = \"frozen\"\nrandom = \"fixed\"\n[settings]\na = \"b\"\n");
    withheld_grants_note(&install(&gateway, &admin, "hook", guest("tells_time")).await);
    let agent = agent(&gateway, "hook").await;
    let first = tool_result(&agent, "time", &json!({})).await;
    let second = tool_result(&agent, "time", &json!({})).await;
    assert_eq!((&first["passed"], &first["random"]), (&json!(0), &second["random"]));
    // A file without grants has nothing to withhold, so there is no note.
    gateway.write_grants("hook", "clocks = \"frozen\"\n[limits]\nmemory_mib = 16\n");
    let printed = install(&gateway, &admin, "hook", versioned(&guest("tells_time"), "2")).await;
    assert_eq!(printed, Vec::<String>::new());
}

#[tokio::test]
async fn what_was_installed_before_it_was_written_down_by_whom_has_no_grants_until_an_operator_says_so()
 {
    let gateway = Gateway::start().await;
    install(&gateway, &gateway.operator_key(), "hook", guest("reads_settings")).await;
    put_grants(&gateway, "hook", GREETING).await;
    assert!(greeting(&gateway, "hook").await.is_some());
    let home = gateway.stop().await;
    let options =
        sqlx::sqlite::SqliteConnectOptions::new().filename(home.path().join("wardgate.db"));
    let mut database = options.connect().await.unwrap();
    sqlx::query("UPDATE plugin_versions SET installed_by = NULL")
        .execute(&mut database)
        .await
        .unwrap();
    database.close().await.unwrap();

    let gateway = Setup::new().home(home).start().await;
    assert_eq!(greeting(&gateway, "hook").await, None);
    let shown = gateway.admin_request("GET", "/plugins/hook").expect(200).await.json();
    assert!(
        withheld_grants_note(&notes(&shown)).contains("before it was written down by whom"),
        "{shown}"
    );
    let line = format!("component = \"{}\"", digest(&guest("reads_settings")));
    put_grants(&gateway, "hook", &format!("{line}\n{GREETING}")).await;
    assert!(greeting(&gateway, "hook").await.is_some());
}

#[test]
fn the_commands_say_where_grants_are_in_force() {
    let home = home();
    let plugin = write(&home, "hook.wasm", &guest("reads_settings"));
    let inspect = |file: &str| {
        let grants = write(&home, "grants.toml", file.as_bytes());
        let arguments = ["plugin", "inspect", plugin.as_str(), "--grants", grants.as_str()];
        let output = crate::support::wardgate(&arguments);
        String::from_utf8(output.stdout).unwrap()
    };
    let line = format!("component = \"{}\"", digest(&guest("reads_settings")));
    for (file, says) in [
        (GREETING.to_owned(), format!("where a tenant's admin does, with the line {line}")),
        (format!("{line}\n{GREETING}"), "in force for this component, which they name".to_owned()),
        (
            format!("component = \"{}\"\n", digest(b"")),
            format!("not in force for this component: they name another one, not {line}"),
        ),
        (
            "component = \"any\"\n".to_owned(),
            "in force for any component of the plugin's name".to_owned(),
        ),
        (
            "signer = \"vendor\"\n".to_owned(),
            "in force, where the signer vendor has signed it".to_owned(),
        ),
    ] {
        let printed = inspect(&file);
        assert!(printed.contains("grants:\n  ") && printed.contains(&says), "{file}: {printed}");
    }
    // A command on the data folder installs as an operator.
    let grants = write(&home, "grants.toml", GREETING.as_bytes());
    command(&home, &["plugin", "install", &plugin, "--grants", &grants]);
    let printed = command(&home, &["plugin", "install", &plugin]);
    assert!(
        printed.contains("note: it has what grants/") && printed.contains("[settings] greeting"),
        "{printed}"
    );
}
