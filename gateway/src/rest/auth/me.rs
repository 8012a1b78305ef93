//! `GET /v1/auth/me`

use crate::{
    app::App,
    edge::{Call, Error, Identity},
    openapi::Doc,
};
use axum::{Json, extract::State};
use domain::wire::{error::Code, rest::User};
use serde::Serialize;

pub(crate) const DOC: Doc = Doc::get("/v1/auth/me", "Who is signed in")
    .signed_in()
    .answers(200, "Me")
    .refuses(&[Code::AuthUserNotFound]);

/// The user's fields twice: older clients read them at the top, newer ones under `user`.
#[derive(Debug, Serialize)]
pub(crate) struct Me {
    #[serde(flatten)]
    top: User,
    user: User,
}

pub(crate) async fn handle(
    State(app): State<App>,
    call: Call,
    identity: Identity,
) -> Result<Json<Me>, Error> {
    let user = app
        .account(&call, identity.user)
        .await?
        .filter(|user| user.is_active)
        .ok_or_else(|| Error::new(Code::AuthUserNotFound, "User not found"))?;
    Ok(Json(Me {
        top: user.clone(),
        user,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_there_twice() {
        let user = crate::openapi::example_user();
        let me = Me {
            top: user.clone(),
            user,
        };
        insta::assert_json_snapshot!(me);
    }
}
