//! The decision and its reason.

use super::{
    Asked, Models, Obstacle, REASON_BYTES, Rule, Rules, Unroutable, models::Candidate,
    rules::Choose,
};
use crate::{query::Route, subject::ANY_MODEL};

/// Models and rules that a reason tells about at most.
const TOLD: usize = 8;
/// Characters of a model's id in a reason at most.
const ID_CHARACTERS: usize = 64;

/// How much is asked of a model, ever less.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// A free place, memory and a context that seems long enough.
    Free,
    /// A context that seems long enough: the query waits.
    Waits,
    /// That it is not known to be impossible: its worker counts the tokens.
    Tries,
}

/// A model of a rule that can do it.
struct Choice<'a> {
    id: &'a str,
    model: &'a Candidate,
    /// In the rule's list.
    place: usize,
}

pub(super) fn decide(
    rules: &Rules,
    asked: &Asked<'_>,
    models: &Models<'_>,
) -> Result<Route, Unroutable> {
    let mut about = Vec::new();
    let mut others = Vec::new();
    for rule in rules.iter() {
        match rule.mismatch(asked) {
            Some(why) => others.push(format!("`{}`: {why}", rule.name)),
            None => {
                about.push(rule);
                if rule.only {
                    break;
                }
            }
        }
    }
    if about.is_empty() {
        return Err(Unroutable(format!(
            "no rule is about it ({})",
            few(&others)
        )));
    }
    if let Some(id) = asked.model {
        return by_name(id, &about, asked, models);
    }
    if models.taking.is_empty() {
        return with_nobody(&about, asked);
    }
    for stage in [Stage::Free, Stage::Waits, Stage::Tries] {
        for rule in &about {
            let choices = choices(rule, asked, models);
            if let Some(taken) = choices.iter().find(|choice| choice.passes(stage, asked)) {
                let before = about.iter().take_while(|each| *each != rule);
                others.extend(before.map(|rule| match stage {
                    Stage::Free => format!("`{}`: no model with a free place", rule.name),
                    Stage::Waits | Stage::Tries => format!("`{}`: no model for it", rule.name),
                }));
                let reason = [
                    taken.because(rule, stage),
                    kind(asked),
                    not_taken(taken, rule, &choices, asked, models),
                    listed("Rules passed over: ", &others),
                ];
                return Ok(route(taken.id, rule, reason.join(""), asked));
            }
        }
    }
    let none = about.iter().map(|rule| why_none(rule, asked, models));
    Err(Unroutable(few(&none.collect::<Vec<_>>())))
}

/// A model that was asked for is taken if a rule that is about the query lists it.
fn by_name(
    id: &str,
    about: &[&Rule],
    asked: &Asked<'_>,
    models: &Models<'_>,
) -> Result<Route, Unroutable> {
    let taking = models.taking.get(id);
    let leaving = || models.leaving.get(id);
    let Some(model) = taking.or_else(leaving) else {
        return Err(Unroutable(format!("no worker has {}", quoted(id))));
    };
    let Some(rule) = about.iter().find(|rule| rule.place(id).is_some()) else {
        let names: Vec<_> = about
            .iter()
            .map(|rule| format!("`{}`", rule.name))
            .collect();
        let names = few(&names);
        return Err(Unroutable(format!(
            "{} is not among the models of the rules that are about it ({names})",
            quoted(id)
        )));
    };
    if let Some(obstacle) = model.obstacle(asked) {
        return Err(Unroutable(format!("{} {obstacle}", quoted(id))));
    }
    let places = match taking {
        Some(model) => model.places(),
        None => "its worker takes nothing more, the query waits for the next one".to_owned(),
    };
    let (told, name) = (quoted(id), &rule.name);
    let reason = format!("{told}, which was asked for; rule `{name}` admits it: {places}. ");
    Ok(route(id, rule, reason + &kind(asked), asked))
}

/// Nobody can be chosen from: the query waits for the first model that a rule names, or for any
/// where it takes any.
fn with_nobody(about: &[&Rule], asked: &Asked<'_>) -> Result<Route, Unroutable> {
    let named = |rule: &Rule| {
        let patterns = rule.models.iter().map(String::as_str);
        let mut known = patterns.filter(|pattern| *pattern == "*" || !pattern.ends_with('*'));
        known.next().map(str::to_owned)
    };
    let found = about.iter().find_map(|rule| Some((rule, named(rule)?)));
    let Some((rule, pattern)) = found else {
        return Err(Unroutable("no worker is there".into()));
    };
    let (model, waits_for) = match pattern.as_str() {
        "*" => (ANY_MODEL, "whoever comes first".to_owned()),
        id => (id, quoted(id)),
    };
    let name = &rule.name;
    let reason = format!("No worker is there: by rule `{name}` the query waits for {waits_for}. ");
    Ok(route(model, rule, reason + &kind(asked), asked))
}

/// Those of a rule's models that can do it, best first.
fn choices<'a>(rule: &Rule, asked: &Asked<'_>, models: &'a Models<'_>) -> Vec<Choice<'a>> {
    let only_demo = models.only_demo();
    let mut choices: Vec<_> = models
        .taking
        .iter()
        .filter(|(id, model)| only_demo || !model.abilities.demo || rule.names(id))
        .filter(|(_, model)| model.obstacle(asked).is_none())
        .filter_map(|(&id, model)| {
            let place = rule.place(id)?;
            Some(Choice { id, model, place })
        })
        .collect();
    // The sort keeps the order by id among equals.
    choices.sort_by_key(|Choice { model, place, .. }| match rule.choose {
        Choose::First => (*place as i64, 0),
        Choose::Freest => (-model.free, 0),
        Choose::Longest => (-i64::from(model.length()), -model.free),
    });
    choices
}

impl Choice<'_> {
    fn passes(&self, stage: Stage, asked: &Asked<'_>) -> bool {
        match stage {
            Stage::Free => self.model.is_free(asked) && self.model.seems_to_fit(asked),
            Stage::Waits => self.model.seems_to_fit(asked),
            Stage::Tries => true,
        }
    }

    fn because(&self, rule: &Rule, stage: Stage) -> String {
        let (id, places) = (quoted(self.id), self.model.places());
        let state = match stage {
            Stage::Free => places,
            Stage::Waits => format!("{places}; no model has room for it now, it waits"),
            Stage::Tries => format!("{places}; it may be too long for every model"),
        };
        let (name, choose) = (&rule.name, rule.choose.as_str());
        format!("{id} by rule `{name}`, {choose}: {state}. ")
    }
}

impl Candidate {
    fn places(&self) -> String {
        format!("{} of {} places free", self.free.max(0), self.places)
    }
}

fn kind(asked: &Asked<'_>) -> String {
    let (operation, complexity) = (asked.operation.as_str(), asked.complexity.as_str());
    let tier = asked
        .tier
        .map_or(String::new(), |tier| format!(", tier {}", tier.as_str()));
    let tokens = asked.tokens;
    format!("Taken for {operation}, {complexity}, about {tokens} tokens{tier}. ")
}

/// Why each other model was not taken.
fn not_taken(
    taken: &Choice<'_>,
    rule: &Rule,
    choices: &[Choice<'_>],
    asked: &Asked<'_>,
    models: &Models<'_>,
) -> String {
    let others = models.taking.iter().filter(|(id, _)| **id != taken.id);
    let told = others.map(|(id, model)| {
        let why = match (model.obstacle(asked), rule.place(id)) {
            (Some(obstacle), _) => obstacle.to_string(),
            (None, None) => "not in the rule".to_owned(),
            (None, Some(_)) if !choices.iter().any(|choice| choice.id == *id) => {
                "a demo model, and not named in full".to_owned()
            }
            (None, Some(_)) if !model.seems_to_fit(asked) => {
                format!("a context of {} tokens", model.length())
            }
            (None, Some(_)) if model.free <= 0 => "no free place".to_owned(),
            (None, Some(_)) if !model.has_memory(asked) => "no memory for it now".to_owned(),
            (None, Some(_)) => format!("{}, behind it", model.places()),
        };
        format!("{}: {why}", quoted(id))
    });
    listed("Not taken: ", &told.collect::<Vec<_>>())
}

/// Why a rule that is about a query has no model for it.
fn why_none(rule: &Rule, asked: &Asked<'_>, models: &Models<'_>) -> String {
    let of_rule = models
        .taking
        .iter()
        .filter(|(id, _)| rule.place(id).is_some());
    let told = of_rule.map(|(id, model)| {
        let why = model.obstacle(asked).as_ref().map(Obstacle::to_string);
        let why = why.unwrap_or_else(|| "a demo model, and not named in full".into());
        format!("{} {why}", quoted(id))
    });
    let told: Vec<_> = told.collect();
    let name = &rule.name;
    match told.as_slice() {
        [] => format!("no worker has a model of rule `{name}`"),
        told => format!("rule `{name}`: {}", few(told)),
    }
}

fn route(model: &str, rule: &Rule, mut reason: String, asked: &Asked<'_>) -> Route {
    reason.truncate(reason.floor_char_boundary(REASON_BYTES));
    Route {
        model: model.to_owned(),
        rule: rule.name.clone(),
        reason: reason.trim_end().to_owned(),
        complexity: asked.complexity,
    }
}

fn quoted(id: &str) -> String {
    let short: String = id.chars().take(ID_CHARACTERS).collect();
    format!("`{short}`")
}

fn listed(what: &str, items: &[String]) -> String {
    match items {
        [] => String::new(),
        items => format!("{what}{}. ", few(items)),
    }
}

/// The first of them, and how many more there are.
fn few(items: &[String]) -> String {
    let told = items
        .iter()
        .take(TOLD)
        .cloned()
        .collect::<Vec<_>>()
        .join("; ");
    match items.len().saturating_sub(TOLD) {
        0 => told,
        more => format!("{told}; and {more} more"),
    }
}
