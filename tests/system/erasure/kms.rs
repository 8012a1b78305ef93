//! A master key that is held elsewhere: an endpoint that speaks the two calls of the KMS API that we
//! use. It is our own; the real service was not at hand.

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use domain::id::AccountId;
use infra::{
    config::{self, Secret},
    jetstream,
    lifecycle::Lifecycle,
    sealing::{
        Key, Keyring, MasterKeys, Sealing,
        keyring::{Error, Found},
        kms,
    },
};
use serde_json::{Value, json};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tests::world::PATIENCE;
use uuid::Uuid;

/// The service: its key never leaves it.
struct Service {
    key: Key,
    calls: AtomicUsize,
}

async fn call(
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
    body: String,
) -> (StatusCode, Json<Value>) {
    service.calls.fetch_add(1, Ordering::Relaxed);
    let signed = headers["authorization"].to_str().expect("text");
    assert!(
        signed.starts_with("AWS4-HMAC-SHA256 Credential=mia/"),
        "{signed}"
    );
    let asked: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(asked["KeyId"], "alias/amaima");
    let context = asked["EncryptionContext"].to_string();
    let blob = |name: &str| BASE64.decode(asked[name].as_str().expect("a blob"));
    match headers["x-amz-target"].to_str().expect("text") {
        "TrentService.Encrypt" => {
            let sealed = service
                .key
                .seal(context.as_bytes(), &blob("Plaintext").expect("Base64"));
            let sealed = BASE64.encode(sealed.expect("random"));
            let answer = json!({ "CiphertextBlob": sealed, "KeyId": "alias/amaima" });
            (StatusCode::OK, Json(answer))
        }
        "TrentService.Decrypt" => {
            let sealed = blob("CiphertextBlob").expect("Base64");
            match service.key.open(context.as_bytes(), &sealed) {
                Ok(text) => (
                    StatusCode::OK,
                    Json(json!({ "Plaintext": BASE64.encode(text) })),
                ),
                Err(_) => {
                    let refused = json!({ "__type": "InvalidCiphertextException" });
                    (StatusCode::BAD_REQUEST, Json(refused))
                }
            }
        }
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_wrapped_by_a_service_that_keeps_the_master_key() {
    let service = Arc::new(Service {
        key: Key::fresh().expect("random"),
        calls: AtomicUsize::new(0),
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("its address"));
    let router = Router::new()
        .route("/", post(call))
        .with_state(service.clone());
    let (life, stopping) = (Lifecycle::new(), Lifecycle::new());
    let stop = stopping.clone();
    life.spawn("a key management service", async move {
        let until = async move { stop.stopping().await };
        let served = axum::serve(listener, router).with_graceful_shutdown(until);
        served.await.expect("it serves");
    });
    let kms = kms::Config {
        endpoint: Some(endpoint),
        region: "us-east-1".into(),
        access_key: "mia".into(),
        secret_key: Secret::new("secret"),
        session_token: None,
    };
    let local = MasterKeys::fresh_line("local").expect("random");
    let masters = |text: &str| MasterKeys::read(text, Some(&kms)).expect("master keys");

    let stack = amaima::stack::testing().await.expect("the servers start");
    let nats = config::Nats::at(&stack.endpoints().nats_url);
    let client = infra::nats::connect(&nats, "test").await.expect("NATS");
    jetstream::prepare(&client, &nats).await.expect("streams");
    let [mia, ben] = [1, 2].map(|n| AccountId::new(Uuid::from_u128(n)));
    let ring = |text: &str| Keyring::new(&client, Sealing::Keys(masters(text)));
    let first = ring(&local);
    first.for_writing(mia).await.expect("a key");

    // From a key in a file to one that the service keeps, as from any master key to another.
    let service_first = format!("kms kms:alias/amaima\n{local}");
    let done = ring(&service_first).rewrap().await.expect("rotated");
    assert_eq!((done.rewrapped, done.current), (1, 0));
    let held = ring("kms kms:alias/amaima");
    let made = held.for_writing(ben).await.expect("a key").expect("sealed");
    let calls = service.calls.load(Ordering::Relaxed);
    for _ in 0..10 {
        let found = held.find(ben).await.expect("found");
        let Found::Key(key) = found else {
            panic!("{found:?}")
        };
        assert_eq!(key.rows.expose(), made.rows.expose());
    }
    assert_eq!(
        service.calls.load(Ordering::Relaxed),
        calls,
        "it is kept in memory"
    );
    assert!(matches!(held.find(mia).await, Ok(Found::Key(_))));

    // What is put in the place of another person's is not unwrapped.
    let stolen = held.page(1).await.expect("entries");
    let of_ben = stolen
        .iter()
        .find(|entry| entry.subject.contains(&ben.to_string()));
    let eve = AccountId::new(Uuid::from_u128(3));
    let put = held.restore(eve, &of_ben.expect("an entry").payload).await;
    assert!(matches!(put, Err(Error::NotUnwrapped { .. })), "{put:?}");
    // Without the service there is no key, and that passes.
    stopping.begin_stop();
    life.stop(PATIENCE).await;
    let lost = ring("kms kms:alias/amaima").find(ben).await;
    let Err(error) = lost else { panic!("{lost:?}") };
    assert!(error.is_transient(), "{error:?}");
}
