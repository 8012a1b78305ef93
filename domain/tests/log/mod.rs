//! The write path in memory: a log that is appended to with the expected sequence, writers with
//! copies of their own that may be stale, and everything that can go wrong between them.

use domain::{Actor, Aggregate, Context, Timestamp, commit, id::CommandId, limits};
use proptest::{prelude::*, test_runner::TestCaseError};
use std::{collections::VecDeque, fmt::Debug};
use uuid::Uuid;

/// Writers, each with its copy.
const WRITERS: usize = 3;
/// How often a writer decides again before it gives up.
const ATTEMPTS: usize = 5;

/// What goes wrong with one append.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// It never arrives, and nobody answers.
    LostRequest,
    /// It is stored, and nobody answers.
    LostAnswer,
    /// It is stored, and then the writer dies.
    Crash,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Step<O> {
    /// A client orders something, and tries again until it is answered.
    Send {
        /// What.
        order: O,
        /// Through which writer first.
        writer: usize,
        /// What goes wrong with the first appends.
        faults: Vec<Fault>,
        /// Milliseconds since the step before.
        after: i64,
    },
    /// A copy of an earlier command comes, though it was answered.
    Again {
        /// Which of those so far, modulo their number.
        which: usize,
        /// Through which writer.
        writer: usize,
    },
    /// A writer forgets its copy.
    Restart {
        /// Which.
        writer: usize,
    },
}

/// Scripts over these orders.
pub fn script<O: Debug + Clone>(
    order: impl Strategy<Value = O> + Clone,
) -> impl Strategy<Value = Vec<Step<O>>> {
    let fault = prop_oneof![
        Just(Fault::LostRequest),
        Just(Fault::LostAnswer),
        Just(Fault::Crash),
    ];
    let faults = proptest::collection::vec(fault, 0..3);
    let send = (order, 0..WRITERS, faults, 0i64..90_000);
    let step = prop_oneof![
        4 => send.prop_map(|(order, writer, faults, after)| {
            Step::Send { order, writer, faults, after }
        }),
        3 => (any::<usize>(), 0..WRITERS)
            .prop_map(|(which, writer)| Step::Again { which, writer }),
        1 => (0..WRITERS).prop_map(|writer| Step::Restart { writer }),
    ];
    proptest::collection::vec(step, 0..40)
}

struct Commit<A: Aggregate> {
    command: CommandId,
    events: Vec<A::Event>,
    /// As it would be stored.
    payload: Vec<u8>,
}

/// One aggregate's commits; the sequence of the first is 1.
struct Log<A: Aggregate>(Vec<Commit<A>>);

impl<A: Aggregate> Log<A> {
    /// Appends if the last sequence is the expected one.
    fn append(&mut self, expected: usize, command: CommandId, events: &[A::Event]) -> bool {
        if expected != self.0.len() {
            return false;
        }
        let now = Timestamp::from_millis(0);
        let encoded = commit::encode::<A>(Uuid::nil(), command, now, events).expect("JSON");
        self.0.push(Commit {
            command,
            events: events.to_vec(),
            payload: encoded.payload,
        });
        true
    }
}

/// A writer's copy of the aggregate.
struct Writer<A> {
    state: A,
    last: usize,
    recent: VecDeque<(CommandId, usize)>,
}

impl<A: Aggregate> Default for Writer<A> {
    fn default() -> Self {
        Self {
            state: A::default(),
            last: 0,
            recent: VecDeque::new(),
        }
    }
}

enum Answer {
    /// In effect; the sequence of its commit, unless there was nothing to do.
    Accepted(Option<usize>),
    Refused(String),
    Nothing,
}

impl<A: Aggregate> Writer<A> {
    fn after(&mut self, command: CommandId, events: &[A::Event]) {
        self.state = events
            .iter()
            .fold(std::mem::take(&mut self.state), A::evolve);
        self.last += 1;
        if self.recent.len() == limits::RECENT_COMMANDS {
            self.recent.remove(1);
        }
        self.recent.push_back((command, self.last));
    }

    fn catch_up(&mut self, log: &Log<A>) {
        for commit in &log.0[self.last..] {
            self.after(commit.command, &commit.events);
        }
    }

    /// As command-svc does it.
    fn execute(
        &mut self,
        log: &mut Log<A>,
        command: &A::Command,
        cx: &Context,
        faults: &mut impl Iterator<Item = Fault>,
    ) -> Answer {
        let mut fresh = false;
        for _ in 0..ATTEMPTS {
            let known = self.recent.iter().find(|(id, _)| *id == cx.command_id);
            if let Some((_, seq)) = known {
                return Answer::Accepted(Some(*seq));
            }
            let events = match self.state.decide(command.clone(), cx) {
                Ok(events) if !events.is_empty() => events,
                // Only what was just read may refuse, or find nothing to do.
                _ if !fresh => {
                    self.catch_up(log);
                    fresh = true;
                    continue;
                }
                Ok(_) => return Answer::Accepted(None),
                Err(refused) => return Answer::Refused(refused.to_string()),
            };
            match faults.next() {
                None => {
                    if log.append(self.last, cx.command_id, &events) {
                        self.after(cx.command_id, &events);
                        return Answer::Accepted(Some(self.last));
                    }
                }
                Some(Fault::LostRequest) => {}
                Some(Fault::LostAnswer) => {
                    log.append(self.last, cx.command_id, &events);
                }
                Some(Fault::Crash) => {
                    log.append(self.last, cx.command_id, &events);
                    *self = Self::default();
                    return Answer::Nothing;
                }
            }
            self.catch_up(log);
            fresh = true;
        }
        Answer::Nothing
    }
}

/// Plays a script and checks that what comes out is what each command once would have made.
/// `resolve` makes a command of an order, given the state as it is when it is first sent.
///
/// Only accepted commands are sent again after their answer: a refusal is not in the log, and a
/// copy of it that is still under way is stopped by its deadline.
///
/// # Errors
/// The first difference.
pub fn play<A, O>(
    steps: Vec<Step<O>>,
    resolve: impl Fn(&O, &A, u128) -> (A::Command, Actor),
) -> Result<(), TestCaseError>
where
    A: Aggregate + PartialEq,
    A::Event: PartialEq,
{
    let mut log = Log::<A>(vec![]);
    let mut writers: [Writer<A>; WRITERS] = std::array::from_fn(|_| Writer::default());
    let mut once = A::default();
    let mut accepted = vec![];
    let (mut now, mut number) = (0, 0);
    for step in steps {
        match step {
            Step::Restart { writer } => writers[writer] = Writer::default(),
            Step::Again { which, writer } => {
                let Some((command, cx, seq)) = pick(&accepted, which) else {
                    continue;
                };
                let again = writers[writer].execute(&mut log, command, cx, &mut [].into_iter());
                let Answer::Accepted(again) = again else {
                    return Err(TestCaseError::fail("a repeat is not accepted"));
                };
                prop_assert_eq!(again, *seq, "a repeat gets the first answer");
            }
            Step::Send {
                order,
                writer,
                faults,
                after,
            } => {
                (now, number) = (now + after, number + 1);
                let (command, actor) = resolve(&order, &once, number);
                let cx = Context {
                    now: Timestamp::from_millis(now),
                    actor,
                    command_id: CommandId::new(Uuid::from_u128(number)),
                };
                let expected = once.decide(command.clone(), &cx);
                if let Ok(events) = &expected {
                    once = events.iter().fold(once, A::evolve);
                }
                let mut faults = faults.into_iter();
                let mut tries = writer..;
                let answer = loop {
                    let writer = &mut writers[tries.next().unwrap_or(0) % WRITERS];
                    match writer.execute(&mut log, &command, &cx, &mut faults) {
                        Answer::Nothing => {}
                        answer => break answer,
                    }
                };
                match (answer, expected) {
                    (Answer::Accepted(seq), Ok(events)) => {
                        prop_assert_eq!(seq.is_some(), !events.is_empty());
                        accepted.push((command, cx, seq));
                    }
                    (Answer::Refused(rule), Err(refused)) => {
                        prop_assert_eq!(rule, refused.to_string());
                    }
                    _ => return Err(TestCaseError::fail("another answer than once")),
                }
            }
        }
    }
    check(&log, writers, &once)
}

fn pick<T>(list: &[T], which: usize) -> Option<&T> {
    list.get(which.checked_rem(list.len())?)
}

fn check<A>(log: &Log<A>, writers: [Writer<A>; WRITERS], once: &A) -> Result<(), TestCaseError>
where
    A: Aggregate + PartialEq,
    A::Event: PartialEq,
{
    let fold = |state: A, commits: &[Commit<A>]| {
        let events = commits.iter().flat_map(|commit| &commit.events);
        events.fold(state, A::evolve)
    };
    let whole = fold(A::default(), &log.0);
    prop_assert_eq!(&whole, once, "the fold of the log is not each command once");
    for mut writer in writers {
        writer.catch_up(log);
        prop_assert_eq!(
            &writer.state,
            &whole,
            "a writer's copy is not the fold of the log"
        );
    }
    for (index, commit) in log.0.iter().enumerate() {
        let first = log
            .0
            .iter()
            .position(|other| other.command == commit.command);
        prop_assert_eq!(first, Some(index), "a command is in the log twice");
        let back: Vec<A::Event> = commit::decode("log", &commit.payload).expect("readable");
        prop_assert_eq!(&back, &commit.events);
    }
    // A snapshot at every place, and the rest.
    for place in 0..=log.0.len() {
        let state = fold(A::default(), &log.0[..place]);
        let written = serde_json::to_vec(&state).expect("JSON");
        let read: A = serde_json::from_slice(&written).expect("it is read back");
        prop_assert_eq!(&read, &state);
        prop_assert_eq!(&fold(read, &log.0[place..]), &whole);
    }
    Ok(())
}
