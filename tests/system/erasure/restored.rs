//! A backup that is older than an erasure does not bring the person back: the ledger of erasures,
//! which is newer than any backup, is repeated before anything is served.

use super::{PASSWORD, ask, delete, erased, person};
use amaima::{admin::Exit, stack::wait_for};
use infra::erasures;
use reqwest::StatusCode;
use std::fs;
use tempfile::TempDir;
use tests::{
    admin::{json, json_of},
    archive,
    client::Client,
    keys::Kept,
    world::{Options, PATIENCE, World},
};

#[tokio::test(flavor = "multi_thread")]
async fn an_older_backup_does_not_bring_an_erased_person_back() {
    let copying = Options {
        copying: true,
        ..Options::default()
    };
    let world = World::with(copying).await;
    let gone = person(&world, "Zephyrine", "zephyrine@canary.example", "phone").await;
    let stays = person(&world, "Mia", "mia@example.com", "phone").await;
    for client in [&gone, &stays] {
        ask(client, "What is a projection here?").await;
    }
    let place = TempDir::new().expect("a directory");
    let path = |name: &str| place.path().join(name).display().to_string();
    wait_for("a copy of everything", PATIENCE, || async {
        let (_, report) = json(&world, &["archive"]).await;
        (report["lag_events"] == 0 && report["copied_to"].is_u64())
            .then_some(())
            .ok_or(report.to_string())
    })
    .await
    .expect("the copy goes on");
    let (exit, report) = json(&world, &["backup", "--to", &path("backup")]).await;
    assert_eq!(exit, Exit::Well, "{report}");
    let keys = Kept::of(&world.stack).await;

    // After the backups. Their key is in the one, and their words are in the other.
    assert_eq!(delete(&gone, PASSWORD).await.0, StatusCode::ACCEPTED);
    erased(&world, &gone).await;
    let account = gone.user.clone().expect("signed in");
    let entry = archive::file(&world.stack, &format!("{}{account}.json", erasures::ROOT));
    wait_for("the ledger", PATIENCE, || async {
        entry.exists().then_some(()).ok_or("no entry".to_owned())
    })
    .await
    .expect("the archiver notes it");
    fs::create_dir_all(place.path().join("ledger/erasures")).expect("made");
    let kept = place.path().join(format!("ledger/erasures/{account}.json"));
    fs::copy(&entry, kept).expect("copied");
    world.lifecycle.stop(PATIENCE).await;
    drop(world);

    let stack = keys.other_machine().await;
    let (exit, report) = json_of(
        &stack,
        &[
            "restore",
            "--from",
            &path("backup"),
            "--keys",
            &keys.file(),
            "--ledger",
            &path("ledger"),
        ],
    )
    .await;
    assert_eq!(exit, Exit::Well, "{report}");
    assert_eq!((&report["keys"], &report["erased"]), (&2.into(), &1.into()));
    let world = World::on(stack, copying).await;
    erased(&world, &gone).await;
    let sign_in = |email: &'static str| {
        let body = serde_json::json!({ "email": email, "password": PASSWORD });
        let client = world.client();
        async move { client.post("/v1/auth/login", &body).await }
    };
    let (status, answer) = sign_in("zephyrine@canary.example").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{answer}");
    let mut back = Client::new(world.http);
    back.access.clone_from(&gone.access);
    assert_eq!(back.get("/v1/queries").await.0, StatusCode::UNAUTHORIZED);
    // The other one has everything, and the address can be taken anew.
    let (status, answer) = sign_in("mia@example.com").await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let mut mia = world.client();
    mia.adopt(&answer);
    let (_, found) = mia.get("/v1/queries").await;
    assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
    let again = person(&world, "Somebody", "zephyrine@canary.example", "phone").await;
    assert_ne!(again.user, gone.user);
    world.lifecycle.stop(PATIENCE).await;
}
