//! A submitted query becomes a job.

use super::Reaction;
use crate::{
    query::Event,
    subject::{ANY_MODEL, Priority},
    wire::job::Job,
};

pub(super) fn react(event: &Event) -> Option<Reaction> {
    match event {
        Event::Submitted {
            query,
            owner,
            submission,
            route,
            at,
        } => Some(Reaction::EnqueueJob {
            model: route
                .as_ref()
                .map_or_else(|| ANY_MODEL.into(), |route| route.model.clone()),
            priority: Priority::Interactive,
            job: Box::new(Job {
                query: *query,
                owner: *owner,
                text: submission.text.clone(),
                operation: submission.operation.clone(),
                options: submission.options.clone(),
                submitted_at: *at,
            }),
        }),
        Event::Started { .. }
        | Event::Completed { .. }
        | Event::Failed { .. }
        | Event::Cancelled { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Timestamp,
        id::{AccountId, QueryId},
        query::{CancelledBy, Submission},
    };
    use uuid::Uuid;

    #[test]
    fn asks_for_a_worker_once() {
        let query = QueryId::new(Uuid::from_u128(1));
        let submitted = Event::Submitted {
            query,
            owner: AccountId::new(Uuid::from_u128(2)),
            submission: Submission {
                text: "Why?".into(),
                operation: "general".into(),
                file_ids: vec![],
                context: None,
                reference: None,
                options: None,
            },
            at: Timestamp::from_millis(3),
            route: None,
        };
        let Some(Reaction::EnqueueJob { job, .. }) = react(&submitted) else {
            panic!("no job")
        };
        assert_eq!((job.query, job.text.as_str()), (query, "Why?"));
        assert_eq!(
            react(&Event::Cancelled {
                query,
                by: CancelledBy::Owner,
                at: Timestamp::from_millis(4)
            }),
            None
        );
    }
}
