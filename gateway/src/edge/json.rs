//! JSON bodies: read whole within a limit, then field by field, so that one answer can name
//! everything that is wrong.

use super::Error;
use axum::extract::{FromRequest, Request};
use domain::{
    limits,
    wire::error::{Code, Detail, DetailKind, Failure},
};
use futures_util::StreamExt;
use http::{HeaderMap, header};
use serde_json::{Map, Value};

/// An oversized body is read and thrown away up to this size, so that the client, which is still
/// sending, gets to read the answer.
const DRAIN_BYTES: usize = 16 * limits::JSON_BODY_BYTES;

/// The object in a request's body.
#[derive(Debug)]
pub(crate) struct Body(pub(crate) Map<String, Value>);

impl<S: Sync> FromRequest<S> for Body {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self, Error> {
        if !is_json(request.headers()) {
            return Err(Error::unsupported_body());
        }
        let bytes = read(request).await?;
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(object)) => Ok(Self(object)),
            Ok(_) => Err(Error::new(
                Code::ValidationInvalidFormat,
                "Request body must be a JSON object",
            )),
            Err(_) => Err(Error::new(
                Code::ValidationInvalidFormat,
                "Request body is not valid JSON",
            )),
        }
    }
}

/// A body without a type is taken for JSON.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return true;
    };
    let essence = value.to_str().unwrap_or_default();
    let essence = essence.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json") || essence.ends_with("+json")
}

async fn read(request: Request) -> Result<Vec<u8>, Error> {
    let mut body = vec![];
    let mut total = 0;
    let mut chunks = request.into_body().into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk =
            chunk.map_err(|_| Error::new(Code::BadRequest, "Request body could not be read"))?;
        total += chunk.len();
        if total <= limits::JSON_BODY_BYTES {
            body.extend_from_slice(&chunk);
        } else if total > DRAIN_BYTES {
            break;
        }
    }
    if total > limits::JSON_BODY_BYTES {
        return Err(Error::new(
            Code::ValidationTooLarge,
            "Request body is too large",
        ));
    }
    Ok(body)
}

/// Reads fields and collects what is wrong with them. An absent field and `null` are the same.
pub(crate) struct Fields<'a> {
    object: &'a Map<String, Value>,
    pub(crate) problems: Vec<Detail>,
}

impl<'a> Fields<'a> {
    pub(crate) fn of(body: &'a Body) -> Self {
        Self {
            object: &body.0,
            problems: vec![],
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    pub(crate) fn problem(&mut self, field: &str, kind: DetailKind, message: &str) {
        self.problems.push(Detail::new(field, kind, message));
    }

    /// A text that may be absent.
    pub(crate) fn text(&mut self, name: &str) -> Option<&'a str> {
        let value = self.get(name)?;
        let Some(text) = value.as_str() else {
            self.problem(name, DetailKind::InvalidFormat, "Must be a string");
            return None;
        };
        // PostgreSQL's text type cannot hold it.
        if text.contains('\0') {
            self.problem(name, DetailKind::InvalidValue, "Must not contain NUL");
            return None;
        }
        Some(text)
    }

    /// A text that must be there; empty if it is not, with the problem noted.
    pub(crate) fn required_text(&mut self, name: &str) -> &'a str {
        if self.get(name).is_none() {
            self.problems.push(Detail::missing(name));
            return "";
        }
        self.text(name).unwrap_or_default()
    }

    /// A text of at most so many characters; a blank one counts as absent.
    pub(crate) fn short_text(&mut self, name: &str, max_chars: usize) -> Option<&'a str> {
        let text = self.text(name)?.trim();
        if text.chars().count() > max_chars {
            let rule = format!("Must have at most {max_chars} characters");
            self.problem(name, DetailKind::TooLarge, &rule);
            return None;
        }
        (!text.is_empty()).then_some(text)
    }

    /// A list of texts that may be absent.
    pub(crate) fn texts(&mut self, name: &str) -> Vec<String> {
        let Some(value) = self.get(name) else {
            return vec![];
        };
        let Some(list) = value.as_array() else {
            self.problem(name, DetailKind::InvalidFormat, "Must be a list of strings");
            return vec![];
        };
        let mut texts = vec![];
        for (index, item) in list.iter().enumerate() {
            match item.as_str() {
                Some(text) => texts.push(text.to_owned()),
                None => {
                    let field = format!("{name}.{index}");
                    self.problem(&field, DetailKind::InvalidFormat, "Must be a string");
                }
            }
        }
        texts
    }

    /// An object that may be absent.
    pub(crate) fn object(&mut self, name: &str) -> Option<&'a Value> {
        let value = self.get(name)?;
        if !value.is_object() {
            self.problem(name, DetailKind::InvalidFormat, "Must be an object");
            return None;
        }
        Some(value)
    }

    /// A number that may be absent.
    pub(crate) fn number(&mut self, name: &str) -> Option<f64> {
        let value = self.get(name)?;
        if !value.is_number() {
            self.problem(name, DetailKind::InvalidFormat, "Must be a number");
        }
        value.as_f64()
    }

    /// A whole number, 0 or greater, that may be absent.
    pub(crate) fn whole(&mut self, name: &str) -> Option<u64> {
        let value = self.get(name)?;
        if value.as_u64().is_none() {
            let rule = "Must be a whole number, 0 or greater";
            self.problem(name, DetailKind::InvalidFormat, rule);
        }
        value.as_u64()
    }

    /// `true` or `false`, the latter by default.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let Some(value) = self.get(name) else {
            return false;
        };
        if !value.is_boolean() {
            self.problem(name, DetailKind::InvalidFormat, "Must be true or false");
        }
        value.as_bool().unwrap_or_default()
    }

    /// # Errors
    /// All problems, if there are any.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        if self.problems.is_empty() {
            Ok(())
        } else {
            Err(Failure::validation(self.problems))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    async fn parse(content_type: Option<&str>, body: Vec<u8>) -> Result<Body, Error> {
        let mut request = http::Request::post("/");
        if let Some(content_type) = content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        Body::from_request(request.body(body.into()).unwrap(), &()).await
    }

    #[tokio::test]
    async fn only_a_json_object_within_the_limit_is_a_body() {
        assert!(parse(None, b"{}".to_vec()).await.is_ok());
        let json = Some("application/json; charset=utf-8");
        assert!(parse(json, b"{\"a\":1}".to_vec()).await.is_ok());
        let status = |result: Result<Body, Error>| result.unwrap_err().status.as_u16();
        for bad in [
            &b""[..],
            b"{",
            b"[1]",
            b"\"x\"",
            b"{\"a\":\"\xff\"}",
            b"{} {}",
        ] {
            assert_eq!(status(parse(json, bad.to_vec()).await), 400);
        }
        let deep = "[".repeat(10_000).into_bytes();
        assert_eq!(status(parse(json, deep).await), 400);
        assert_eq!(status(parse(Some("text/plain"), b"{}".to_vec()).await), 415);
        let large = vec![b' '; limits::JSON_BODY_BYTES + 1];
        assert_eq!(status(parse(json, large).await), 413);
    }

    #[test]
    fn several_problems_are_named_at_once() {
        let Value::Object(object) = json!({
            "name": 5, "nul": "a\0b", "long": "x".repeat(5), "list": ["a", 1], "object": [], "number": "1", "whole": 1.5, "flag": 0
        }) else {
            unreachable!()
        };
        let body = Body(object);
        let mut fields = Fields::of(&body);
        fields.required_text("email");
        fields.text("name");
        fields.text("nul");
        fields.short_text("long", 4);
        fields.texts("list");
        fields.object("object");
        fields.number("number");
        fields.whole("whole");
        fields.flag("flag");
        assert_eq!(fields.text("absent"), None);
        insta::assert_json_snapshot!(fields.finish().unwrap_err().details);
    }
}
