//! Servers that misbehave.

use super::{
    KEY, ask, frames,
    frames::{HEAD, around, send, status, whole, word},
    provider,
    server::{Act, Server},
    service,
};
use engine::Finish;
use inference_worker::providers::Dialect;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const ALL: [Dialect; 3] = [Dialect::OpenAi, Dialect::Anthropic, Dialect::Gemini];

/// One that does this first, and then answers well.
async fn first(dialect: Dialect, acts: Vec<Act>) -> Server {
    Server::start(move |number, _| match number {
        0 => acts.clone(),
        _ => whole(dialect, &["all ", "is ", "well"]),
    })
    .await
}

/// It is asked again, and the answer is whole.
async fn is_asked_again(dialect: Dialect, acts: Vec<Act>) {
    let server = first(dialect, acts.clone()).await;
    let provider = provider(vec![service(&server, dialect)]);
    let heard = ask(&*provider, "?").await;
    assert_eq!(heard.text, "all is well", "{dialect:?} after {acts:?}");
    assert_eq!(heard.end.finish, Finish::Stop);
    assert_eq!(server.asked().len(), 2, "{dialect:?} after {acts:?}");
    assert_eq!(provider.load().running, 0);
}

/// It is not asked again: what was said stays, and the reason is told.
async fn is_given_up(dialect: Dialect, acts: Vec<Act>, text: &str, reason: &str) {
    let server = first(dialect, acts.clone()).await;
    let provider = provider(vec![service(&server, dialect)]);
    let heard = ask(&*provider, "?").await;
    assert_eq!(heard.text, text, "{dialect:?} after {acts:?}");
    let found = heard.reason();
    assert!(found.contains(reason), "{found:?} instead of {reason:?}");
    assert_eq!(server.asked().len(), 1, "{dialect:?} after {acts:?}");
}

#[tokio::test]
async fn a_limit_of_requests_is_waited_for() {
    let begun = Instant::now();
    let refusal = status("429 Too Many Requests", "retry-after: 1\r\n", "{}");
    is_asked_again(Dialect::OpenAi, refusal).await;
    assert!(begun.elapsed() >= Duration::from_secs(1), "{begun:?}");
}

#[tokio::test]
async fn nobody_waits_for_longer_than_the_deadline() {
    let begun = Instant::now();
    let refusal = status("429 Too Many Requests", "retry-after: 3600\r\n", "{}");
    is_given_up(Dialect::OpenAi, refusal, "", "status 429").await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{begun:?}");
}

#[tokio::test]
async fn a_server_that_fails_is_asked_three_times() {
    let server = Server::start(|_, _| status("500 Internal Server Error", "", "oops")).await;
    let provider = provider(vec![service(&server, Dialect::OpenAi)]);
    let heard = ask(&*provider, "?").await;
    assert_eq!(heard.reason(), "openai: status 500");
    assert_eq!(server.asked().len(), 3);
    for dialect in ALL {
        is_asked_again(dialect, status("503 Service Unavailable", "", "")).await;
    }
}

#[tokio::test]
async fn a_key_is_never_repeated() {
    let body = format!(r#"{{"error": {{"message": "bad key {KEY}", "code": "invalid_api_key"}}}}"#);
    let server = Server::start(move |_, _| status("401 Unauthorized", "", &body)).await;
    for dialect in ALL {
        let provider = provider(vec![service(&server, dialect)]);
        let heard = ask(&*provider, "?").await;
        let reason = heard.reason();
        assert!(reason.ends_with("status 401 (invalid_api_key)"), "{reason}");
        for shown in [format!("{provider:?}"), format!("{:?}", heard.end)] {
            assert!(!shown.contains(KEY), "{shown}");
        }
    }
    assert_eq!(server.asked().len(), 3, "a wrong key stays wrong");
}

#[tokio::test]
async fn a_cut_stream_is_no_end() {
    for dialect in ALL {
        let (begin, _) = around(dialect, 2);
        let half = word(dialect, "half");
        is_asked_again(dialect, send(&format!("{HEAD}{begin}"))).await;
        is_asked_again(
            dialect,
            send(&format!("{HEAD}{begin}{}", &half[..half.len() - 1])),
        )
        .await;
        is_asked_again(dialect, vec![]).await;
        let cut = send(&format!("{HEAD}{begin}{half}"));
        is_given_up(dialect, cut, "half", "cut before its end").await;
        // A connection that breaks, rather than one that ends.
        let chunked = HEAD.replace("connection: close", "transfer-encoding: chunked");
        let broken = format!("{chunked}{:x}\r\n{half}\r\n7f\r\nand", half.len());
        is_given_up(dialect, send(&broken), "half", "decoding response body").await;
    }
}

#[tokio::test]
async fn pieces_of_frames_are_put_together() {
    for dialect in ALL {
        let text: String = whole(dialect, &["größer ", "☀"])
            .into_iter()
            .filter_map(|act| match act {
                Act::Send(bytes) => String::from_utf8(bytes).ok(),
                Act::Pause(_) | Act::Hang => None,
            })
            .collect();
        let bytes = Arc::new(text.into_bytes());
        let head = HEAD.len();
        let served = bytes.clone();
        // The first goes out byte by byte, the others in two pieces each.
        let server = Server::start(move |number, _| match number {
            0 => {
                let (head, rest) = served.split_at(head);
                let single = rest.iter().map(|byte| Act::Send(vec![*byte]));
                [Act::Send(head.to_vec())]
                    .into_iter()
                    .chain(single)
                    .collect()
            }
            _ => {
                let (left, right) = served.split_at(head + number);
                vec![
                    Act::Send(left.to_vec()),
                    Act::Pause(Duration::from_millis(1)),
                    Act::Send(right.to_vec()),
                ]
            }
        })
        .await;
        let provider = provider(vec![service(&server, dialect)]);
        for piece in 0..bytes.len() - head {
            let heard = ask(&*provider, "?").await;
            assert_eq!(heard.text, "größer ☀", "{dialect:?} cut at {piece}");
            assert_eq!(heard.end.finish, Finish::Stop);
            assert!(heard.end.usage.is_some());
        }
    }
}

#[tokio::test]
async fn silence_is_a_failure() {
    for dialect in ALL {
        let (begin, _) = around(dialect, 2);
        is_asked_again(dialect, vec![Act::Hang]).await;
        let head = Act::Send(HEAD.as_bytes().to_vec());
        is_asked_again(dialect, vec![head.clone(), Act::Hang]).await;
        // Bits of a line that never ends are no sign of life; comments are.
        let drip = [
            Act::Send(b"x".to_vec()),
            Act::Pause(Duration::from_millis(100)),
        ];
        let dripping = [head].into_iter().chain(drip.into_iter().cycle().take(100));
        is_asked_again(dialect, dripping.collect()).await;
        let mut stuck = send(&format!("{HEAD}{begin}{}", word(dialect, "well")));
        stuck.push(Act::Hang);
        is_given_up(dialect, stuck, "well", "silent for 500 ms").await;
    }
    let server = Server::start(|_, _| {
        let mut acts = send(HEAD);
        for _ in 0..10 {
            acts.push(Act::Send(b": still thinking\n\n".to_vec()));
            acts.push(Act::Pause(Duration::from_millis(100)));
        }
        let frames = whole(Dialect::OpenAi, &["thought"]);
        acts.extend(frames.into_iter().map(|act| match act {
            Act::Send(bytes) => Act::Send(bytes[HEAD.len()..].to_vec()),
            other => other,
        }));
        acts
    })
    .await;
    let provider = provider(vec![service(&server, Dialect::OpenAi)]);
    assert_eq!(ask(&*provider, "?").await.text, "thought");
}

#[tokio::test]
async fn what_is_no_answer_is_a_failure() {
    for dialect in ALL {
        for wrong in [
            "data: {\"choices\": [\n\n",
            "data: 7\n\n",
            "data: \u{1}\n\n",
        ] {
            is_asked_again(dialect, send(&format!("{HEAD}{wrong}"))).await;
        }
        let binary = [HEAD.as_bytes(), b"data: \xff\xfe\n\n"].concat();
        is_asked_again(dialect, vec![Act::Send(binary)]).await;
        let page = status("200 OK", "content-type: text/html\r\n", "<p>Sign in</p>");
        is_asked_again(dialect, page).await;
    }
}

#[tokio::test]
async fn lines_and_bodies_that_are_too_long_are_not_kept() {
    let line = vec![b'a'; 3 << 20];
    let endless = vec![
        Act::Send([HEAD.as_bytes(), b"data: ", &line].concat()),
        Act::Hang,
    ];
    is_asked_again(Dialect::OpenAi, endless).await;
    let head = "HTTP/1.1 500 Oops\r\nconnection: close\r\n\r\n";
    let body = vec![Act::Send([head.as_bytes(), &line].concat()), Act::Hang];
    is_asked_again(Dialect::OpenAi, body).await;
    // An answer of ever more frames.
    let server = Server::start(move |_, _| {
        let word = word(Dialect::OpenAi, &"a".repeat(100_000));
        let words = std::iter::repeat_n(Act::Send(word.into_bytes()), 100);
        send(HEAD).into_iter().chain(words).collect()
    })
    .await;
    let provider = provider(vec![service(&server, Dialect::OpenAi)]);
    let heard = ask(&*provider, "?").await;
    assert!(heard.reason().contains("more than"), "{}", heard.reason());
    assert!(heard.text.len() <= 4 << 20, "{}", heard.text.len());
}

#[tokio::test]
async fn an_error_may_come_in_the_stream() {
    let overloaded = [
        (
            Dialect::OpenAi,
            r#"{"error": {"message": "m", "type": "server_error", "code": null}}"#,
        ),
        (
            Dialect::OpenAi,
            r#"{"object": "error", "message": "m", "code": 503}"#,
        ),
        (
            Dialect::Anthropic,
            r#"{"type": "error", "error": {"type": "overloaded_error"}}"#,
        ),
        (
            Dialect::Gemini,
            r#"{"error": {"code": 503, "status": "UNAVAILABLE"}}"#,
        ),
    ];
    for (dialect, error) in overloaded {
        is_asked_again(dialect, send(&format!("{HEAD}data: {error}\n\n"))).await;
        let late = format!("{HEAD}{}data: {error}\n\n", word(dialect, "so far"));
        is_given_up(dialect, send(&late), "so far", "an error in the stream").await;
    }
    let refused = r#"data: {"type": "error", "error": {"type": "invalid_request_error"}}"#;
    let refused = send(&format!("{HEAD}{refused}\n\n"));
    is_given_up(Dialect::Anthropic, refused, "", "invalid_request_error").await;
}

#[tokio::test]
async fn what_follows_the_reason_for_the_end_cannot_spoil_it() {
    let (begin, end) = around(Dialect::OpenAi, 1);
    let reason = end.split_inclusive("\n\n").next().expect("a frame");
    let frames = format!("{HEAD}{begin}{}{reason}", word(Dialect::OpenAi, "whole"));
    let server = Server::start(move |_, _| {
        let broken = frames::send(&format!("{frames}data: {{\n\n"));
        broken.into_iter().chain([Act::Hang]).collect()
    })
    .await;
    let provider = provider(vec![service(&server, Dialect::OpenAi)]);
    let heard = ask(&*provider, "?").await;
    assert_eq!((&*heard.text, &heard.end.finish), ("whole", &Finish::Stop));
    assert_eq!(heard.end.usage, None, "what nobody has said is not made up");
}

#[tokio::test]
async fn nobody_is_led_elsewhere() {
    let other = Server::start(|_, _| whole(Dialect::OpenAi, &["mine now"])).await;
    let elsewhere = format!("location: {}/chat/completions\r\n", other.url);
    for redirect in ["302 Found", "307 Temporary Redirect"] {
        let acts = status(redirect, &elsewhere, "");
        let reason = format!("status {}", &redirect[..3]);
        is_given_up(Dialect::OpenAi, acts, "", &reason).await;
    }
    assert!(other.asked().is_empty(), "a key went elsewhere");
}

#[tokio::test]
async fn nobody_at_home_is_a_failure() {
    let server = Server::start(|_, _| vec![]).await;
    let service = service(&server, Dialect::OpenAi);
    drop(server);
    let heard = ask(&*provider(vec![service]), "?").await;
    let reason = heard.reason();
    assert!(reason.contains("Connection refused"), "{reason}");
    assert!(!reason.contains("http://"), "{reason}");
}
