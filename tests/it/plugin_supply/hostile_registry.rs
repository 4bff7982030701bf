//! A registry is not trusted. Whatever it sends, the command ends with an error message, nothing is installed, and no
//! request goes to a host that the operator did not intend.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::header::{LOCATION, WWW_AUTHENTICATE};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse as _;
use serde_json::json;

use super::{command, command_error, digest, guest, home, stored_components};
use crate::support::Home;
use crate::support::oci_registry::{BASIC, OciRegistry, RegistryAuth, USER};
use crate::support::web::ClosedPort;

/// A registry with the guest `ignores` as `a/hook:1`, and a data folder.
async fn set_up() -> (Home, OciRegistry) {
    let registry = OciRegistry::start(RegistryAuth::None).await;
    registry.put("a/hook:1", &guest("ignores"), |_| {});
    (home(), registry)
}

/// A change to a manifest.
type Change<'c> = &'c dyn Fn(&mut serde_json::Value);

const MANIFEST: &str = "/v2/a/hook/manifests/1";

fn blob() -> String {
    format!("/v2/a/hook/blobs/{}", digest(&guest("ignores")))
}

/// Tries to install `a/hook:1`, which must be refused; returns the error message.
fn refused(home: &Home, registry: &OciRegistry) -> String {
    refused_as(home, registry, ":1", &[])
}

fn refused_as(home: &Home, registry: &OciRegistry, version: &str, more: &[&str]) -> String {
    let reference = format!("oci://{}/a/hook{version}", registry.host());
    let began = Instant::now();
    let message = command_error(home, &[&["plugin", "install", &reference], more].concat());
    assert!(began.elapsed() < Duration::from_secs(50), "it took {:?}", began.elapsed());
    assert!(stored_components(home).is_empty(), "a component was kept");
    assert!(!command(home, &["plugin", "list"]).contains("sha256"), "it was installed");
    message
}

/// An endless body without a declared length.
fn endless() -> Response<Body> {
    let parts =
        futures::stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from(vec![b' '; 65_536])));
    Body::from_stream(parts).into_response()
}

fn redirect(to: &str) -> Response<Body> {
    (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, to.to_owned())]).into_response()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_manifest_than_the_one_that_was_named_is_refused() {
    let (home, registry) = set_up().await;
    let other = registry.put("a/hook:2", &guest("replies_now"), |_| {});
    let text = registry.manifest("a/hook:1").to_string();
    let named = digest(b"what somebody has looked at");
    registry.override_response(&format!("/v2/a/hook/manifests/{named}"), move || {
        text.clone().into_response()
    });
    let message = refused_as(&home, &registry, &format!("@{named}"), &[]);
    assert!(message.contains(&named) && message.contains("was changed"), "{message}");
    // Nor may it declare a digest that differs from that of the manifest it sends.
    let text = registry.manifest("a/hook:1").to_string();
    let result = other.clone();
    registry.override_response(MANIFEST, move || {
        ([("docker-content-digest", result.clone())], text.clone()).into_response()
    });
    let message = refused(&home, &registry);
    assert!(message.contains(&other) && message.contains("was changed"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_component_than_the_manifests_is_refused() {
    let (home, registry) = set_up().await;
    let component = guest("ignores");
    let mut changed = component.clone();
    *changed.last_mut().unwrap() ^= 1;
    let shorter = component[..component.len() - 1].to_vec();
    let longer = [component.as_slice(), b"x"].concat();
    for (body, reason) in [
        (changed, "was changed"),
        (shorter, "bytes and not"),
        (longer, "longer than"),
        (Vec::new(), "bytes and not"),
    ] {
        registry.override_response(&blob(), move || body.clone().into_response());
        let message = refused(&home, &registry);
        assert!(message.contains(reason), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_end_is_not_read_to_it() {
    let (home, registry) = set_up().await;
    registry.override_response(&blob(), endless);
    assert!(refused(&home, &registry).contains("longer than"));
    registry.override_response(MANIFEST, endless);
    assert!(refused(&home, &registry).contains("longer than"));
    // For an endless error body, the status is still reported.
    registry.override_response(MANIFEST, || {
        let mut answer = endless();
        *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        answer
    });
    assert!(refused(&home, &registry).contains("500"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_is_none_of_a_component_is_refused() {
    let (home, registry) = set_up().await;
    let component = guest("ignores");
    let layers = |manifest: &mut serde_json::Value, count: usize| {
        manifest["layers"] = vec![manifest["layers"][0].clone(); count].into();
    };
    let cases: [(&str, Change<'_>); 9] = [
        ("1000 layers", &|manifest| layers(manifest, 1_000)),
        ("0 layers", &|manifest| layers(manifest, 0)),
        ("larger than 64 MiB", &|manifest| manifest["layers"][0]["size"] = json!(1_u64 << 40)),
        ("longer than", &|manifest| manifest["layers"][0]["size"] = json!(1)),
        ("config and layers", &|manifest| manifest["layers"][0]["size"] = json!(-1)),
        ("64 hex digits", &|manifest| manifest["layers"][0]["digest"] = json!("../../../admin")),
        ("image.layer", &|manifest| manifest["layers"][0]["mediaType"] = json!("image.layer")),
        ("image.config", &|manifest| manifest["config"]["mediaType"] = json!("image.config")),
        ("config and layers", &|manifest| *manifest = json!({"schemaVersion": 2, "manifests": []})),
    ];
    for (reason, change) in cases {
        registry.put("a/hook:1", &component, change);
        let message = refused(&home, &registry);
        assert!(message.contains(reason), "{reason}: {message}");
    }
    for text in ["", "{", "[]", "null", "\u{1b}[2Jcleared"] {
        registry.override_response(MANIFEST, move || text.into_response());
        refused(&home, &registry);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_sends_nobody_to_an_address_that_is_not_public() {
    let (home, registry) = set_up().await;
    let inner = OciRegistry::start(RegistryAuth::None).await;
    inner.put_blob(&guest("ignores"));
    let port = inner.host().replace("127.0.0.1:", "");
    for (to, reason) in [
        (format!("http://127.0.0.1:{port}/inner"), "not TLS"),
        (format!("https://127.0.0.1:{port}/inner"), "not a public address"),
        (format!("https://localhost:{port}/inner"), "not a public address"),
        (format!("https://[::ffff:127.0.0.1]:{port}/inner"), "not a public address"),
        ("https://169.254.169.254/latest/meta-data/".to_owned(), "not a public address"),
        ("https://10.0.0.1/".to_owned(), "not a public address"),
        ("file:///etc/passwd".to_owned(), "without a host"),
    ] {
        for place in [MANIFEST.to_owned(), blob()] {
            let (home, registry) = (&home, OciRegistry::start(RegistryAuth::None).await);
            registry.put("a/hook:1", &guest("ignores"), |_| {});
            let location = to.clone();
            registry.override_response(&place, move || redirect(&location));
            let message = refused(home, &registry);
            assert!(message.contains(reason), "{to}: {message}");
        }
    }
    // Nor is a token requested there.
    let challenge = format!("Bearer realm=\"https://127.0.0.1:{port}/token\"");
    registry.override_response(MANIFEST, move || {
        (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, challenge.clone())]).into_response()
    });
    let message = refused(&home, &registry);
    assert!(message.contains("not a public address"), "{message}");
    assert!(inner.requests().is_empty(), "{:?}", inner.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_stays_with_the_registry_it_is_for() {
    let (home, registry) = (home(), OciRegistry::start(RegistryAuth::Basic).await);
    registry.put("a/hook:1", &guest("ignores"), |_| {});
    let storage = OciRegistry::start(RegistryAuth::None).await;
    storage.put_blob(&guest("ignores"));
    let to = format!("http://{}{}", storage.host(), blob());
    registry.override_response(&blob(), move || redirect(&to));
    let password = super::write(&home, "password", USER.1.as_bytes());
    let storage_host = storage.host();
    let reference = format!("oci://{}/a/hook:1", registry.host());
    let as_user = ["--registry-user", USER.0, "--registry-password-file", &password];
    let install = [&["plugin", "install", &reference][..], &as_user].concat();
    // The storage host is used if the operator allows it.
    command(&home, &[&install[..], &["--registry-also", &storage_host]].concat());
    assert!(
        registry.requests().iter().any(|(_, _, sent)| sent == BASIC),
        "{:?}",
        registry.requests()
    );
    let asked = storage.requests();
    assert!(asked.len() == 1 && asked[0].2.is_empty(), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_sends_in_circles_or_refuses_is_left() {
    let (home, registry) = set_up().await;
    registry.override_response(MANIFEST, || redirect(MANIFEST));
    assert!(refused(&home, &registry).contains("redirects more than 5 times"));
    assert!(registry.requests().len() <= 6, "{:?}", registry.requests());
    registry.override_response(MANIFEST, || redirect("http://["));
    refused(&home, &registry);
    for (status, reason) in [(404, "does not have"), (403, "refuses"), (503, "overloaded")] {
        registry.override_response(MANIFEST, move || {
            let errors = json!({"errors": [{"code": "TOOMANYREQUESTS", "message": "overloaded"}]});
            (StatusCode::from_u16(status).unwrap(), errors.to_string()).into_response()
        });
        let message = refused(&home, &registry);
        assert!(message.contains(reason), "{status}: {message}");
    }
    // No registry at this address.
    let closed = ClosedPort::new();
    let reference = format!("oci://127.0.0.1:{}/a/hook:1", closed.port);
    let message = command_error(&home, &["plugin", "install", &reference]);
    assert!(message.contains("cannot be reached"), "{message}");
}

#[test]
fn a_reference_that_leaves_its_place_is_refused() {
    let home = home();
    for reference in [
        "oci://127.0.0.1:1/../v2/admin:1",
        "oci://127.0.0.1:1/a/..",
        "oci://127.0.0.1:1/a?x=1",
        "oci://user:password@127.0.0.1:1/a",
        "oci://127.0.0.1:1/a:../x",
        "oci://127.0.0.1:1/a@sha256:1",
        "oci://",
        "oci:///a",
    ] {
        let output = crate::support::wardgate(&["plugin", "install", reference, "--data", "."]);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && message.contains("reference"),
            "{reference}: {message}"
        );
    }
    let reference = "oci://127.0.0.1:1/a:1";
    for name in ["../../etc/cron.d/x", "..", "a/b", "a.b"] {
        let data = home.path().to_str().unwrap();
        let arguments = ["plugin", "install", reference, "--name", name, "--data", data];
        let output = crate::support::wardgate(&arguments);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && message.contains("plugin name"), "{name}: {message}");
    }
}
