//! What every [`Provider`] promises, as one suite: the engine on each device, the simulation and the
//! remote providers pass the very same.
//!
//! A test makes a provider and a [`Kit`] that says what to ask it, and calls [`Kit::check`]. Each
//! promise is a function of its own here; all panic with what was promised and what came instead.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::chat_template::Message;
use crate::error::Error;
use crate::generation::Finish;
use crate::provider::{Answer, ChatRequest, End, Item, Provider, Token, Wishes};

/// How soon a cancellation, a deadline or a drop must have been seen.
const SEEN: Duration = Duration::from_secs(2);
/// How long anything else may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to ask a provider.
#[derive(Debug, Clone, Copy)]
pub struct Kit<'a> {
    /// Questions that have answers of their own, the same each time they are asked greedily.
    pub questions: &'a [&'a str],
    /// A question whose answer is still going on half a second after its first item.
    pub endless: &'a str,
    /// Tokens of an answer at most, with which `endless` is that long.
    pub max_new_tokens: usize,
}

/// Everything that came of an answer.
#[derive(Debug, Clone, PartialEq)]
struct Heard {
    text: String,
    tokens: Vec<Token>,
    end: End,
}

impl Kit<'_> {
    /// Checks every promise, one after the other.
    ///
    /// # Panics
    /// When one is broken.
    pub async fn check(&self, provider: &dyn Provider) {
        self.one_end_and_nothing_after_it(provider).await;
        self.interleaved_answers_do_not_mix(provider).await;
        self.a_cancelled_answer_ends(provider).await;
        self.a_deadline_is_kept(provider).await;
        self.a_dropped_answer_leaves_nothing(provider).await;
        self.what_is_out_of_range_is_refused(provider).await;
        self.published_ids_are_gone_on_with_or_refused(provider)
            .await;
    }

    fn request(&self, question: &str) -> ChatRequest {
        let message = Message {
            role: "user".into(),
            content: question.into(),
        };
        ChatRequest {
            wishes: Wishes {
                temperature: Some(0.0),
                ..Wishes::default()
            },
            ..ChatRequest::new(vec![message], self.max_new_tokens)
        }
    }

    async fn one_end_and_nothing_after_it(&self, provider: &dyn Provider) {
        for question in self.questions {
            let mut answer = begin(provider, self.request(question));
            let heard = listen(&mut answer).await;
            for _ in 0..3 {
                let more = timeout(PATIENCE, answer.next()).await.expect("no hanging");
                assert_eq!(more, None, "something came after the end");
            }
            let finish = &heard.end.finish;
            assert!(
                matches!(finish, Finish::Stop | Finish::Length),
                "`{question}` ended with {finish:?}"
            );
            assert!(!heard.text.is_empty(), "`{question}` got no text");
            assert_eq!(heard.end.model, provider.card().model);
            counted(provider, &heard, self.max_new_tokens);
        }
        idle(provider).await;
    }

    async fn interleaved_answers_do_not_mix(&self, provider: &dyn Provider) {
        let mut alone = Vec::new();
        for question in self.questions {
            alone.push(listen(&mut begin(provider, self.request(question))).await);
        }
        let begun: Vec<Answer> = self
            .questions
            .iter()
            .map(|question| begin(provider, self.request(question)))
            .collect();
        let together = begun.into_iter().map(|mut answer| async move {
            let heard = listen(&mut answer).await;
            heard.text
        });
        let together = futures_util::future::join_all(together).await;
        for ((question, alone), together) in self.questions.iter().zip(alone).zip(together) {
            assert_eq!(together, alone.text, "`{question}` in company, then alone");
        }
        idle(provider).await;
    }

    async fn a_cancelled_answer_ends(&self, provider: &dyn Provider) {
        // Before anything is asked of it, before its first item, and in the middle.
        for items in [None, Some(0), Some(1)] {
            let request = self.request(self.endless);
            let cancel = request.cancel.clone();
            if items.is_none() {
                cancel.cancel();
            }
            let mut answer = begin(provider, request);
            for _ in 0..items.unwrap_or(0) {
                text(&mut answer).await;
            }
            cancel.cancel();
            let cancelled = Instant::now();
            let heard = listen(&mut answer).await;
            assert_eq!(heard.end.finish, Finish::Cancelled, "after {items:?} items");
            let took = cancelled.elapsed();
            assert!(took < SEEN, "a cancellation was seen after {took:?}");
            idle(provider).await;
        }
    }

    async fn a_deadline_is_kept(&self, provider: &dyn Provider) {
        for millis in [0, 400] {
            let deadline = Instant::now() + Duration::from_millis(millis);
            let mut answer = begin(
                provider,
                ChatRequest {
                    deadline: Some(deadline),
                    ..self.request(self.endless)
                },
            );
            if millis > 0 {
                // A consumer that waits keeps an endless answer from being whole in time.
                text(&mut answer).await;
                tokio::time::sleep_until(deadline.into()).await;
            }
            let heard = listen(&mut answer).await;
            assert_eq!(
                heard.end.finish,
                Finish::Timeout,
                "a deadline of {millis} ms"
            );
            let late = deadline.elapsed();
            assert!(late < SEEN, "a deadline was seen {late:?} late");
            idle(provider).await;
        }
    }

    async fn a_dropped_answer_leaves_nothing(&self, provider: &dyn Provider) {
        let before = provider.load();
        for items in [0, 1, 2] {
            let mut answers: Vec<Answer> = (0..3)
                .map(|_| begin(provider, self.request(self.endless)))
                .collect();
            assert_eq!(provider.load().running, 3, "answers that were begun");
            for answer in &mut answers {
                for _ in 0..items {
                    text(answer).await;
                }
            }
            drop(answers);
            idle(provider).await;
        }
        assert_eq!(provider.load(), before, "what was free is free again");
    }

    async fn what_is_out_of_range_is_refused(&self, provider: &dyn Provider) {
        let good = || self.request(self.endless);
        let wishing = |wishes| ChatRequest { wishes, ..good() };
        let wish = Wishes::default;
        let of_role = |role: &str| {
            let mut request = good();
            request.messages[0].role = role.into();
            request
        };
        #[rustfmt::skip]
        let mut cases = vec![
            ("messages", ChatRequest { messages: vec![], ..good() }),
            ("messages", of_role("root")),
            ("max_new_tokens", ChatRequest { max_new_tokens: 0, ..good() }),
            ("stop", ChatRequest { stop: vec![String::new()], ..good() }),
            ("logprobs", ChatRequest { logprobs: Some(21), ..good() }),
            ("temperature", wishing(Wishes { temperature: Some(-1.0), ..wish() })),
            ("temperature", wishing(Wishes { temperature: Some(f32::NAN), ..wish() })),
            ("top_p", wishing(Wishes { top_p: Some(0.0), ..wish() })),
            ("min_p", wishing(Wishes { min_p: Some(2.0), ..wish() })),
            ("presence_penalty", wishing(Wishes { presence_penalty: Some(3.0), ..wish() })),
            ("frequency_penalty", wishing(Wishes { frequency_penalty: Some(-3.0), ..wish() })),
        ];
        if !provider.card().abilities.logprobs {
            let asking = ChatRequest {
                logprobs: Some(0),
                ..good()
            };
            cases.push(("logprobs", asking));
        }
        for (expected, request) in cases {
            match provider.answer(request) {
                Err(Error::Request { field, .. }) => assert_eq!(field, expected),
                other => panic!("a bad `{expected}` is not refused: {other:?}"),
            }
        }
        idle(provider).await;
    }

    async fn published_ids_are_gone_on_with_or_refused(&self, provider: &dyn Provider) {
        let Some(question) = self.questions.first() else {
            return;
        };
        let resumed = |generated| ChatRequest {
            generated,
            ..self.request(question)
        };
        if !provider.card().abilities.resume {
            let refused = provider.answer(resumed(vec![1]));
            let is_named = matches!(
                refused,
                Err(Error::Request {
                    field: "generated",
                    ..
                })
            );
            assert!(is_named, "ids were not refused");
            return;
        }
        let whole = listen(&mut begin(provider, self.request(question))).await;
        let ids: Vec<u32> = whole.tokens.iter().filter_map(|token| token.id).collect();
        assert_eq!(ids.len(), whole.tokens.len(), "whoever resumes tells ids");
        let half = ids.len() / 2;
        let rest = listen(&mut begin(provider, resumed(ids[..half].to_vec()))).await;
        assert_eq!(rest.tokens, whole.tokens[half..], "other tokens");
        assert!(whole.text.ends_with(&rest.text), "another text");
        assert_eq!(rest.end.usage, whole.end.usage, "another count");
        idle(provider).await;
    }
}

fn begin(provider: &dyn Provider, request: ChatRequest) -> Answer {
    provider.answer(request).expect("a good request is taken")
}

/// Usage is what the ids say, where there are ids.
fn counted(provider: &dyn Provider, heard: &Heard, most: usize) {
    let ids = heard.tokens.iter().filter(|token| token.id.is_some());
    let ids = ids.count();
    if ids == 0 {
        return;
    }
    let usage = heard.end.usage.expect("whoever tells ids counts them");
    assert_eq!(usage.completion_tokens, ids, "counted otherwise than told");
    assert!(usage.completion_tokens <= most, "more than were asked for");
    assert!(usage.prompt_tokens > 0, "a prompt has tokens");
    let likely = heard.tokens.iter().all(|token| token.logprob <= 0.0);
    assert!(likely || !provider.card().abilities.logprobs, "{heard:?}");
}

/// The next item, which is text.
async fn text(answer: &mut Answer) {
    let item = timeout(PATIENCE, answer.next()).await.expect("an item");
    assert!(matches!(item, Some(Item::Text { .. })), "{item:?}");
}

/// Everything up to the end, which must come.
async fn listen(answer: &mut Answer) -> Heard {
    let (mut text, mut tokens) = (String::new(), Vec::new());
    loop {
        let item = timeout(PATIENCE, answer.next()).await.expect("an item");
        match item.expect("a stream has an end") {
            Item::Text {
                text: more,
                tokens: told,
            } => {
                text.push_str(&more);
                tokens.extend(told);
            }
            Item::End(end) => {
                text.push_str(&end.text);
                return Heard { text, tokens, end };
            }
        }
    }
}

/// Nothing is in hand any more, very soon.
async fn idle(provider: &dyn Provider) {
    let since = Instant::now();
    while provider.load().running > 0 {
        let load = provider.load();
        assert!(since.elapsed() < SEEN, "still in hand: {load:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
