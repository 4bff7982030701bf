//! Tests of which requests a rule allows and which files are rejected.

use url::Url;

use super::*;

fn allows(rule: &str, method: &str, url: &str) -> bool {
    let grants = Grants::parse(&format!("[[egress]]\n{rule}")).unwrap();
    let imports = ComponentImports { egress: true, ..ComponentImports::default() };
    let url = Url::parse(url).unwrap();
    EffectiveGrants::resolve(imports, grants, &BTreeMap::new(), usize::MAX)
        .egress()
        .rule(&[method], &url)
        .is_some()
}

#[test]
fn a_rule_allows_what_matches_all_of_it() {
    let rule = r#"host = "api.example.com"
        path = "/v1""#;
    for url in ["https://api.example.com/v1", "https://API.example.com:443/v1/x?y=z"] {
        assert!(allows(rule, "GET", url), "{url}");
    }
    for url in [
        "http://api.example.com/v1",
        "https://api.example.com:8443/v1",
        "https://api.example.com.evil.net/v1",
        "https://evil.net/api.example.com/v1",
        "https://api.example.com/v10",
        "https://api.example.com/v1/../admin",
        "https://api.example.com/v1/%2e%2e/admin",
        "https://api.example.com/v1/..%2fadmin",
        "https://api.example.com/v1/..;/admin",
        "https://api.example.com/v1/%252e%252e/admin",
        "https://api.example.com@evil.net/v1",
    ] {
        assert!(!allows(rule, "GET", url), "{url}");
    }
    assert!(!allows(rule, "POST", "https://api.example.com/v1"));
}

#[test]
fn a_wildcard_stands_for_one_label() {
    let rule = r#"host = "*.example.com""#;
    assert!(allows(rule, "GET", "https://a.example.com/"));
    for host in ["example.com", "a.b.example.com", "aexample.com", "a.example.com.net"] {
        assert!(!allows(rule, "GET", &format!("https://{host}/")), "{host}");
    }
}

#[test]
fn hosts_are_written_as_people_write_them_and_meant_as_urls_have_them() {
    assert!(allows("host = \"*.b\u{fc}cher.example\"", "GET", "https://a.b\u{fc}cher.example/"));
    assert!(allows(r#"host = "*.Example.COM""#, "GET", "https://a.example.com/"));
    assert!(allows(r#"host = "[::1]""#, "GET", "https://[::1]/"));
    let error = Grants::parse("[[egress]]\nhost = \"https://a.com/v1\"").unwrap_err().to_string();
    assert!(error.contains("the host alone") && error.contains("`scheme`"), "{error}");
}

#[test]
fn a_file_that_allows_too_much_or_says_nonsense_is_refused() {
    for file in [
        "[[egress]]\nhost = \"*\"",
        "[[egress]]\nhost = \"*.com\"",
        "[[egress]]\nhost = \"a.com\"\nscheme = \"ftp\"",
        // Hosts that no request can have.
        "[[egress]]\nhost = \"https://a.com\"",
        "[[egress]]\nhost = \"a.com/v1\"",
        "[[egress]]\nhost = \"a.com:8443\"",
        "[[egress]]\nhost = \"::1\"",
        "[[egress]]\nhost = \"*.a b.com\"",
        "[[egress]]\nhost = \"*.10.0.0.1\"",
        "[[egress]]\nhost = \"a.com\"\nport = 0",
        "[[egress]]\nhost = \"a.com\"\nmethods = []",
        "[[egress]]\nhost = \"a.com\"\nmethods = [\"GET POST\"]",
        "[[egress]]\nhost = \"a.com\"\npath = \"v1\"",
        "[[egress]]\nhost = \"a.com\"\npath = \"/v1/../v2\"",
        "[[egress]]\nhost = \"a.com\"\npath = \"/v1?all\"",
        "[[egress]]\nhost = \"a.com\"\npath = \"/v1/..;/v2\"",
        "[[egress]]\nhost = \"a.com\"\nmethods = [\"get\"]",
        "[[egress]]\nhost = \"a.com\"\nnetworks = [\"everywhere\"]",
        "[limits]\nmemory_mb = 5",
        "egres = 1",
        "egress-mode = \"ask\"",
        "[[egress]]\nhost = \"a.com\"\ncredentials = [\"absent\"]",
        "[credentials.a]\nsecret = \"s\"",
        "[credentials.a]\nsecret = \"s\"\nheader = \"x\"\nquery = \"y\"",
        "[credentials.a]\nsecret = \"s\"\npath = \"{}\"",
        "[credentials.a]\nsecret = \"S!\"\nheader = \"x\"",
        "[folder]\npath = \"relative\"",
        "[key-value]\n",
        "[folder]\npath = \"/srv\"\nbytes = -1",
        "component = \"sha256:00\"",
        "component = \"Any\"",
        "component = []",
        "component = [\"any\"]",
        "component = 5",
        "signer = \"\"",
    ] {
        assert!(Grants::parse(file).is_err(), "{file}");
    }
}

#[test]
fn what_was_not_asked_for_is_not_granted() {
    let file = "[[egress]]\nhost = \"a.com\"\n[settings]\nk = \"v\"";
    let granted = EffectiveGrants::resolve(
        ComponentImports::default(),
        Grants::parse(file).unwrap(),
        &BTreeMap::new(),
        1 << 20,
    );
    assert!(granted.settings().is_empty());
    assert!(granted.egress().rule(&["GET"], &Url::parse("https://a.com/").unwrap()).is_none());
}

#[test]
fn a_rule_names_every_method_that_a_server_may_take_a_request_for() {
    let file = "[[egress]]\nhost = \"a.com\"\nmethods = [\"POST\", \"PATCH\"]";
    let imports = ComponentImports { egress: true, ..ComponentImports::default() };
    let grants = Grants::parse(file).unwrap();
    let granted = EffectiveGrants::resolve(imports, grants, &BTreeMap::new(), usize::MAX);
    let url = Url::parse("https://a.com/").unwrap();
    assert!(granted.egress().rule(&["POST"], &url).is_some());
    assert!(granted.egress().rule(&["POST", "PATCH"], &url).is_some());
    assert!(granted.egress().rule(&["POST", "DELETE"], &url).is_none());
}

#[test]
fn for_another_component_only_what_a_file_takes_away_is_left() {
    let file = "clocks = \"frozen\"\nrandom = \"fixed\"\negress-mode = \"count\"\npublish-tools = true\n\
                [[egress]]\nhost = \"a.com\"\ncredentials = [\"c\"]\n\
                [credentials.c]\nsecret = \"s\"\nheader = \"x\"\n[secrets]\na = \"s\"\n\
                [settings]\nk = \"v\"\n[key-value]\nbytes = 9\n[folder]\npath = \"/srv\"\n\
                [limits]\nmemory_mib = 1\ncpu_ms = 60000\n";
    let grants = Grants::parse(file).unwrap();
    let given = [
        "[[egress]] (1)", "egress-mode", "publish-tools", "[credentials] c", "[secrets] a",
        "[settings] k", "[key-value]", "[folder]", "[limits]",
    ];
    assert_eq!(grants.granted_tables(), given);
    let left = grants.deactivated("it is for another one".to_owned());
    assert_eq!(left.granted_tables(), Vec::<String>::new());
    assert_eq!(left.inactive_reason(), Some("it is for another one"));
    assert_eq!((left.clocks, left.random), (Clocks::Frozen, Random::Fixed));
    let default = Limits::default();
    assert_eq!((left.limits.memory_bytes, left.limits.cpu), (1 << 20, default.cpu));
    assert!(left.secret_names().next().is_none());
}
