//! `POST /v1/auth/register`

use super::{TokenBody, email_problem, token_body};
use crate::{
    app::{App, Order},
    edge::{self, Call, Error, Fields, Key},
    openapi::Doc,
};
use axum::{Json, extract::State};
use domain::{
    Actor, id, limits,
    wire::{
        command::Body,
        error::{Code, DetailKind, Failure},
    },
};
use http::StatusCode;

pub(crate) const DOC: Doc = Doc::post("/v1/auth/register", "Make an account and sign in")
    .takes("Registration")
    .answers(201, "TokenBody")
    .refuses(&[Code::AuthUserExists]);

pub(crate) async fn handle(
    State(app): State<App>,
    call: Call,
    key: Key,
    body: edge::Body,
) -> Result<(StatusCode, Json<TokenBody>), Error> {
    let command = read(&body)?;
    let who = match &command {
        Body::Register { email, .. } => id::fold_email(email),
        _ => String::new(),
    };
    let order = Order::new(&key, &who, "register", command);
    let outcome = app.order(&call, Actor::Anonymous, order).await?;
    Ok((StatusCode::CREATED, token_body(&app, &call, outcome)?))
}

fn read(body: &edge::Body) -> Result<Body, Failure> {
    let mut fields = Fields::of(body);
    let email = fields.required_text("email").trim();
    if email.is_empty() && fields.problems.is_empty() {
        fields.problem("email", DetailKind::MissingField, "Field is required");
    }
    fields.problems.extend(email_problem(email));
    let noted = fields.problems.len();
    let password = fields.required_text("password");
    let length = password.chars().count();
    if !limits::PASSWORD_CHARS.contains(&length) && fields.problems.len() == noted {
        let (kind, rule) = if length < *limits::PASSWORD_CHARS.start() {
            (DetailKind::InvalidValue, "Must have at least 8 characters")
        } else {
            (DetailKind::TooLarge, "Must have at most 128 characters")
        };
        fields.problem("password", kind, rule);
    }
    let name = fields.short_text("name", limits::NAME_CHARS);
    let default = email.split('@').next().unwrap_or_default();
    let command = Body::Register {
        email: email.to_owned(),
        name: name.unwrap_or(default).to_owned(),
        password: password.to_owned(),
    };
    fields.finish()?;
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read_json(value: serde_json::Value) -> Result<Body, Failure> {
        let serde_json::Value::Object(object) = value else {
            unreachable!()
        };
        read(&edge::Body(object))
    }

    #[test]
    fn the_name_is_optional_and_ordinary_passwords_pass() {
        for password in ["password123", "SecurePass123!", &"ä".repeat(128)] {
            let body = read_json(json!({"email": " mia@example.com ", "password": password}));
            let Ok(Body::Register { email, name, .. }) = body else {
                panic!("{body:?}")
            };
            assert_eq!((email.as_str(), name.as_str()), ("mia@example.com", "mia"));
        }
    }

    #[test]
    fn everything_that_is_wrong_is_named_at_once() {
        let cases = [
            json!({}),
            json!({"email": "nobody", "password": "short", "name": 7}),
            json!({"email": " ", "password": "x".repeat(129), "name": "n".repeat(201)}),
            json!({"email": 1, "password": null}),
        ];
        let problems: Vec<_> = cases
            .into_iter()
            .map(|case| read_json(case).unwrap_err().details)
            .collect();
        insta::assert_json_snapshot!(problems);
    }
}
