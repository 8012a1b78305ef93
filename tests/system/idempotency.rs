//! `Idempotency-Key`: a retry after any failure gets the first answer, and the same key with
//! another body is refused.

use amaima::stack::wait_for;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use domain::{
    Actor,
    id::{CommandId, QueryId},
    query::{Event, Query},
    wire::command::{Body, Reply, Request},
};
use futures_util::future::join_all;
use infra::{bus::Commands, clock};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tests::{
    client::{self, Answer, Client},
    service::Role,
    world::{Options, PATIENCE, Services, World},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

/// Posts until somebody answers, as clients do.
async fn post(client: &Client, path: &str, key: &str, body: &Value) -> Answer {
    let answered = wait_for("an answer", PATIENCE, || async {
        let request = client
            .request(Method::POST, path)
            .header("Idempotency-Key", key)
            .header("Prefer", "respond-async");
        let answer = client::read(request.json(body).send().await.expect("an answer")).await;
        if answer.0 == StatusCode::SERVICE_UNAVAILABLE {
            return Err(answer.1.to_string());
        }
        Ok(answer)
    });
    answered.await.expect("it is answered in the end")
}

fn is_other_body(answer: &Answer) -> bool {
    let detail = json!({
        "field": "Idempotency-Key",
        "message": "Was used with another request body",
        "type": "invalid_value",
    });
    answer.0 == StatusCode::UNPROCESSABLE_ENTITY
        && answer.1["error"]["code"] == "VALIDATION_ERROR"
        && answer.1["error"]["details"] == json!([detail])
}

/// The `jti` of a refresh token.
fn jti(body: &Value) -> Value {
    let token = body["refresh_token"].as_str().expect("a token");
    let claims = token.split('.').nth(1).expect("claims");
    let claims = URL_SAFE_NO_PAD.decode(claims).expect("base64");
    serde_json::from_slice::<Value>(&claims).expect("JSON")["jti"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_gets_the_first_answer_whoever_restarts_meanwhile() {
    let mut world = World::with(Options {
        services: Services::AsProcesses,
        no_worker: true,
        ..Default::default()
    })
    .await;
    let nobody = world.client();
    let (register, login) = ("/v1/auth/register", "/v1/auth/login");
    let (refresh, query) = ("/v1/auth/refresh", "/v1/query");
    let mia = json!({ "email": "mia@example.com", "password": "password123", "name": "Mia" });
    let known = json!({ "email": "mia@example.com", "password": "password123" });
    let question = json!({ "query": "Who are you?" });

    let (status, registered) = post(&nobody, register, "k1", &mia).await;
    assert_eq!(status, StatusCode::CREATED, "{registered}");
    let (status, signed_in) = post(&nobody, login, "k1", &known).await;
    assert_eq!(status, StatusCode::OK, "{signed_in}");
    let mut client = world.client();
    client.adopt(&signed_in);
    let old = json!({ "refresh_token": client.refresh });
    let (status, refreshed) = post(&nobody, refresh, "k1", &old).await;
    assert_eq!(status, StatusCode::OK, "{refreshed}");
    client.adopt(&refreshed);
    let (status, asked) = post(&client, query, "k1", &question).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{asked}");
    let cancel = format!("/v1/queries/{}/cancel", asked["query_id"].as_str().unwrap());
    let (status, cancelled) = post(&client, &cancel, "k1", &json!({})).await;
    assert_eq!(status, StatusCode::OK, "{cancelled}");

    for role in [Role::Gateway, Role::Command] {
        world.kill(role);
        world.spawn(role);
        world.ready().await;

        let (status, again) = post(&nobody, register, "k1", &mia).await;
        assert_eq!(
            (status, &again["user"]),
            (StatusCode::CREATED, &registered["user"])
        );
        assert_eq!(jti(&again), jti(&registered));
        // The session of this login has been refreshed since: its current pair is handed out.
        let (status, again) = post(&nobody, login, "k1", &known).await;
        assert_eq!((status, jti(&again)), (StatusCode::OK, jti(&refreshed)));
        let (status, again) = post(&nobody, refresh, "k1", &old).await;
        assert_eq!((status, jti(&again)), (StatusCode::OK, jti(&refreshed)));
        let again = post(&client, query, "k1", &question).await;
        assert_eq!(again.1["query_id"], asked["query_id"]);
        let again = post(&client, &cancel, "k1", &json!({})).await;
        assert_eq!(again, (StatusCode::OK, cancelled.clone()));

        // The key alone opens nothing, and means one thing.
        let guessed =
            json!({ "email": "mia@example.com", "password": "password124", "name": "Mia" });
        assert!(is_other_body(
            &post(&nobody, register, "k1", &guessed).await
        ));
        assert_eq!(
            post(&nobody, login, "k1", &guessed).await.0,
            StatusCode::UNAUTHORIZED
        );
        let renamed =
            json!({ "email": "mia@example.com", "password": "password123", "name": "Ben" });
        assert!(is_other_body(
            &post(&nobody, register, "k1", &renamed).await
        ));
        let elsewhere =
            json!({ "email": "mia@example.com", "password": "password123", "device_id": "d" });
        assert!(is_other_body(&post(&nobody, login, "k1", &elsewhere).await));
        let current = json!({ "refresh_token": client.refresh });
        assert!(is_other_body(&post(&nobody, refresh, "k1", &current).await));
        for other in [
            json!({ "query": "Who am I?" }),
            json!({ "query": "Who are you?", "operation": "analysis" }),
        ] {
            assert!(is_other_body(&post(&client, query, "k1", &other).await));
        }
    }
    let (_, sessions) = client.get("/v1/auth/sessions").await;
    assert_eq!(sessions.as_array().map(Vec::len), Some(2), "{sessions}");

    // After the end of its session a login's key opens nothing any more.
    let current = json!({ "refresh_token": client.refresh });
    assert_eq!(
        post(&nobody, "/v1/auth/logout", "k1", &current).await.0,
        StatusCode::OK
    );
    assert_eq!(
        post(&nobody, "/v1/auth/logout", "k1", &current).await.0,
        StatusCode::OK
    );
    let (status, body) = post(&nobody, login, "k1", &known).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (StatusCode::UNAUTHORIZED, &json!("AUTH_TOKEN_INVALID"))
    );
    assert_eq!(post(&nobody, login, "k2", &known).await.0, StatusCode::OK);
}

async fn submissions(world: &World, query: QueryId) -> Vec<Event> {
    let commits = world.commits::<Query>(query.uuid()).await;
    commits
        .into_iter()
        .flat_map(|(_, events)| events)
        .filter(|event| matches!(event, Event::Submitted { .. }))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_bodies_at_once_under_one_key_are_one_query() {
    let world = World::with(Options {
        no_worker: true,
        ..Default::default()
    })
    .await;
    let mia = Client::registered(world.http).await;
    for round in 0..3 {
        let key = format!("race {round}");
        let bodies = ["One?", "Two?"].map(|text| json!({ "query": text }));
        let calls = (0..8).map(|n| post(&mia, "/v1/query", &key, &bodies[n % 2]));
        let answers = join_all(calls).await;
        let (won, lost): (Vec<_>, Vec<_>) = answers
            .into_iter()
            .enumerate()
            .partition(|(_, answer)| answer.0 == StatusCode::ACCEPTED);
        assert_eq!((won.len(), lost.len()), (4, 4), "{won:?} {lost:?}");
        let side = won[0].0 % 2;
        let id = &won[0].1.1["query_id"];
        assert!(
            won.iter()
                .all(|(n, answer)| n % 2 == side && answer.1["query_id"] == *id)
        );
        assert!(
            lost.iter().all(|(_, answer)| is_other_body(answer)),
            "{lost:?}"
        );
        let id: QueryId = id.as_str().unwrap().parse().unwrap();
        let stored = submissions(&world, id).await;
        let [Event::Submitted { submission, .. }] = &stored[..] else {
            panic!("{stored:?}")
        };
        assert_eq!(submission.text, ["One?", "Two?"][side]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_and_many_commands_later_it_is_the_same_query() {
    let world = World::with(Options {
        no_worker: true,
        ..Default::default()
    })
    .await;
    let mia = Client::registered(world.http).await;
    // The client goes as soon as it has written, so that nobody hears the answer.
    let body = json!({ "query": "Who are you?" }).to_string();
    let head = format!(
        "POST /v1/query HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nIdempotency-Key: k1\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        mia.access.as_deref().unwrap(),
        body.len()
    );
    for _ in 0..3 {
        let mut gone = TcpStream::connect(world.http).await.unwrap();
        gone.write_all(format!("{head}{body}").as_bytes())
            .await
            .unwrap();
        gone.shutdown().await.unwrap();
    }
    let question = json!({ "query": "Who are you?" });
    let (status, asked) = post(&mia, "/v1/query", "k1", &question).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{asked}");
    let query: QueryId = asked["query_id"].as_str().unwrap().parse().unwrap();
    // More commands than an aggregate remembers.
    let nats = world.nats().await;
    let commands = Commands::new(nats.clone());
    for n in 0..domain::limits::RECENT_COMMANDS + 2 {
        let request = Request {
            id: CommandId::new(clock::fresh_id()),
            actor: Actor::Worker(format!("w{n}")),
            request_id: "test".into(),
            traceparent: None,
            deadline: clock::now().plus_millis(30_000),
            fingerprint: None,
            body: Body::StartQuery {
                query,
                model: "m".into(),
            },
        };
        let reply = commands.send(&request).await;
        assert!(matches!(reply, Reply::Accepted { .. }), "{reply:?}");
    }
    let (_, again) = post(&mia, "/v1/query", "k1", &question).await;
    assert_eq!(again["query_id"], asked["query_id"]);
    let other = json!({ "query": "Who am I?" });
    assert!(is_other_body(&post(&mia, "/v1/query", "k1", &other).await));
    assert_eq!(submissions(&world, query).await.len(), 1);

    // A client's own id leads to the first query whatever else is said, and a refused text leaves
    // nothing behind that a socket could claim.
    let own = uuid::Uuid::new_v4().to_string();
    let named = |text: &str| json!({ "query": text, "query_id": own });
    for text in ["First?", "Second?"] {
        let (status, body) = post(&mia, "/v1/query", "k9", &named(text)).await;
        assert_eq!(
            (status, &body["query_id"]),
            (StatusCode::ACCEPTED, &json!(own)),
            "{body}"
        );
    }
    let mut socket = mia.socket().await;
    for text in ["Who am I?", "Second?"] {
        socket
            .send(&json!({ "type": "submit_query", "query": text }))
            .await;
        let update = socket.frame_of("query_update").await;
        let id = &update["data"]["queryId"];
        assert!(*id != asked["query_id"] && *id != json!(own), "{update}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_cannot_be_read_is_refused_on_every_route_that_takes_one() {
    let world = World::with(Options {
        no_worker: true,
        ..Default::default()
    })
    .await;
    let mia = Client::registered(world.http).await;
    let (_, document) = world.client().get("/openapi.json").await;
    let mut routes = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        let Some(operation) = item.get("post") else {
            continue;
        };
        let headers = operation["parameters"].as_array().expect("parameters");
        assert!(
            headers
                .iter()
                .any(|header| header["name"] == "Idempotency-Key"),
            "{path}"
        );
        let path = path.replace("{id}", &uuid::Uuid::new_v4().to_string());
        for key in [&b"k".repeat(129)[..], b"k\xc3\xa4"] {
            let request = mia
                .request(Method::POST, &path)
                .header("Idempotency-Key", key)
                .json(&json!({}));
            let (status, body) = client::read(request.send().await.unwrap()).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{path}: {body}");
            let error = &body["error"];
            let field = match path.as_str() {
                "/v1/chat/completions" => &error["param"],
                _ => &error["details"][0]["field"],
            };
            assert_eq!(error["code"], "VALIDATION_INVALID_FORMAT", "{path}: {body}");
            assert_eq!(field, "Idempotency-Key", "{path}: {body}");
        }
        routes += 1;
    }
    assert!(routes >= 6, "{routes}");
}
