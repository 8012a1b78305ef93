//! Random commands from several senders at once through the real write path, each sent more than
//! once and decided by two instances of command-svc: every command is in the log at most once, a
//! repeat gets the first answer, and the state is the fold of the log.

use domain::{
    Actor, Aggregate,
    id::{AccountId, CommandId, QueryId, RefreshId, SessionId},
    query::{Answer, Query, Submission, Usage},
    session::Session,
    wire::{
        command::{Body, Outcome, Reply, Request, Via},
        error::Code,
    },
};
use futures_util::future::join_all;
use infra::{bus::Commands, clock, event_store};
use std::{
    collections::{HashMap, HashSet},
    fmt::Debug,
};
use tests::world::{Options, World};
use uuid::Uuid;

const SENDERS: u64 = 6;
const COMMANDS: u64 = 16;

/// Random numbers that are the same in every run (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % n
    }
}

fn request(actor: Actor, body: Body) -> Request {
    Request {
        id: CommandId::new(clock::fresh_id()),
        actor,
        request_id: "test".into(),
        traceparent: None,
        deadline: clock::now().plus_millis(60_000),
        fingerprint: None,
        body,
    }
}

/// Two instances of command-svc, and nobody who would give commands of its own.
async fn world() -> (World, Commands) {
    let world = World::with(Options {
        no_worker: true,
        ..Default::default()
    })
    .await;
    let nats = infra::config::Nats::at(&world.stack.endpoints().nats_url);
    let sealing = world.stack.endpoints().sealing().expect("master keys");
    let each = world.lifecycle.clone();
    world.lifecycle.spawn("another command-svc", async move {
        let config = command_svc::Config::at(nats, sealing);
        command_svc::run(config, each)
            .await
            .expect("command-svc runs");
    });
    let commands = Commands::new(world.nats().await);
    (world, commands)
}

/// Sends each command one to three times, some copies at the same time. Answers with the sequences
/// of those that were accepted.
async fn send(commands: &Commands, random: &mut Random, request: &Request) -> (Reply, Option<u64>) {
    let copies = 1 + random.below(3);
    let replies = join_all((0..copies).map(|_| commands.insist(request))).await;
    let seqs: HashSet<u64> = replies
        .iter()
        .filter_map(|reply| match reply {
            Reply::Accepted { seq, .. } => Some(*seq),
            _ => None,
        })
        .collect();
    let first = replies.into_iter().next().expect("a reply");
    (first, seqs.into_iter().min())
}

/// Checks one aggregate's log, and that folding it by hand gives what is loaded.
async fn check<A>(world: &World, id: Uuid) -> (A, HashMap<CommandId, u64>)
where
    A: Aggregate + PartialEq + Debug,
{
    let messages = world.commits::<A>(id).await;
    let mut commits = HashMap::new();
    let mut state = A::default();
    for (message, events) in &messages {
        let command = event_store::command_of(&message.headers).expect("a command");
        let before = commits.insert(command, message.seq);
        assert_eq!(before, None, "{command} is in the log twice");
        assert!(!events.is_empty());
        state = events.iter().fold(state, A::evolve);
    }
    let loaded = world.log().await.load::<A>(id).await.unwrap();
    assert_eq!(loaded.state, state);
    assert_eq!(
        Some(loaded.last_seq),
        messages.last().map(|(message, _)| message.seq)
    );
    (state, commits)
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_end_as_their_log_tells() {
    let (world, commands) = world().await;
    let owner = AccountId::new(Uuid::new_v4());
    let queries: Vec<QueryId> = (0..4).map(|_| QueryId::new(Uuid::new_v4())).collect();
    let senders = (0..SENDERS).map(|sender| {
        let (commands, queries) = (&commands, &queries);
        async move {
            let mut random = Random(sender);
            let mut accepted = vec![];
            for n in 0..COMMANDS {
                // Everybody asks all four first, each in an order of its own.
                let (which, what) = match n {
                    0..4 => (n + sender, 0),
                    _ => (random.below(4), random.below(14)),
                };
                let query = queries[(which % 4) as usize];
                let worker = Actor::Worker(format!("w{sender}"));
                let (actor, body) = match what {
                    0 => {
                        let submission = Submission {
                            text: "Why?".into(),
                            operation: "general".into(),
                            file_ids: vec![],
                            context: None,
                            reference: None,
                            options: None,
                        };
                        let (named, via) = (true, Via::Socket);
                        let submit = Body::SubmitQuery {
                            query,
                            named,
                            via,
                            submission,
                        };
                        (Actor::User(owner), submit)
                    }
                    11 => (Actor::User(owner), Body::CancelQuery { query }),
                    12 => {
                        let answer = Answer {
                            response_text: format!("{sender}/{n}"),
                            model_used: "m".into(),
                            confidence: None,
                            latency_ms: 1,
                            finish_reason: "stop".into(),
                            usage: Usage::default(),
                            chunks: 0,
                        };
                        (worker, Body::CompleteQuery { query, answer })
                    }
                    13 => {
                        let (code, message) = (Code::QueryModelError, "m".into());
                        (
                            worker,
                            Body::FailQuery {
                                query,
                                code,
                                message,
                            },
                        )
                    }
                    _ => (
                        worker,
                        Body::StartQuery {
                            query,
                            model: "m".into(),
                        },
                    ),
                };
                let request = request(actor, body);
                let (reply, seq) = send(commands, &mut random, &request).await;
                assert!(!matches!(reply, Reply::Unavailable), "{reply:?}");
                if let Some(seq) = seq {
                    // Much later it is answered as it was.
                    accepted.push((query, request, seq));
                    let (query, early, seq) =
                        &accepted[random.below(accepted.len() as u64) as usize];
                    let again = commands.insist(early).await;
                    let Reply::Accepted { seq: later, .. } = again else {
                        panic!("{query}: {again:?} to a repeat of {:?}", early.body)
                    };
                    assert!(later >= *seq, "{query}");
                }
            }
            accepted
        }
    });
    let accepted: Vec<_> = join_all(senders).await.into_iter().flatten().collect();
    for query in queries {
        let (state, commits) = check::<Query>(&world, query.uuid()).await;
        let ended = commits.len();
        println!("{query}: {state:?} after {ended} commits");
        for (_, request, seq) in accepted.iter().filter(|(of, ..)| *of == query) {
            // What was accepted without a commit was in effect already.
            let stored = commits.get(&request.id).copied();
            assert!(
                stored.is_none_or(|stored| stored == *seq),
                "{:?}",
                request.body
            );
        }
        assert!(matches!(state, Query::Asked { owner: by, .. } if by == owner));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_rotates_along_one_chain() {
    let (world, commands) = world().await;
    let email = "mia@example.com".to_owned();
    let register = request(
        Actor::Anonymous,
        Body::Register {
            email,
            name: "Mia".into(),
            password: "password123".into(),
        },
    );
    let (reply, _) = send(&commands, &mut Random(1), &register).await;
    let Reply::Accepted {
        outcome: Outcome::SignedIn {
            session, refresh, ..
        },
        ..
    } = reply
    else {
        panic!("{reply:?}")
    };
    // Of several who present the current id at once one wins, and its copies hear the same.
    let mut random = Random(2);
    let (mut current, mut rotations) = (refresh, 0);
    for _ in 0..8 {
        let body = |refresh: RefreshId| Body::Refresh { session, refresh };
        let rivals: Vec<Request> = (0..4)
            .map(|_| request(Actor::Anonymous, body(current)))
            .collect();
        let copies = rivals.iter().flat_map(|rival| [rival, rival]);
        let replies = join_all(copies.map(|rival| commands.insist(rival))).await;
        let next: HashSet<RefreshId> = replies
            .iter()
            .filter_map(|reply| match reply {
                Reply::Accepted {
                    outcome: Outcome::SignedIn { refresh, .. },
                    ..
                } => Some(*refresh),
                _ => None,
            })
            .collect();
        assert_eq!(next.len(), 1, "{replies:?}");
        current = next.into_iter().next().expect("one");
        rotations += 1;
        // The winner much later, in copies: the same pair.
        let winner = rivals
            .iter()
            .find(|rival| RefreshId::derived(&["refresh", &rival.id.to_string()]) == current);
        let (again, _) = send(&commands, &mut random, winner.expect("a winner")).await;
        let Reply::Accepted {
            outcome: Outcome::SignedIn { refresh, .. },
            ..
        } = again
        else {
            panic!("{again:?}")
        };
        assert_eq!(refresh, current);
    }
    let (state, commits) = check::<Session>(&world, SessionId::uuid(session)).await;
    let Session::Open(open) = state else {
        panic!("{state:?}")
    };
    assert_eq!((open.current, open.generation), (current, rotations));
    assert_eq!(commits.len() as u64, rotations + 1);
}
