//! Every route.

use crate::{
    app::App,
    edge::{self, seal::seal},
    openapi::Doc,
    rest::{api_keys, auth, catalog, documents, health, openai, queries, users, version},
    socket,
};
use axum::{
    Router, middleware, response::IntoResponse, routing::delete, routing::get, routing::post,
};
use domain::wire::error::Failure;
use tower_http::catch_panic::CatchPanicLayer;

/// What each route is for, for the OpenAPI document.
pub(crate) const DOCS: &[Doc] = &[
    auth::register::DOC,
    auth::login::DOC,
    auth::refresh::DOC,
    auth::logout::DOC,
    auth::me::DOC,
    auth::sessions::DOC,
    auth::jwks::DOC,
    auth::jwks::WELL_KNOWN,
    users::erase::DOC,
    users::export::DOC,
    api_keys::create::DOC,
    api_keys::list::DOC,
    api_keys::revoke::DOC,
    openai::chat::DOC,
    openai::models::LIST,
    openai::models::GET,
    queries::submit::DOC,
    queries::list::DOC,
    queries::get::DOC,
    queries::events::DOC,
    queries::stream::DOC,
    queries::cancel::DOC,
    socket::DOC,
    health::ALIVE,
    health::READY,
    version::DOC,
    catalog::EVENTS,
    documents::OPENAPI,
    documents::ASYNCAPI,
];

fn routes() -> Router<App> {
    Router::new()
        .route(auth::register::DOC.path, post(auth::register::handle))
        .route(auth::login::DOC.path, post(auth::login::handle))
        .route(auth::refresh::DOC.path, post(auth::refresh::handle))
        .route(auth::logout::DOC.path, post(auth::logout::handle))
        .route(auth::me::DOC.path, get(auth::me::handle))
        .route(auth::sessions::DOC.path, get(auth::sessions::handle))
        .route(auth::jwks::DOC.path, get(auth::jwks::handle))
        .route(auth::jwks::WELL_KNOWN.path, get(auth::jwks::handle))
        .route(users::export::DOC.path, get(users::export::handle))
        .route(users::erase::DOC.path, delete(users::erase::handle))
        .route(api_keys::create::DOC.path, post(api_keys::create::handle))
        .route(api_keys::list::DOC.path, get(api_keys::list::handle))
        .route(api_keys::revoke::DOC.path, delete(api_keys::revoke::handle))
        .route(openai::chat::DOC.path, post(openai::chat::handle))
        .route(openai::models::LIST.path, get(openai::models::list))
        .route(openai::models::GET_ROUTE, get(openai::models::get))
        .route(queries::submit::DOC.path, post(queries::submit::handle))
        .route(queries::list::DOC.path, get(queries::list::handle))
        .route(queries::get::DOC.path, get(queries::get::handle))
        .route(queries::events::DOC.path, get(queries::events::handle))
        .route(queries::stream::DOC.path, get(queries::stream::handle))
        .route(queries::cancel::DOC.path, post(queries::cancel::handle))
        .route(socket::DOC.path, get(socket::handle))
        .route(health::ALIVE.path, get(health::alive))
        .route(health::READY.path, get(health::ready))
        .route(version::DOC.path, get(version::handle))
        .route(catalog::EVENTS.path, get(catalog::events))
        .route(documents::OPENAPI.path, get(documents::openapi))
        .route(documents::ASYNCAPI.path, get(documents::asyncapi))
}

/// The whole application: routes and console within the layers of [`edge`].
pub(crate) fn router(app: App) -> Router {
    layered(routes().merge(crate::console::router()), app)
}

fn layered(routes: Router<App>, app: App) -> Router {
    routes
        .layer(CatchPanicLayer::custom(|_| {
            edge::Error::from(Failure::internal()).into_response()
        }))
        .layer(app.origins.layer())
        .layer(middleware::from_fn_with_state(app.clone(), seal))
        .with_state(app)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, keys};
    use axum::{body::Body, response::Response};
    use http::{Request, StatusCode, header};
    use infra::{
        config::{Nats, Secret},
        lifecycle::Lifecycle,
    };
    use serde_json::{Value, json};
    use tower::ServiceExt;

    /// The application, with nobody at the other end of the bus.
    async fn alone() -> Router {
        static PEM: std::sync::LazyLock<String> =
            std::sync::LazyLock::new(|| keys::generate_pem().unwrap());
        let client = async_nats::ConnectOptions::new()
            .retry_on_initial_connect()
            .connect("127.0.0.1:1")
            .await
            .unwrap();
        let config = Config::new(Secret::new(&*PEM), Nats::at("nats://127.0.0.1:1"));
        let keys = keys::Keys::from_pem(&PEM).unwrap();
        let app = App::new(&config, keys, client, Lifecycle::new());
        let panics = Router::new().route("/panic", get(panics));
        layered(routes().merge(crate::console::router()).merge(panics), app)
    }

    async fn panics() -> &'static str {
        panic!("on purpose")
    }

    async fn send(request: http::request::Builder, body: impl Into<Body>) -> (Response, Value) {
        let response = alone()
            .await
            .oneshot(request.body(body.into()).unwrap())
            .await
            .unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        (Response::from_parts(parts, Body::empty()), value)
    }

    #[tokio::test]
    async fn whatever_is_wrong_the_body_is_the_envelope() {
        let register = "/v1/auth/register";
        let large = vec![b'x'; domain::limits::JSON_BODY_BYTES + 1];
        let cases: [(&str, &str, Vec<u8>, u16, &str); 11] = [
            ("GET", "/v1/nothing?token=secret", vec![], 404, "NOT_FOUND"),
            ("DELETE", register, vec![], 405, "HTTP_405"),
            ("BREW", register, vec![], 405, "HTTP_405"),
            (
                "POST",
                register,
                b"{".to_vec(),
                400,
                "VALIDATION_INVALID_FORMAT",
            ),
            (
                "POST",
                register,
                b"\xff".to_vec(),
                400,
                "VALIDATION_INVALID_FORMAT",
            ),
            ("POST", register, b"{}".to_vec(), 422, "VALIDATION_ERROR"),
            ("POST", register, large, 413, "VALIDATION_TOO_LARGE"),
            ("GET", "/v1/auth/me", vec![], 401, "AUTH_TOKEN_INVALID"),
            (
                "POST",
                "/v1/query",
                b"{".to_vec(),
                401,
                "AUTH_TOKEN_INVALID",
            ),
            ("GET", "/v1/ws/query", vec![], 400, "BAD_REQUEST"),
            ("GET", "/v1/queries/%ff", vec![], 401, "AUTH_TOKEN_INVALID"),
        ];
        for (method, uri, body, status, code) in cases {
            let (response, body) = send(Request::builder().method(method).uri(uri), body).await;
            assert_eq!(response.status(), status, "{method} {uri}: {body}");
            assert_eq!(body["error"]["code"], code, "{method} {uri}");
            assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
            let id = response.headers()["x-request-id"].to_str().unwrap();
            assert_eq!(body["meta"]["request_id"], id);
            assert!(!body.to_string().contains("secret"));
        }
    }

    #[tokio::test]
    async fn where_openais_clients_ask_errors_are_as_they_know_them() {
        let cases = [
            ("POST", "/v1/chat/completions", 401, "invalid_api_key"),
            ("GET", "/v1/models", 401, "invalid_api_key"),
            ("DELETE", "/v1/models/org/m", 405, "HTTP_405"),
        ];
        for (method, uri, status, code) in cases {
            let (response, body) = send(Request::builder().method(method).uri(uri), "").await;
            assert_eq!(response.status(), status, "{method} {uri}: {body}");
            assert_eq!(body["error"]["code"], code, "{method} {uri}");
            assert_eq!(body["error"]["type"], "invalid_request_error");
            assert!(body.get("meta").is_none(), "{body}");
        }
    }

    #[tokio::test]
    async fn a_panic_reveals_nothing() {
        let (response, body) = send(Request::get("/panic"), "").await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(body["error"]["code"], "SYSTEM_INTERNAL_ERROR");
        assert!(!body.to_string().contains("purpose"));
        let (response, body) = send(Request::get("/health"), "").await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(body, json!({"status": "ok"}));
    }

    #[tokio::test]
    async fn the_request_id_is_taken_over_and_the_query_left_out() {
        let request = Request::get("/nothing?token=x").header("x-request-id", "my-id_1");
        let (response, body) = send(request, "").await;
        assert_eq!(response.headers()["x-request-id"], "my-id_1");
        assert_eq!(body["meta"]["path"], "/nothing");
    }

    #[tokio::test]
    async fn a_preflight_is_answered_and_errors_have_cors_headers() {
        let origin = "https://app.amaima.com";
        let preflight = Request::options("/v1/query")
            .header(header::ORIGIN, origin)
            .header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST");
        let (response, _) = send(preflight, "").await;
        assert_eq!(response.status(), StatusCode::OK);
        let headers = response.headers();
        assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], origin);
        assert_eq!(headers[header::ACCESS_CONTROL_MAX_AGE], "600");
        assert!(headers.contains_key("x-request-id"));
        let (response, _) = send(Request::get("/no").header(header::ORIGIN, origin), "").await;
        assert_eq!(
            response.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN],
            origin
        );
        let (response, _) = send(Request::get("/no").header(header::ORIGIN, "https://x"), "").await;
        let headers = response.headers();
        assert!(!headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
    }

    #[tokio::test]
    async fn an_old_client_is_told_so() {
        let old = Request::get("/v1/version").header("x-client-version", "0.9");
        let (response, body) = send(old, "").await;
        assert_eq!(response.headers()["x-client-outdated"], "true");
        assert_eq!(body["api_version"], "v1");
        let new = Request::get("/v1/version").header("x-client-version", "1.0.0");
        let (response, _) = send(new, "").await;
        assert!(!response.headers().contains_key("x-client-outdated"));
    }

    #[tokio::test]
    async fn keys_are_published() {
        for uri in ["/v1/auth/jwks", "/.well-known/jwks.json"] {
            let (response, body) = send(Request::get(uri), "").await;
            assert_eq!(response.headers()[header::CACHE_CONTROL], "max-age=300");
            assert_eq!(body["keys"][0]["alg"], "RS256");
        }
    }

    /// A route without an entry would answer what it does not document; an entry without a route
    /// answers 404.
    #[tokio::test]
    async fn every_document_entry_is_a_route() {
        for doc in DOCS {
            let uri = doc
                .path
                .replace("{id}", "3f2c0000-0000-4000-8000-000000000001");
            let (response, body) = send(Request::builder().method("TRACE").uri(&uri), "").await;
            assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{uri}");
            let allow = response.headers()[header::ALLOW].to_str().unwrap();
            assert!(allow.contains(doc.method.as_str()), "{uri}: {allow} {body}");
        }
    }

    #[test]
    fn every_route_has_a_document_entry() {
        let source = include_str!("router.rs");
        let routes = source.matches("\n        .route(").count();
        assert_eq!(routes, DOCS.len());
    }
}
