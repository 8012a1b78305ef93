//! The console, in a real browser.

use std::{path::Path, time::Duration};
use tests::{
    browser::Browser,
    world::{PATIENCE, World},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_person_registers_and_sees_an_answer() {
    let world = World::start().await;
    let browser = Browser::start(1200, 900).await.expect("a browser");
    browser
        .goto(&world.url("/register"))
        .await
        .expect("the page");
    for (name, text) in [
        ("name", "Mia Berg"),
        ("email", "mia@example.com"),
        ("password", "SecurePass123!"),
    ] {
        browser.fill(name, text).await.expect("a field");
    }
    browser.click("Create account").await.expect("the button");
    browser
        .wait_for_text("Recent queries", PATIENCE)
        .await
        .expect("the dashboard");
    assert!(
        browser
            .url()
            .await
            .expect("an address")
            .ends_with("/dashboard")
    );
    browser.click("New Query").await.expect("the link");
    let submit = async {
        browser
            .fill("query", "Tell me everything about the token stream.")
            .await?;
        browser.click("Submit").await
    };
    browser
        .wait_for_text("Submit", PATIENCE)
        .await
        .expect("the page");
    assert_eq!(browser.text("h1").await.expect("a heading"), "New Query");
    submit.await.expect("a question");
    browser
        .wait_for_text("completed", Duration::from_secs(60))
        .await
        .expect("the answer's end");
    // The facts are read once the answer has ended.
    browser
        .wait_for_text("Confidence:", PATIENCE)
        .await
        .expect("the facts");
    let page = browser.text("body").await.expect("the page's text");
    for mark in ["Model:", "amaima-demo", "Latency:", "Confidence:"] {
        assert!(page.contains(mark), "{mark} is missing in {page}");
    }
    if let Ok(file) = std::env::var("AMAIMA_SCREENSHOT") {
        browser
            .screenshot(Path::new(&file))
            .await
            .expect("a screenshot");
    }
}
