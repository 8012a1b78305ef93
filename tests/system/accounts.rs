//! Registering, signing in, refreshing, signing out.

use reqwest::{Method, StatusCode};
use serde_json::json;
use tests::{client, world::World};

#[tokio::test(flavor = "multi_thread")]
async fn a_person_registers_signs_in_and_out() {
    let world = World::start().await;
    let mut mia = world.client();
    let body = json!({
        "name": "Mia Berg", "email": "Mia@Example.com", "password": "SecurePass123!",
    });
    let (status, registered) = mia.post("/v1/auth/register", &body).await;
    assert_eq!(status, StatusCode::CREATED, "{registered}");
    assert_eq!(registered["token_type"], "Bearer");
    assert_eq!(registered["expires_in"], 900);
    assert_eq!(registered["user"]["name"], "Mia Berg");
    assert_eq!(registered["user"]["subscription_tier"], "free");
    assert_eq!(registered["user"]["is_active"], true);

    // A login right after registering, in other letters; then the same again is a conflict.
    let login = json!({ "email": " mia@example.COM", "password": "SecurePass123!" });
    let (status, body) = mia.post("/v1/auth/login", &login).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    mia.adopt(&body);
    let again = json!({ "email": "mia@example.com", "password": "otherpassword" });
    let (status, body) = world.client().post("/v1/auth/register", &again).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (StatusCode::CONFLICT, &json!("AUTH_USER_EXISTS"))
    );

    let (status, me) = mia.get("/v1/auth/me").await;
    assert_eq!(status, StatusCode::OK, "{me}");
    assert_eq!(me["email"], "Mia@Example.com");
    assert_eq!(me["user"]["id"], me["id"]);
    assert!(
        me["created_at"]
            .as_str()
            .is_some_and(|at| at.len() == 24 && at.ends_with('Z')),
        "{me}"
    );

    let (_, sessions) = mia.get("/v1/auth/sessions").await;
    assert_eq!(sessions.as_array().map(Vec::len), Some(2), "{sessions}");

    let refresh = json!({ "refresh_token": mia.refresh });
    let (status, body) = mia.post("/v1/auth/logout", &refresh).await;
    assert_eq!(
        (status, body),
        (StatusCode::OK, json!({ "message": "Logged out" }))
    );
    let (status, body) = mia.post("/v1/auth/logout", &refresh).await;
    assert_eq!(status, StatusCode::OK, "logging out is idempotent: {body}");
    // The access token of that session is worthless at once, the other session lives.
    let (status, body) = mia.get("/v1/auth/me").await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (StatusCode::UNAUTHORIZED, &json!("AUTH_TOKEN_INVALID"))
    );
    assert_eq!(body["error"]["message"], "Token has been revoked");
    mia.adopt(&registered);
    assert_eq!(mia.get("/v1/auth/me").await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_passwords_and_unknown_people_look_the_same() {
    let world = World::start().await;
    let known = json!({ "email": "a@example.com", "password": "password123" });
    world.client().post("/v1/auth/register", &known).await;
    let wrong = json!({ "email": "a@example.com", "password": "password124" });
    let unknown = json!({ "email": "b@example.com", "password": "password124" });
    let (status, mut first) = world.client().post("/v1/auth/login", &wrong).await;
    let (_, mut second) = world.client().post("/v1/auth/login", &unknown).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(first["error"]["code"], "AUTH_INVALID_CREDENTIALS");
    first["meta"].take();
    second["meta"].take();
    assert_eq!(first, second);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_parallel_refreshes_one_wins() {
    let world = World::start().await;
    let mia = client::Client::registered(world.http).await;
    let body = json!({ "refresh_token": mia.refresh });
    let anonymous = world.client();
    let attempts = (0..8).map(|_| anonymous.post("/v1/auth/refresh", &body));
    let answers = futures_util::future::join_all(attempts).await;
    let won: Vec<_> = answers
        .iter()
        .filter(|(status, _)| status.is_success())
        .collect();
    assert_eq!(won.len(), 1, "{answers:?}");
    for (status, body) in answers.iter().filter(|(status, _)| !status.is_success()) {
        assert_eq!(*status, StatusCode::UNAUTHORIZED, "{body}");
        assert_eq!(body["error"]["message"], "Token has been revoked");
    }
    // The winner's pair is good, and an outdated access token beside it does no harm.
    let next = json!({ "refresh_token": won[0].1["refresh_token"] });
    let request = anonymous
        .request(Method::POST, "/v1/auth/refresh")
        .bearer_auth("outdated");
    let (status, body) = client::read(request.json(&next).send().await.unwrap()).await;
    assert_eq!(status, StatusCode::OK, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_claimed_once() {
    let world = World::start().await;
    let body = json!({ "email": "one@example.com", "password": "password123" });
    let anonymous = world.client();
    let attempts = (0..6).map(|_| anonymous.post("/v1/auth/register", &body));
    let answers = futures_util::future::join_all(attempts).await;
    let made = answers
        .iter()
        .filter(|(status, _)| *status == StatusCode::CREATED)
        .count();
    let refused = answers
        .iter()
        .filter(|(status, _)| *status == StatusCode::CONFLICT)
        .count();
    assert_eq!((made, refused), (1, 5), "{answers:?}");
}
