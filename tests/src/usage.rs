//! Four weeks of questions, made up: what analysts ask about. The same on every machine, since all
//! of it is integers. One worker takes the questions in order, so that some have to wait.

use crate::{commits::part, history::random::Random};
use domain::{
    Timestamp, account, email,
    id::{AccountId, EmailId, QueryId, RefreshId, SessionId},
    query::{Answer, CancelledBy, Event, Query, Submission, Usage},
    session,
    wire::error::Code,
};
use infra::append::Part;

/// Words that stand in questions, answers, names, addresses, devices and messages, and that no
/// analyst may ever see.
pub const WORDS: [&str; 6] = [
    "heron",
    "reeds",
    "Mia",
    "example.com",
    "Phone",
    "kingfisher",
];

/// Monday, 2025-03-03, in milliseconds.
const BEGIN: i64 = 1_740_960_000_000;
const DAYS: i64 = 28;
const DAY: i64 = 86_400_000;
const HOUR: i64 = 3_600_000;
const END: i64 = BEGIN + DAYS * DAY;
const PEOPLE: usize = 240;
/// Of these, so many are there from the first day.
const FIRST: usize = 90;
/// Out of 189 questions of a weekday, those of each hour.
const HOURS: [usize; 24] = [
    1, 1, 1, 1, 1, 2, 4, 8, 14, 18, 17, 14, 10, 14, 18, 17, 14, 10, 7, 5, 4, 3, 3, 2,
];
/// Longest life of a query.
const LIFE: i64 = 900_000;

struct Person {
    account: AccountId,
    registered: i64,
    tier: account::Tier,
    /// Asks on so many of a hundred weekdays.
    keen: usize,
    /// Loses interest after so many days.
    stays: i64,
}

struct Question {
    at: i64,
    owner: AccountId,
    operation: &'static str,
    model: &'static str,
    files: usize,
}

/// All commits, in the order of the log.
pub fn commits() -> Vec<Part> {
    let mut random = Random::new(11);
    let mut log = Log::default();
    let people: Vec<Person> = (0..PEOPLE)
        .map(|number| register(number, &mut random, &mut log))
        .collect();
    let mut questions = ask(&people, &mut random);
    questions.sort_by_key(|question| question.at);
    let mut free = BEGIN;
    for question in questions {
        run(&question, &mut free, &mut random, &mut log);
    }
    log.parts()
}

#[derive(Default)]
struct Log(Vec<(i64, Vec<Part>)>);

impl Log {
    fn query(&mut self, query: QueryId, command: uuid::Uuid, at: i64, event: Event) {
        let part = part::<Query>(query.uuid(), command, Timestamp::from_millis(at), event);
        self.0.push((at, vec![part]));
    }

    /// In the order of time, as far as time has come.
    fn parts(mut self) -> Vec<Part> {
        self.0.sort_by_key(|(at, _)| *at);
        let until = self.0.partition_point(|(at, _)| *at < END);
        self.0.truncate(until);
        self.0.into_iter().flat_map(|(_, parts)| parts).collect()
    }
}

fn register(number: usize, random: &mut Random, log: &mut Log) -> Person {
    let (account, session) = (AccountId::new(random.id()), SessionId::new(random.id()));
    let day = if number < FIRST {
        0
    } else {
        random.below(DAYS as usize) as i64
    };
    let millis = BEGIN + day * DAY + random.below(DAY as usize / 3) as i64;
    let at = Timestamp::from_millis(millis);
    let tier = match random.below(100) {
        0..70 => account::Tier::Free,
        70..93 => account::Tier::Pro,
        _ => account::Tier::Enterprise,
    };
    let address = format!("{account}@example.com");
    let (refresh, command) = (RefreshId::new(random.id()), random.id());
    let claimed = email::Event::Claimed { account, at };
    let registered = account::Event::Registered {
        account,
        email: address.clone(),
        name: "Mia Example".into(),
        password_hash: "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo".into(),
        tier,
        at,
    };
    let opened = session::Event::Opened {
        session,
        account,
        refresh,
        device_id: None,
        device_name: Some("Phone".into()),
        at,
    };
    let parts = vec![
        part::<email::Email>(EmailId::of(&address).uuid(), command, at, claimed),
        part::<account::Account>(account.uuid(), command, at, registered),
        part::<session::Session>(session.uuid(), command, at, opened),
    ];
    log.0.push((millis, parts));
    Person {
        account,
        registered: millis,
        tier,
        keen: 15 + random.below(60),
        stays: match random.below(100) {
            0..12 => 0,
            12..40 => 2,
            _ => DAYS,
        },
    }
}

/// Who asks what, and when.
fn ask(people: &[Person], random: &mut Random) -> Vec<Question> {
    let mut questions = vec![];
    for day in 0..DAYS {
        let is_weekend = day % 7 > 4;
        for person in people {
            let age = day - (person.registered - BEGIN) / DAY;
            let keen = if is_weekend {
                person.keen / 4
            } else {
                person.keen
            };
            // Whoever has just registered came to ask.
            let asks = age == 0 || random.below(100) < keen;
            if age < 0 || age >= person.stays || !asks {
                continue;
            }
            let most = match person.tier {
                account::Tier::Free => 6,
                account::Tier::Pro => 16,
                account::Tier::Enterprise => 40,
            };
            for _ in 0..=random.below(most) {
                let within = hour(random) * HOUR + random.below(HOUR as usize) as i64;
                let at = BEGIN + day * DAY + within;
                questions.push(question(at.max(person.registered + 30_000), person, random));
            }
        }
    }
    // The four weeks end in the middle of something.
    questions.extend((0..3).map(|index| question(END - 1_500 + index, &people[0], random)));
    questions
}

fn hour(random: &mut Random) -> i64 {
    let mut dice = random.below(HOURS.iter().sum());
    let of_dice = |weight: &usize| {
        let is_it = dice < *weight;
        dice = dice.saturating_sub(*weight);
        is_it
    };
    HOURS.iter().position(of_dice).unwrap_or_default() as i64
}

fn question(at: i64, person: &Person, random: &mut Random) -> Question {
    let operation = match random.below(100) {
        0..60 => "general",
        60..85 => "analysis",
        _ => "summarize",
    };
    let model = match (operation, random.below(100)) {
        ("analysis", 0..80) | ("general", 0..25) => "llama-3.1-8b",
        ("summarize", 0..40) | ("general", 25..40) => "remote-large",
        _ => "qwen3-4b",
    };
    let files = if random.one_in(7) {
        1 + random.below(3)
    } else {
        0
    };
    let owner = person.account;
    Question {
        at,
        owner,
        operation,
        model,
        files,
    }
}

/// What becomes of a question: the worker takes it when it is free.
fn run(question: &Question, free: &mut i64, random: &mut Random, log: &mut Log) {
    let query = QueryId::new(random.id());
    let submission = Submission {
        text: "Where does the heron nest?".into(),
        operation: question.operation.into(),
        file_ids: (0..question.files)
            .map(|_| random.id().to_string())
            .collect(),
        context: None,
        reference: None,
        options: None,
    };
    let at = Timestamp::from_millis(question.at);
    let submitted = Event::Submitted {
        query,
        owner: question.owner,
        submission,
        at,
        route: None,
    };
    log.query(query, random.id(), question.at, submitted);

    let started = (*free).max(question.at) + 20 + random.below(60) as i64;
    let latency = latency(question, random);
    let fate = random.below(1000);
    let gives_up = question.at + 2_000 + random.below(20_000) as i64;
    if fate < 8 {
        let ended = question.at + 5;
        return fail(query, Code::QueryRoutingError, ended, random, log);
    }
    if fate < 40 && gives_up < started {
        return cancel(query, gives_up, random, log);
    }
    if started > question.at + LIFE {
        return fail(query, Code::QueryTimeout, question.at + LIFE, random, log);
    }
    let taken = Event::Started {
        query,
        worker: "kingfisher".into(),
        model: question.model.into(),
        attempt: 1,
        at: Timestamp::from_millis(started),
    };
    log.query(query, random.id(), started, taken);
    let ended = match fate {
        8..24 if gives_up < started + latency => gives_up,
        40..62 => started + latency / 3,
        62..68 => question.at + LIFE,
        _ => started + latency,
    };
    *free = ended;
    match fate {
        8..24 if ended == gives_up => cancel(query, ended, random, log),
        40..62 => fail(query, Code::QueryModelError, ended, random, log),
        62..68 => fail(query, Code::QueryTimeout, ended, random, log),
        _ => complete(query, question, latency, ended, random, log),
    }
}

/// Milliseconds of inference. The third week sees the large model slow.
fn latency(question: &Question, random: &mut Random) -> i64 {
    let (least, spread) = match question.model {
        "llama-3.1-8b" => (9_000, 40_000),
        "qwen3-4b" => (3_000, 15_000),
        _ => (1_500, 6_000),
    };
    // Of two draws the smaller: short answers are more frequent than long ones.
    let drawn = random.below(spread).min(random.below(spread)) as i64;
    let whole = least + drawn + 1_200 * question.files as i64;
    let is_slow = question.model == "llama-3.1-8b" && (question.at - BEGIN) / (7 * DAY) == 2;
    if is_slow { whole * 17 / 10 } else { whole }
}

fn complete(
    query: QueryId,
    question: &Question,
    latency: i64,
    ended: i64,
    random: &mut Random,
    log: &mut Log,
) {
    // Six digits of a probability; the provider of the remote model tells none.
    let confidence = 400_000 + random.below(300_000) + random.below(300_000);
    let knows = question.model != "remote-large";
    let files = u32::try_from(question.files).unwrap_or(0);
    let answer = Answer {
        response_text: "In the reeds behind the mill.".into(),
        model_used: question.model.into(),
        confidence: knows.then_some(confidence as f64 / 1e6),
        latency_ms: latency.unsigned_abs(),
        finish_reason: "stop".into(),
        usage: Usage {
            prompt_tokens: 20 + random.below(400) as u32 + 900 * files,
            completion_tokens: 15 + random.below(600) as u32,
        },
        chunks: 12,
    };
    let at = Timestamp::from_millis(ended);
    log.query(
        query,
        random.id(),
        ended,
        Event::Completed { query, answer, at },
    );
}

fn fail(query: QueryId, code: Code, ended: i64, random: &mut Random, log: &mut Log) {
    let message = "The heron has flown.".into();
    let at = Timestamp::from_millis(ended);
    let failed = Event::Failed {
        query,
        code,
        message,
        at,
    };
    log.query(query, random.id(), ended, failed);
}

fn cancel(query: QueryId, ended: i64, random: &mut Random, log: &mut Log) {
    let at = Timestamp::from_millis(ended);
    let by = CancelledBy::Owner;
    log.query(
        query,
        random.id(),
        ended,
        Event::Cancelled { query, by, at },
    );
}
