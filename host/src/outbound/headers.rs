//! Validates the headers of a plugin's request.

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::{OutboundError, failure};

/// Maximum number of headers of a plugin's request, and their maximum size in bytes. Few servers accept as much.
const HEADERS_MAX: usize = 64;
const HEADER_BYTES_MAX: usize = 64 << 10;

/// Headers that belong to the connection or that would change its destination.
const CONNECTION_HEADERS: [&str; 11] = [
    "host",
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers that a reverse proxy sets and that the server behind it trusts: another URL than the requested one,
/// another host or client, or a user or certificate that the proxy has authenticated.
const PROXY_HEADERS: [&str; 24] = [
    "cdn-loop",
    "client-ip",
    "fastly-client-ip",
    "forwarded",
    "remote-addr",
    "remote-groups",
    "remote-user",
    "true-client-ip",
    "via",
    "x-authenticated-user",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-forwarded",
    "x-host",
    "x-http-host-override",
    "x-original-host",
    "x-original-path",
    "x-original-uri",
    "x-original-url",
    "x-proxyuser-ip",
    "x-real-ip",
    "x-remote-user",
    "x-rewrite-uri",
    "x-rewrite-url",
];

/// Prefixes of further such headers: those of nginx's and Envoy's authentication, of Cloudflare, Google, AWS and
/// Azure, and of TLS terminators.
const PROXY_PREFIXES: [&str; 12] = [
    "cf-",
    "ssl-client-",
    "x-amzn-oidc-",
    "x-appengine-",
    "x-arr-",
    "x-auth-request-",
    "x-azure-",
    "x-client-cert",
    "x-envoy-",
    "x-forwarded-",
    "x-goog-authenticated-user-",
    "x-ssl-",
];

/// Headers that make servers treat a request as one with another method.
const METHOD_OVERRIDE_HEADERS: [&str; 3] =
    ["x-http-method", "x-http-method-override", "x-method-override"];

/// Parts of header names that indicate the length or digest of a response. A list of whole names would always miss
/// one: many servers have their own (`x-goog-hash`, `x-amz-checksum-crc32c`, `x-linked-size`).
const MEASURE_PARTS: [&str; 16] = [
    "checksum", "crc", "digest", "etag", "hash", "integrity", "length", "md5", "range", "sha-",
    "sha1", "sha2", "sha3", "sha5", "signature", "size",
];

/// Whether a response header may reveal the length or a digest of the body. If a credential was redacted from the
/// body, either would reveal something about the credential.
pub(super) fn measures_the_body(name: &HeaderName) -> bool {
    MEASURE_PARTS.iter().any(|part| name.as_str().contains(part))
}

/// The total bytes of names and values.
pub(crate) fn bytes(headers: &[(String, String)]) -> usize {
    headers.iter().map(|(name, value)| name.len() + value.len()).sum()
}

/// Validates a plugin's headers.
pub(super) fn parse(headers: &[(String, String)]) -> Result<HeaderMap, OutboundError> {
    if headers.len() > HEADERS_MAX {
        return Err(failure("invalid-input", "the request has more than 64 headers"));
    }
    if bytes(headers) > HEADER_BYTES_MAX {
        return Err(failure("invalid-input", "the request has more than 64 KiB of headers"));
    }
    let mut parsed = HeaderMap::new();
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| failure("invalid-input", "a header name is not valid"))?;
        let read = normalized(&name);
        let is_the_gateways = CONNECTION_HEADERS.contains(&read.as_str())
            || PROXY_HEADERS.contains(&read.as_str())
            || PROXY_PREFIXES.iter().any(|beginning| read.starts_with(beginning));
        if is_the_gateways {
            let message = format!("the header {name} is the gateway's to set");
            return Err(failure("invalid-input", &message));
        }
        let value = HeaderValue::from_str(value)
            .map_err(|_| failure("invalid-input", &format!("the value of {name} is not valid")))?;
        parsed.append(name, value);
    }
    Ok(parsed)
}

/// The methods that servers may use for a request with these headers, besides its own.
pub(super) fn overriding_methods(headers: &HeaderMap) -> Vec<String> {
    let named = headers.iter();
    let named =
        named.filter(|(name, _)| METHOD_OVERRIDE_HEADERS.contains(&normalized(name).as_str()));
    let values = named.map(|(_, value)| String::from_utf8_lossy(value.as_bytes()).into_owned());
    // Some servers parse the value as a list.
    let values: Vec<_> = values
        .flat_map(|value| value.split(',').map(|one| one.trim().to_uppercase()).collect::<Vec<_>>())
        .collect();
    values
}

/// A header's name as servers see it that pass headers as variables (CGI, WSGI): `_` and `-` are the same.
fn normalized(name: &HeaderName) -> String {
    name.as_str().replace('_', "-")
}

/// Whether some server would read this header as `as_name`.
pub(super) fn is_read_as(name: &HeaderName, as_name: &str) -> bool {
    normalized(name) == as_name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(name: &str, value: &str) -> Result<HeaderMap, OutboundError> {
        parse(&[(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn what_only_a_proxy_says_is_not_the_plugins_to_say() {
        for name in [
            "X-Original-URL",
            "x-rewrite-url",
            "x_original_url",
            "X-Forwarded-Host",
            "forwarded",
            "x-forwarded-prefix",
            "X_Forwarded_For",
            "host",
            "Transfer-Encoding",
            "Via",
            "true-client-ip",
            "CF-Connecting-IP",
            "Remote_User",
            "x-original-path",
            "x-envoy-original-path",
            "x-forwarded",
            "X-SSL-Client-Cert",
            "x-auth-request-email",
        ] {
            let refused = parsed(name, "/admin").unwrap_err();
            assert!(
                refused.message.contains("the gateway's to set"),
                "{name}: {}",
                refused.message
            );
        }
        for name in ["x-request-id", "authorization", "x-original", "accept", "x-envoy", "remote"] {
            assert!(parsed(name, "x").is_ok(), "{name}");
        }
    }

    #[test]
    fn a_request_is_of_each_method_that_a_header_says() {
        for (name, value, meant) in [
            ("x-http-method-override", "delete", &["DELETE"][..]),
            ("X_HTTP_Method_Override", " PUT ", &["PUT"]),
            ("x-http-method", "PATCH, DELETE", &["PATCH", "DELETE"]),
            ("x-method-override", "", &[""]),
            ("x-http-methods", "DELETE", &[]),
        ] {
            assert_eq!(overriding_methods(&parsed(name, value).unwrap()), meant, "{name}");
        }
    }

    #[test]
    fn headers_that_measure_a_body_are_told_from_others() {
        for name in [
            "content-length",
            "etag",
            "content-md5",
            "digest",
            "content-digest",
            "repr-digest",
            "x-goog-hash",
            "x-goog-stored-content-length",
            "x-amz-checksum-sha256",
            "x-linked-size",
            "x-linked-etag",
            "content-range",
            "signature",
            "x-checksum-sha1",
            "x-bz-content-sha1",
        ] {
            assert!(measures_the_body(&HeaderName::from_static(name)), "{name}");
        }
        for name in
            ["content-type", "date", "link", "location", "retry-after", "x-ratelimit-remaining"]
        {
            assert!(!measures_the_body(&HeaderName::from_static(name)), "{name}");
        }
    }
}
