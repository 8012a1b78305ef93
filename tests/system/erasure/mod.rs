//! A person who is erased is found nowhere any more, and stays erased.

mod crashes;
mod keys;
mod kms;
mod nowhere;
mod restored;
mod stores;

use amaima::stack::wait_for;
use domain::{account::Account, id::AccountId};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tests::{
    client::{self, Client},
    world::{PATIENCE, World},
};

const PASSWORD: &str = "SecurePass123!";

/// Somebody of this name at this address, signed in once more from a device of this name.
async fn person(world: &World, name: &str, email: &str, device: &str) -> Client {
    let mut client = world.client();
    let body = json!({ "name": name, "email": email, "password": PASSWORD });
    let (status, answer) = client.post("/v1/auth/register", &body).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    let body = json!({
        "email": email, "password": PASSWORD,
        "device_id": format!("{device}-id"), "device_name": device,
    });
    let (status, answer) = client.post("/v1/auth/login", &body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    client.adopt(&answer);
    client
}

/// Asks, and waits for the answer.
async fn ask(client: &Client, question: &str) -> Value {
    let (status, answer) = client
        .post("/v1/query", &json!({ "query": question }))
        .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

/// Has everything about this person forgotten.
async fn delete(client: &Client, password: &str) -> (StatusCode, Value) {
    let request = client.request(Method::DELETE, "/v1/users/me");
    let answer = request.json(&json!({ "password": password })).send().await;
    client::read(answer.expect("an answer")).await
}

/// Waits until the log says that the person is erased, and the read models have nothing of them.
async fn erased(world: &World, client: &Client) {
    let account = id(client);
    let log = world.log().await;
    let pool = world.database().await;
    wait_for("the erasure", PATIENCE, || async {
        let loaded = log.load_from_leader::<Account>(account.uuid()).await;
        let state = loaded.map_err(|error| error.to_string())?.state;
        if state != Account::Erased {
            return Err(format!("{state:?}"));
        }
        let rows: i64 = sqlx::query_scalar(
            "SELECT (SELECT count(*) FROM rm.queries WHERE owner = $1)
                  + (SELECT count(*) FROM rm.api_keys WHERE account_id = $1)
                  + (SELECT count(*) FROM rm.sessions WHERE account_id = $1)
                  + (SELECT count(*) FROM rm.accounts WHERE account_id = $1)",
        )
        .bind(account.uuid())
        .fetch_one(&pool)
        .await
        .map_err(|error| error.to_string())?;
        (rows == 0).then_some(()).ok_or(format!("{rows} rows"))
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", world.tail_of_logs()));
}

fn id(client: &Client) -> AccountId {
    let user = client.user.as_deref().expect("signed in");
    user.parse().expect("an id")
}
