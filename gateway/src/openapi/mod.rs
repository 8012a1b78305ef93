//! The OpenAPI 3.1 document: every endpoint's [`Doc`] and the schemas in `schemas.json`, which
//! tests compare with what is really sent.

use crate::{
    edge::{Purpose, idempotency, request_id},
    router::DOCS,
};
use domain::{api_keys::Scope, wire::error::Code};
use std::collections::BTreeMap;
use utoipa::openapi::{
    Components, Content, Header, Info, OpenApi, OpenApiBuilder, PathItem, Paths, Ref, RefOr,
    Required, Response, ResponseBuilder, Schema,
    path::{HttpMethod, Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn},
    request_body::RequestBodyBuilder,
    schema::{ComponentsBuilder, ObjectBuilder, Type},
    security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
};

/// The names of what callers show.
const BEARER: &str = "bearer";
const API_KEY: &str = "api_key";

const SCHEMAS: &str = include_str!("schemas.json");

/// What an endpoint is for. The errors that every endpoint of its kind has are added.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Doc {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    summary: &'static str,
    callers: Callers,
    /// Its errors are OpenAI's.
    in_openais_form: bool,
    parameters: &'static [&'static str],
    headers: &'static [&'static str],
    takes: Option<&'static str>,
    answers: (u16, &'static str),
    refuses: &'static [Code],
}

/// Who may use an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Callers {
    Everybody,
    /// Persons who have signed in.
    Persons,
    /// They, and API keys, of this scope where one is named.
    PersonsAndKeys(Option<Scope>),
}

/// The methods in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Post,
    Delete,
}

impl Method {
    #[cfg(test)]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

impl Doc {
    const fn new(method: Method, path: &'static str, summary: &'static str) -> Self {
        Self {
            method,
            path,
            summary,
            callers: Callers::Everybody,
            in_openais_form: false,
            parameters: &[],
            headers: &[],
            takes: None,
            answers: (200, "AnyObject"),
            refuses: &[],
        }
    }

    pub(crate) const fn get(path: &'static str, summary: &'static str) -> Self {
        Self::new(Method::Get, path, summary)
    }

    pub(crate) const fn post(path: &'static str, summary: &'static str) -> Self {
        Self::new(Method::Post, path, summary)
    }

    pub(crate) const fn delete(path: &'static str, summary: &'static str) -> Self {
        Self::new(Method::Delete, path, summary)
    }

    /// Needs an access token.
    pub(crate) const fn signed_in(mut self) -> Self {
        self.callers = Callers::Persons;
        self
    }

    /// Needs an access token or an API key that was made for this.
    pub(crate) const fn by_key<P: Purpose>(mut self) -> Self {
        self.callers = Callers::PersonsAndKeys(P::SCOPE);
        self
    }

    /// Errors have the form that OpenAI gives them.
    pub(crate) const fn in_openais_form(mut self) -> Self {
        self.in_openais_form = true;
        self
    }

    fn is_guarded(&self) -> bool {
        self.callers != Callers::Everybody
    }

    /// Optional parameters of the URL's query.
    pub(crate) const fn parameters(mut self, names: &'static [&'static str]) -> Self {
        self.parameters = names;
        self
    }

    /// Optional headers.
    pub(crate) const fn headers(mut self, names: &'static [&'static str]) -> Self {
        self.headers = names;
        self
    }

    /// A JSON body of this schema.
    pub(crate) const fn takes(mut self, schema: &'static str) -> Self {
        self.takes = Some(schema);
        self
    }

    /// A JSON answer of this schema.
    pub(crate) const fn answers(mut self, status: u16, schema: &'static str) -> Self {
        self.answers = (status, schema);
        self
    }

    /// Errors of its own.
    pub(crate) const fn refuses(mut self, codes: &'static [Code]) -> Self {
        self.refuses = codes;
        self
    }

    fn codes(&self) -> Vec<Code> {
        let mut codes = self.refuses.to_vec();
        match self.callers {
            Callers::Everybody => {}
            // An API key is refused as well.
            Callers::Persons | Callers::PersonsAndKeys(Some(_)) => codes.extend([
                Code::AuthTokenInvalid,
                Code::AuthTokenExpired,
                Code::AuthUserNotFound,
                Code::AuthPermissionDenied,
            ]),
            Callers::PersonsAndKeys(None) => codes.extend([
                Code::AuthTokenInvalid,
                Code::AuthTokenExpired,
                Code::AuthUserNotFound,
            ]),
        }
        if self.takes.is_some() {
            codes.extend([
                Code::ValidationInvalidFormat,
                Code::ValidationError,
                Code::ValidationTooLarge,
            ]);
        }
        if !self.parameters.is_empty() || !self.own_headers().is_empty() {
            codes.push(Code::ValidationInvalidFormat);
        }
        codes.extend([Code::SystemInternalError, Code::SystemUnavailable]);
        codes.dedup();
        codes
    }

    /// The headers that every endpoint of its kind takes.
    fn own_headers(&self) -> &'static [&'static str] {
        match (self.method, self.is_guarded()) {
            (Method::Post, _) => &[idempotency::HEADER],
            // What workers say of their models just now is no read model.
            (Method::Get, true) if self.in_openais_form => &[],
            (Method::Get, true) => &[request_id::CONSISTENCY],
            (Method::Get, false) | (Method::Delete, _) => &[],
        }
    }

    fn operation(&self) -> Operation {
        let mut operation = OperationBuilder::new()
            .summary(Some(self.summary))
            .operation_id(Some(operation_id(self.method, self.path)));
        for segment in self.path.split('/') {
            if let Some(name) = segment.strip_prefix('{') {
                let name = name.trim_end_matches('}');
                operation = operation.parameter(parameter(name, ParameterIn::Path));
            }
        }
        for name in self.parameters {
            operation = operation.parameter(parameter(name, ParameterIn::Query));
        }
        for name in self.headers.iter().chain(self.own_headers()) {
            operation = operation.parameter(parameter(name, ParameterIn::Header));
        }
        if let Some(schema) = self.takes {
            let body = RequestBodyBuilder::new()
                .required(Some(Required::True))
                .content("application/json", content(schema))
                .build();
            operation = operation.request_body(Some(body));
        }
        if self.is_guarded() {
            let bearer = SecurityRequirement::new(BEARER, Vec::<String>::new());
            operation = operation.security(bearer);
        }
        // OpenAPI 3.1 lets a requirement name the roles that it takes.
        if let Callers::PersonsAndKeys(scope) = self.callers {
            let scopes: Vec<&str> = scope.iter().map(|scope| scope.as_str()).collect();
            operation = operation.security(SecurityRequirement::new(API_KEY, scopes));
        }
        let (status, schema) = self.answers;
        let mut done = answer(status, schema);
        if !self.own_headers().is_empty() {
            let token = Header::new(ObjectBuilder::new().schema_type(Type::String));
            done.headers
                .insert(request_id::CONSISTENCY.into(), token.into());
        }
        operation = operation.response(status.to_string(), done);
        for (status, codes) in by_status(&self.codes()) {
            let schema = if self.in_openais_form {
                "OpenAiError"
            } else {
                "Error"
            };
            operation = operation.response(status.to_string(), error(&codes, schema));
        }
        operation.build()
    }
}

/// The document.
pub(crate) fn document() -> OpenApi {
    let mut paths: BTreeMap<&str, PathItem> = BTreeMap::new();
    for doc in DOCS {
        let method = match doc.method {
            Method::Get => HttpMethod::Get,
            Method::Post => HttpMethod::Post,
            Method::Delete => HttpMethod::Delete,
        };
        let item = PathItem::new(method, doc.operation());
        match paths.get_mut(doc.path) {
            Some(known) => known.merge_operations(item),
            None => {
                paths.insert(doc.path, item);
            }
        }
    }
    let paths = paths
        .into_iter()
        .fold(Paths::new(), |mut all, (path, item)| {
            all.paths.insert(path.into(), item);
            all
        });
    OpenApiBuilder::new()
        .info(Info::new("Amaima", env!("CARGO_PKG_VERSION")))
        .paths(paths)
        .components(Some(components()))
        .build()
}

fn components() -> Components {
    let schemas: BTreeMap<String, RefOr<Schema>> =
        serde_json::from_str(SCHEMAS).unwrap_or_default();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .build();
    let key = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("amk_…")
        .build();
    ComponentsBuilder::new()
        .schemas_from_iter(schemas)
        .security_scheme(BEARER, SecurityScheme::Http(bearer))
        .security_scheme(API_KEY, SecurityScheme::Http(key))
        .build()
}

fn content(schema: &str) -> Content {
    Content::new(Some(Ref::from_schema_name(schema)))
}

fn answer(status: u16, schema: &str) -> Response {
    let response = ResponseBuilder::new();
    match (status, schema) {
        (101, _) => response.description("The socket is open"),
        (_, "EventStream") => response
            .description("Server-sent events")
            .content("text/event-stream", content("EventStream")),
        (_, "ChatCompletion") => response
            .description("The answer; where `stream` is true, its pieces as server-sent events")
            .content("application/json", content(schema))
            .content("text/event-stream", content("ChatCompletionStream")),
        _ => response
            .description("Done")
            .content("application/json", content(schema)),
    }
    .build()
}

fn error(codes: &[Code], schema: &str) -> Response {
    let names: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
    ResponseBuilder::new()
        .description(names.join(", "))
        .content("application/json", content(schema))
        .build()
}

fn by_status(codes: &[Code]) -> BTreeMap<u16, Vec<Code>> {
    let mut statuses: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in codes {
        let known = statuses.entry(code.status()).or_default();
        if !known.contains(code) {
            known.push(*code);
        }
    }
    statuses
}

fn parameter(name: &str, place: ParameterIn) -> Parameter {
    let kind = match name {
        "limit" | "from_seq" => Type::Integer,
        _ => Type::String,
    };
    let required = match place {
        ParameterIn::Path => Required::True,
        _ => Required::False,
    };
    ParameterBuilder::new()
        .name(name)
        .description(describe(name))
        .parameter_in(place)
        .required(required)
        .schema(Some(ObjectBuilder::new().schema_type(kind)))
        .build()
}

/// What a header that many endpoints take is for.
fn describe(name: &str) -> Option<&'static str> {
    match name {
        idempotency::HEADER => Some(
            "At most 128 ASCII characters. The request is carried out once for this caller, route \
             and key, without a limit in time; a repeat gets the first answer, and another body \
             under the same key is refused with 422. Where a client names a query by query_id, \
             that goes before the key. The caller of register and login is the e-mail address, of \
             refresh and logout the session; tokens are handed out again only for the right \
             password and a session that lives. A refresh is remembered for the session's next 128 \
             commands; after that its repeat is the reuse of a superseded token.",
        ),
        request_id::CONSISTENCY => Some(
            "A token from an earlier response, of whichever gateway: the answer is at least that \
             new, or 503 with Retry-After after 2 s. Opaque. A token of a log that was made anew \
             since cannot be waited for and is ignored; the answer carries a new one.",
        ),
        _ => None,
    }
}

fn operation_id(method: Method, path: &str) -> String {
    let mut id = match method {
        Method::Get => "get".to_owned(),
        Method::Post => "post".to_owned(),
        Method::Delete => "delete".to_owned(),
    };
    for word in path.split(|c: char| !c.is_ascii_alphanumeric()) {
        if !word.is_empty() && word != "v1" {
            id.push('_');
            id.push_str(word);
        }
    }
    id
}

/// A user to show.
#[cfg(test)]
pub(crate) fn example_user() -> domain::wire::rest::User {
    serde_json::from_value(serde_json::json!({
        "id": "3f2c0000-0000-4000-8000-000000000001",
        "email": "mia@example.com",
        "name": "Mia Berg",
        "is_active": true,
        "subscription_tier": "free",
        "created_at": "2025-03-04T09:15:00.000Z",
    }))
    .unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest::{api_keys, openai};
    use serde_json::{Value, json};

    fn value() -> Value {
        serde_json::to_value(document()).unwrap()
    }

    #[test]
    fn every_route_is_there_with_its_errors() {
        let document = value();
        assert_eq!(document["openapi"], "3.1.0");
        let known = document["components"]["schemas"].as_object().unwrap();
        let mut ids = std::collections::HashSet::new();
        for doc in DOCS {
            let method = doc.method.as_str().to_lowercase();
            let operation = &document["paths"][doc.path][method];
            assert!(operation.is_object(), "{}", doc.path);
            assert!(
                ids.insert(operation["operationId"].to_string()),
                "{}",
                doc.path
            );
            for code in doc.codes() {
                let response = &operation["responses"][code.status().to_string()];
                let text = response["description"].as_str().unwrap();
                assert!(text.contains(code.as_str()), "{}: {text}", doc.path);
            }
            let ways = operation["security"].as_array().map_or(0, Vec::len);
            let wanted = match doc.callers {
                Callers::Everybody => 0,
                Callers::Persons => 1,
                Callers::PersonsAndKeys(_) => 2,
            };
            assert_eq!(ways, wanted, "{}", doc.path);
            for schema in doc.takes.into_iter().chain([doc.answers.1]) {
                assert!(known.contains_key(schema), "{schema}");
            }
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = value();
        let text = document.to_string();
        for reference in text.split("\"#").skip(1) {
            let pointer = &reference[..reference.find('"').unwrap()];
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
    }

    /// Compares a schema's properties with an example of what is sent.
    fn same_keys(schema: &str, example: &Value) {
        let schemas: Value = serde_json::from_str(SCHEMAS).unwrap();
        let mut listed: Vec<&String> = schemas[schema]["properties"]
            .as_object()
            .unwrap()
            .keys()
            .collect();
        let mut sent: Vec<&String> = example.as_object().unwrap().keys().collect();
        listed.sort();
        sent.sort();
        assert_eq!(listed, sent, "{schema}");
    }

    #[test]
    fn schemas_have_the_keys_that_are_sent() {
        same_keys("User", &serde_json::to_value(example_user()).unwrap());
        let item: domain::wire::rest::QueryItem = serde_json::from_value(json!({
            "query_id": "3f2c0000-0000-4000-8000-000000000001", "query": "", "operation": "",
            "status": "queued", "created_at": "2025-03-04T09:15:00.000Z",
        }))
        .unwrap();
        same_keys("QueryItem", &serde_json::to_value(item).unwrap());
        let event_type = crate::rest::catalog::example();
        same_keys("EventType", &serde_json::to_value(event_type).unwrap());
        let key = api_keys::example();
        same_keys("ApiKey", &serde_json::to_value(key).unwrap());
        let made = api_keys::create::example();
        same_keys("ApiKeyMade", &serde_json::to_value(made).unwrap());
        let model = openai::models::example();
        same_keys("Model", &serde_json::to_value(model).unwrap());
        let answer = serde_json::to_value(openai::chat::example()).unwrap();
        same_keys("ChatCompletion", &answer);
        same_keys("ChatChoice", &answer["choices"][0]);
        let chunk = openai::chat::example_chunk();
        same_keys("ChatCompletionChunk", &serde_json::to_value(chunk).unwrap());
    }
}
