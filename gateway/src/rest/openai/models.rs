//! `GET /v1/models` and `GET /v1/models/{id}`: the models that workers answer with now.

use super::error;
use crate::{
    app::App,
    edge::{Caller, Error, Keyed},
    openapi::Doc,
};
use axum::{
    Json,
    extract::{Path, State},
};
use domain::{
    query::Submission,
    routing::{Needs, Obstacle},
    wire::{
        error::Code,
        worker::{Abilities, Registration},
    },
};
use serde::Serialize;
use std::{collections::BTreeMap, time::Duration};

pub(crate) const LIST: Doc = Doc::get("/v1/models", "The models that answer now")
    .by_key::<Keyed>()
    .in_openais_form()
    .answers(200, "Models");
pub(crate) const GET: Doc = Doc::get("/v1/models/{id}", "One model")
    .by_key::<Keyed>()
    .in_openais_form()
    .answers(200, "Model")
    .refuses(&[Code::NotFound]);
/// An id may have slashes.
pub(crate) const GET_ROUTE: &str = "/v1/models/{*id}";

/// How long the list of workers may take to be read after the start.
const LIST_WAIT: Duration = Duration::from_secs(2);

/// A model, as clients see it: OpenAI's keys, and what else is worth knowing.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Model {
    id: String,
    object: &'static str,
    /// Since when it answers, in seconds.
    created: i64,
    owned_by: String,
    /// Tokens of a prompt and its answer together at most, where that is known.
    context_window: Option<u32>,
    abilities: Abilities,
}

#[derive(Debug, Serialize)]
pub(crate) struct Models {
    object: &'static str,
    data: Vec<Model>,
}

pub(crate) async fn list(State(app): State<App>, _: Caller<Keyed>) -> Result<Json<Models>, Error> {
    let data = present(&app).await?.into_values().collect();
    Ok(Json(Models {
        object: "list",
        data,
    }))
}

pub(crate) async fn get(
    State(app): State<App>,
    _: Caller<Keyed>,
    Path(id): Path<String>,
) -> Result<Json<Model>, Error> {
    let model = present(&app).await?.remove(&id);
    model.map(Json).ok_or_else(|| error::no_model(&id))
}

/// Finds out whether somebody can answer so.
///
/// # Errors
/// When nobody can, and what it is that nobody can.
pub(crate) async fn demand(app: &App, submission: &Submission) -> Result<(), Error> {
    let Some(options) = submission.options.as_deref() else {
        return Ok(());
    };
    let wanted = options.model.as_deref().unwrap_or_default();
    let mut models = present(app).await?;
    // None at all is no reason to doubt the name: workers may come back.
    if models.is_empty() {
        return Err(Error::unavailable());
    }
    let model = models.remove(wanted);
    let model = model.ok_or_else(|| error::no_model(wanted))?;
    let lacks = |parameter, what| {
        let rule = format!("The model '{wanted}' does not {what}");
        Err(error::unsupported(parameter, &rule))
    };
    match Needs::of(submission).obstacle(model.abilities, model.context_window) {
        None => Ok(()),
        Some(Obstacle::Logprobs) => lacks("logprobs", "tell the probabilities of its tokens"),
        Some(Obstacle::Format) => lacks("response_format", "keep to a format"),
        Some(Obstacle::Context { context, least }) => {
            let message = format!(
                "The context of '{wanted}' has {context} tokens, and the conversation at least \
                 {least}"
            );
            Err(error::ended(Code::ValidationTooLarge, message))
        }
    }
}

async fn present(app: &App) -> Result<BTreeMap<String, Model>, Error> {
    let synced = tokio::time::timeout(LIST_WAIT, app.workers.synced()).await;
    synced.map_err(|_| Error::unavailable())?;
    Ok(of(&app.workers.present()))
}

/// What several workers have is one model, which can do what any of them can.
fn of(workers: &[Registration]) -> BTreeMap<String, Model> {
    let mut models: BTreeMap<String, Model> = BTreeMap::new();
    for each in workers.iter().flat_map(|worker| &worker.models) {
        let created = each.loaded_at.as_secs();
        let model = models.entry(each.id.clone()).or_insert_with(|| Model {
            id: each.id.clone(),
            object: "model",
            created,
            owned_by: each.provider.clone(),
            context_window: None,
            abilities: Abilities::default(),
        });
        model.created = model.created.min(created);
        model.context_window = model.context_window.max(each.context);
        model.abilities = Abilities {
            logprobs: model.abilities.logprobs || each.abilities.logprobs,
            format: model.abilities.format || each.abilities.format,
            resume: model.abilities.resume || each.abilities.resume,
            demo: model.abilities.demo || each.abilities.demo,
        };
    }
    models
}

/// A model to show.
#[cfg(test)]
pub(crate) fn example() -> Model {
    Model {
        id: "m".into(),
        object: "model",
        created: 0,
        owned_by: "engine".into(),
        context_window: Some(2_048),
        abilities: Abilities::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{Timestamp, wire::worker};

    fn worker(name: &str, loaded_at: i64, abilities: Abilities) -> Registration {
        Registration {
            worker: name.into(),
            models: vec![worker::Model {
                id: "org/m".into(),
                provider: "engine".into(),
                loaded_at: Timestamp::from_millis(loaded_at),
                context: (loaded_at > 5_000).then_some(2_048),
                abilities,
                places: 8,
                free_places: 8,
                free_tokens: None,
            }],
            draining: false,
            at: Timestamp::from_millis(9_000),
        }
    }

    #[test]
    fn what_several_workers_have_is_one_model() {
        let logprobs = Abilities {
            logprobs: true,
            ..Abilities::default()
        };
        let resume = Abilities {
            resume: true,
            ..Abilities::default()
        };
        let models = of(&[worker("a", 7_000, logprobs), worker("b", 3_000, resume)]);
        let models: Vec<Model> = models.into_values().collect();
        insta::assert_json_snapshot!(models);
    }
}
