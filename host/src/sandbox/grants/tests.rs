//! Which requests a rule allows, and which files are refused.

use super::*;

fn allows(rule: &str, method: &str, url: &str) -> bool {
    let grants = Grants::parse(&format!("[[egress]]\n{rule}")).unwrap();
    let asked = Asked { egress: true, ..Asked::default() };
    let url = Url::parse(url).unwrap();
    Granted::resolve(asked, grants, &BTreeMap::new(), usize::MAX)
        .egress_rule(method, &url)
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
fn a_file_that_allows_too_much_or_says_nonsense_is_refused() {
    for file in [
        "[[egress]]\nhost = \"*\"",
        "[[egress]]\nhost = \"*.com\"",
        "[[egress]]\nhost = \"a.com\"\nscheme = \"ftp\"",
        "[[egress]]\nhost = \"a.com\"\npath = \"v1\"",
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
    ] {
        assert!(Grants::parse(file).is_err(), "{file}");
    }
}

#[test]
fn what_was_not_asked_for_is_not_granted() {
    let file = "[[egress]]\nhost = \"a.com\"\n[settings]\nk = \"v\"";
    let granted =
        Granted::resolve(Asked::default(), Grants::parse(file).unwrap(), &BTreeMap::new(), 1 << 20);
    assert!(granted.settings().is_empty());
    assert!(granted.egress_rule("GET", &Url::parse("https://a.com/").unwrap()).is_none());
}
