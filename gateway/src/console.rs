//! The web console: the files under `gateway/console/`, embedded in the binary and served as they
//! are.
//!
//! A page is one HTML file at its own address; what it loads lies under `/console/`. To add a file,
//! put it into the folder and into [`ASSETS`]; a test compares the two. Every answer may be kept by
//! the browser but is asked for again by its `ETag` each time, so that a new binary is never mixed
//! with old scripts. An unknown address is left to the fallback of the router that this one is
//! merged into.

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::routing::get;
use bytes::Bytes;

/// Scripts and styles come from the files served here alone, and text becomes markup nowhere: a
/// question or an answer that looks like HTML stays text even where the console should have a
/// mistake.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self'; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'self'; \
     frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// One embedded file and the route that it answers at.
struct Asset {
    route: &'static str,
    #[cfg(test)]
    file: &'static str,
    content_type: &'static str,
    content: &'static [u8],
}

macro_rules! asset {
    ($route:literal, $file:literal, $content_type:expr) => {
        Asset {
            route: $route,
            #[cfg(test)]
            file: $file,
            content_type: $content_type,
            content: include_bytes!(concat!("../console/", $file)),
        }
    };
}

const ASSETS: &[Asset] = &[
    asset!("/", "index.html", HTML),
    asset!("/register", "register.html", HTML),
    asset!("/login", "login.html", HTML),
    asset!("/dashboard", "dashboard.html", HTML),
    asset!("/query", "query.html", HTML),
    asset!("/queries/{id}", "view.html", HTML),
    asset!("/docs", "docs.html", HTML),
    asset!("/console/answer.js", "answer.js", JS),
    asset!("/console/console.css", "console.css", CSS),
    asset!("/console/dashboard.js", "dashboard.js", JS),
    asset!("/console/docs.js", "docs.js", JS),
    asset!("/console/dom.js", "dom.js", JS),
    asset!("/console/header.js", "header.js", JS),
    asset!("/console/index.js", "index.js", JS),
    asset!("/console/mark.svg", "mark.svg", SVG),
    asset!("/console/query-socket.js", "query-socket.js", JS),
    asset!("/console/query.js", "query.js", JS),
    asset!("/console/session.js", "session.js", JS),
    asset!("/console/sign-in.js", "sign-in.js", JS),
    asset!("/console/theme.js", "theme.js", JS),
    asset!("/console/view.js", "view.js", JS),
];

/// The routes of the console, for merging into the gateway's router. Answers `GET` and `HEAD`.
pub fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    ASSETS.iter().fold(Router::new(), |router, asset| {
        let etag = etag(asset.content);
        let answer = move |request: HeaderMap| {
            let response = respond(asset, &etag, &request);
            async move { response }
        };
        router.route(asset.route, get(answer))
    })
}

/// A strong validator: the first half of the content's SHA-256 in hex.
fn etag(content: &[u8]) -> HeaderValue {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, content);
    let hex: String = digest.as_ref()[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    HeaderValue::try_from(format!("\"{hex}\"")).expect("hex digits in quotes are a header value")
}

fn respond(asset: &Asset, etag: &HeaderValue, request: &HeaderMap) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    if is_known(request, etag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        *response.body_mut() = Body::from(Bytes::from_static(asset.content));
        let content_type = HeaderValue::from_static(asset.content_type);
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, content_type);
    }
    let headers = response.headers_mut();
    headers.insert(header::ETAG, etag.clone());
    for (name, value) in [
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // For browsers that do not know `frame-ancestors`.
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Whether `If-None-Match` names the file as it is; compared weakly, as RFC 9110 §13.1.2 asks.
fn is_known(request: &HeaderMap, etag: &HeaderValue) -> bool {
    request
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|tag| tag.trim())
        .any(|tag| tag == "*" || tag.trim_start_matches("W/").as_bytes() == etag.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;

    async fn fetch(path: &str, if_none_match: Option<&HeaderValue>) -> Response<Body> {
        let mut request = Request::get(path).body(Body::empty()).unwrap();
        if let Some(tag) = if_none_match {
            request
                .headers_mut()
                .insert(header::IF_NONE_MATCH, tag.clone());
        }
        router::<()>().oneshot(request).await.unwrap()
    }

    fn pages() -> impl Iterator<Item = (&'static str, &'static str)> {
        ASSETS
            .iter()
            .filter(|asset| asset.content_type == HTML)
            .map(|asset| (asset.file, std::str::from_utf8(asset.content).unwrap()))
    }

    #[tokio::test]
    async fn every_file_is_served_with_its_type_and_the_protecting_headers() {
        for asset in ASSETS {
            let response = fetch(&asset.route.replace("{id}", "9b1d"), None).await;
            assert_eq!(response.status(), StatusCode::OK, "{}", asset.route);
            let headers = response.headers();
            assert_eq!(headers[header::CONTENT_TYPE], asset.content_type);
            assert_eq!(headers[header::CACHE_CONTROL], "no-cache");
            assert_eq!(
                headers[header::CONTENT_SECURITY_POLICY],
                CONTENT_SECURITY_POLICY
            );
            assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
            assert_eq!(headers[header::REFERRER_POLICY], "no-referrer");
            let body = axum::body::to_bytes(response.into_body(), usize::MAX)
                .await
                .unwrap();
            assert_eq!(body, asset.content, "{}", asset.route);
        }
    }

    #[tokio::test]
    async fn a_known_file_is_not_sent_again() {
        let first = fetch("/login", None).await;
        let tag = &first.headers()[header::ETAG];
        assert!(tag.as_bytes().starts_with(b"\""), "a strong tag");

        let again = fetch("/login", Some(tag)).await;
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(again.headers()[header::ETAG], tag);

        let list = HeaderValue::try_from(format!("\"0\", W/{}", tag.to_str().unwrap())).unwrap();
        assert_eq!(
            fetch("/login", Some(&list)).await.status(),
            StatusCode::NOT_MODIFIED
        );
        let other = HeaderValue::from_static("\"0\"");
        assert_eq!(fetch("/login", Some(&other)).await.status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn an_unknown_file_is_left_to_the_fallback() {
        for path in [
            "/console/none.js",
            "/console/",
            "/queries",
            "/queries/a/b",
            "/index.html",
        ] {
            assert_eq!(
                fetch(path, None).await.status(),
                StatusCode::NOT_FOUND,
                "{path}"
            );
        }
    }

    #[test]
    fn the_folder_and_the_list_name_the_same_files() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/console");
        let present: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let listed: BTreeSet<String> = ASSETS.iter().map(|asset| asset.file.to_owned()).collect();
        assert_eq!(present, listed);
    }

    #[test]
    fn pages_keep_to_the_content_security_policy() {
        for (file, html) in pages() {
            for tag in html.split('<').filter(|tag| tag.starts_with("script")) {
                assert!(tag.contains("src=\"/console/"), "{file}: <{tag}");
            }
            for inline in ["<style", " style=", " onclick=", " onload=", "javascript:"] {
                assert!(!html.contains(inline), "{file} has `{inline}`");
            }
        }
    }

    #[test]
    fn what_pages_and_scripts_load_exists() {
        for asset in ASSETS {
            let text = std::str::from_utf8(asset.content).unwrap();
            for rest in text.split("\"/console/").skip(1) {
                let path = format!("/console/{}", rest.split('"').next().unwrap());
                let known = ASSETS.iter().any(|asset| asset.route == path);
                assert!(known, "{} loads {path}", asset.file);
            }
        }
    }

    #[test]
    fn scripts_never_turn_text_into_markup() {
        let scripts = ASSETS.iter().filter(|asset| asset.content_type == JS);
        for asset in scripts {
            let text = std::str::from_utf8(asset.content).unwrap();
            for risky in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
            ] {
                assert!(!text.contains(risky), "{} uses {risky}", asset.file);
            }
        }
    }
}
