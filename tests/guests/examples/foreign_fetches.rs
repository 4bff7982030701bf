//! A foreign component that sends requests through `wasi:http`, as the HTTP clients of most languages do.

wit_bindgen::generate!({
    inline: "
        package elsewhere:fetches;
        world fetches {
            record answer { status: u16, kind: option<string>, body: string }
            export fetch: func(url: string, body: option<string>) -> result<answer, string>;
            export fetch-often: func(url: string, times: u32) -> result<u32, string>;
        }
    ",
});

use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{Fields, Method, OutgoingBody, OutgoingRequest, Scheme};

struct Fetches;

impl Guest for Fetches {
    fn fetch(url: String, body: Option<String>) -> Result<Answer, String> {
        fetch(&url, body)
    }

    fn fetch_often(url: String, times: u32) -> Result<u32, String> {
        (0..times).try_fold(0, |done, _| {
            fetch(&url, None).map_err(|error| format!("after {done}: {error}"))?;
            Ok(done + 1)
        })
    }
}

fn fetch(url: &str, body: Option<String>) -> Result<Answer, String> {
    let (scheme, rest) = url.split_once("://").ok_or("no URL")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let headers = Fields::new();
    let set = |name: &str, value: &str| {
        headers.append(name, value.as_bytes()).map_err(|error| format!("{error:?}"))
    };
    set("x-from", "elsewhere")?;
    if let Some(body) = &body {
        set("content-length", &body.len().to_string())?;
    }
    let request = OutgoingRequest::new(headers);
    let method = if body.is_some() { Method::Post } else { Method::Get };
    request.set_method(&method).map_err(|()| "the method")?;
    let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
    request.set_scheme(Some(&scheme)).map_err(|()| "the scheme")?;
    request.set_authority(Some(authority)).map_err(|()| "the authority")?;
    request.set_path_with_query(Some(path)).map_err(|()| "the path")?;
    let sending = request.body().map_err(|()| "the body")?;
    let future = handle(request, None).map_err(|code| format!("{code:?}"))?;
    if let Some(body) = body {
        let stream = sending.write().map_err(|()| "the body's stream")?;
        for piece in body.as_bytes().chunks(4096) {
            stream.blocking_write_and_flush(piece).map_err(|error| format!("{error:?}"))?;
        }
    }
    OutgoingBody::finish(sending, None).map_err(|code| format!("{code:?}"))?;
    future.subscribe().block();
    let answered = future.get().ok_or("not ready")?.map_err(|()| "taken twice")?;
    let response = answered.map_err(|code| format!("{code:?}"))?;
    let kind = response.headers().get("content-type").pop();
    let body = response.consume().map_err(|()| "no body")?;
    let (stream, mut read) = (body.stream().map_err(|()| "no stream")?, Vec::new());
    while let Ok(piece) = stream.blocking_read(1 << 16) {
        read.extend(piece);
    }
    Ok(Answer {
        status: response.status(),
        kind: kind.map(|kind| String::from_utf8_lossy(&kind).into_owned()),
        body: String::from_utf8_lossy(&read).into_owned(),
    })
}

export!(Fetches);
