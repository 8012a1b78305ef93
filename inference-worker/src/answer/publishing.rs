//! From the model into the token stream.

use super::{Worker, pending::Pending};
use crate::{
    models::Place,
    stream_writer::{Lost, StreamWriter},
};
use domain::wire::{job::Job, token::Body};
use engine::{
    Finish,
    provider::{self, Item},
};
use std::time::Instant;

/// How a generation ended.
pub(super) enum Said {
    /// As it should.
    Ended(Generated),
    /// In the middle, since this worker stops.
    HandedOver,
    /// Without an end.
    Nothing,
    /// It did not go on with what was shown.
    Otherwise,
}

/// The end of a generation, as far as this worker brought it.
pub(super) struct Generated {
    pub(super) end: provider::End,
    /// Tokens of the whole answer that have a probability.
    pub(super) tokens: usize,
}

impl Worker {
    /// Publishes what the model says.
    pub(super) async fn publish(
        &self,
        job: &Job,
        mut items: provider::Answer,
        writer: &mut StreamWriter,
        place: &mut Place,
    ) -> Result<Said, Lost> {
        if writer.is_empty() {
            writer.push(Body::Queued { owner: job.owner }).await?;
        }
        let mut tokens = writer.chunks().map(|chunk| chunk.ids.len()).sum();
        let tells = job
            .options
            .as_ref()
            .is_some_and(|wished| wished.logprobs.is_some());
        let model = place.served().id().to_owned();
        let resumes = place.served().provider().card().abilities.resume;
        let mut pending = Pending::after(writer.chunks(), model, tells);
        loop {
            // What nobody can go on with is finished here, as long as that is possible.
            let may_leave = resumes || writer.chunks().next().is_none();
            let item = tokio::select! {
                biased;
                () = self.handing_over.cancelled(), if may_leave => {
                    if pending.due().is_some() {
                        writer.push(pending.take()).await?;
                    }
                    return Ok(Said::HandedOver);
                }
                () = due(pending.due()) => {
                    writer.push(pending.take()).await?;
                    continue;
                }
                item = items.next() => item,
            };
            place.begun();
            match item {
                Some(Item::Text { text, tokens: told }) => {
                    tokens += told.len();
                    if pending.add(&text, told).is_err() {
                        return Ok(Said::Otherwise);
                    }
                }
                Some(Item::End(end)) if end.finish == Finish::Cancelled => {
                    return Ok(Said::Ended(Generated { end, tokens }));
                }
                Some(Item::End(end)) => {
                    // What was held back gets a chunk without ids, so that whoever resumes after a
                    // crash here knows that it was said.
                    for text in ["", &end.text] {
                        if pending.add(text, vec![]).is_err() {
                            return Ok(Said::Otherwise);
                        }
                        if !pending.is_empty() {
                            writer.push(pending.take()).await?;
                        }
                    }
                    return Ok(Said::Ended(Generated { end, tokens }));
                }
                None => return Ok(Said::Nothing),
            }
        }
    }
}

/// Completes at that time, or never.
async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
