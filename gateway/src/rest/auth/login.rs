//! `POST /v1/auth/login`

use super::{LOGIN_PASSWORD_BYTES, TokenBody, token_body};
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

pub(crate) const DOC: Doc = Doc::post("/v1/auth/login", "Sign in")
    .takes("Credentials")
    .answers(200, "TokenBody")
    .refuses(&[Code::AuthInvalidCredentials]);

pub(crate) async fn handle(
    State(app): State<App>,
    call: Call,
    key: Key,
    body: edge::Body,
) -> Result<Json<TokenBody>, Error> {
    let command = read(&body)?;
    // Whoever signs in is known by the address, so that strangers' keys are never mixed up.
    let who = match &command {
        Body::Login { email, .. } => id::fold_email(email),
        _ => String::new(),
    };
    let order = Order::new(&key, &who, "login", command);
    let outcome = app.order(&call, Actor::Anonymous, order).await?;
    Ok(token_body(&app, &call, outcome)?)
}

fn read(body: &edge::Body) -> Result<Body, Failure> {
    let mut fields = Fields::of(body);
    let email = fields.required_text("email");
    if email.len() > limits::EMAIL_BYTES {
        fields.problem("email", DetailKind::TooLarge, "Is too long");
    }
    let password = fields.required_text("password");
    if password.len() > LOGIN_PASSWORD_BYTES {
        fields.problem("password", DetailKind::TooLarge, "Is too long");
    }
    let device = |text: Option<&str>| text.map(str::to_owned);
    let command = Body::Login {
        email: email.to_owned(),
        password: password.to_owned(),
        device_id: device(fields.short_text("device_id", limits::KEY_CHARS)),
        device_name: device(fields.short_text("device_name", limits::KEY_CHARS)),
    };
    fields.finish()?;
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_policy_for_new_passwords_does_not_apply() {
        let serde_json::Value::Object(object) =
            json!({"email": "x", "password": "y", "device_name": " Mia's phone "})
        else {
            unreachable!()
        };
        let Ok(Body::Login { device_name, .. }) = read(&edge::Body(object)) else {
            panic!("refused")
        };
        assert_eq!(device_name.as_deref(), Some("Mia's phone"));
        let failure = read(&edge::Body(serde_json::Map::new())).unwrap_err();
        assert_eq!(failure.details.len(), 2);
    }
}
