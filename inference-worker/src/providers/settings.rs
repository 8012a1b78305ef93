//! Which providers answer, as the environment says it.

use super::dialect::Dialect;
use engine::provider::SimSettings;
use infra::config::{self, Error, Secret};
use reqwest::Url;
use std::time::Duration;

/// Who is asked where no variable says it, in this order, as far as their models are named.
const KNOWN: [&str; 3] = ["openai", "anthropic", "gemini"];

/// Who answers where no directory holds a model.
#[derive(Clone, Debug, PartialEq)]
pub enum Settings {
    /// Nobody: a simulation repeats the questions.
    Sim(SimSettings),
    /// Services on the network.
    Remote {
        /// In the order in which they are asked.
        services: Vec<Service>,
        /// How long anything may take.
        limits: Limits,
    },
}

/// A service on the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// As logs, settings and cards name it.
    pub name: String,
    /// What it speaks.
    pub dialect: Dialect,
    /// Where it is, without the paths of its API.
    pub base_url: Url,
    /// The model to ask for.
    pub model: String,
    /// Who we are there.
    pub key: Option<Secret>,
    /// Whether it tells log-probabilities, which answers' confidence is made of. Not every model
    /// of a service does, and those that do not refuse to be asked.
    pub logprobs: bool,
}

/// How long anything may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// An answer with all its attempts, where the request does not want it sooner.
    pub deadline: Duration,
    /// The silence before the first line of an answer, and between any two.
    pub silence: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(300),
            // Some think for long before they begin.
            silence: Duration::from_secs(120),
        }
    }
}

impl Settings {
    /// `PROVIDERS`, the names of providers in order; `sim` alone is the simulation. Each has
    /// `<NAME>_MODEL`, `<NAME>_API_KEY`, `<NAME>_BASE_URL` and `<NAME>_LOGPROBS`. Besides,
    /// `PROVIDERS_DEADLINE_SECS` and `PROVIDERS_SILENCE_SECS`. `None` where no model is named.
    ///
    /// # Errors
    /// When one of them cannot be read, or something is missing.
    pub fn from_env() -> Result<Option<Self>, Error> {
        let default = Limits::default();
        let seconds = |name, default: Duration| match config::parsed(name, default.as_secs())? {
            0 => Err(Error {
                name,
                reason: "0 is not at least 1".to_owned(),
            }),
            seconds => Ok(Duration::from_secs(seconds)),
        };
        let limits = Limits {
            deadline: seconds("PROVIDERS_DEADLINE_SECS", default.deadline)?,
            silence: seconds("PROVIDERS_SILENCE_SECS", default.silence)?,
        };
        Self::read(&|name| config::text(name, ""), limits).map_err(|reason| Error {
            name: "PROVIDERS",
            reason,
        })
    }

    /// The same with another source of variables, where those that are absent are empty.
    fn read(variable: &dyn Fn(&str) -> String, limits: Limits) -> Result<Option<Self>, String> {
        let listed = variable("PROVIDERS").to_ascii_lowercase();
        let mut names: Vec<&str> = listed.split(',').map(str::trim).collect();
        if listed.is_empty() {
            // A key alone, which many have in their environment, sends nobody's words anywhere.
            let has_model = |name: &&str| !variable(&of(name, "MODEL")).is_empty();
            names = KNOWN.into_iter().filter(has_model).collect();
        }
        if names == ["sim"] {
            return Ok(Some(Self::Sim(SimSettings::default())));
        }
        let mut services: Vec<Service> = Vec::new();
        for name in names {
            if services.iter().any(|service| service.name == name) {
                return Err(format!("`{name}` is named twice"));
            }
            services.push(Service::read(name, variable)?);
        }
        Ok((!services.is_empty()).then_some(Self::Remote { services, limits }))
    }
}

impl Service {
    fn read(name: &str, variable: &dyn Fn(&str) -> String) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if name.is_empty() || name.len() > 32 || !name.chars().all(plain) {
            return Err(format!(
                "`{name}` is no name of at most 32 letters, digits and underscores"
            ));
        }
        let (dialect, usual_url) = match name {
            "sim" => return Err("`sim` stands alone".to_owned()),
            "openai" => (Dialect::OpenAi, Some("https://api.openai.com/v1")),
            "anthropic" => (Dialect::Anthropic, Some("https://api.anthropic.com")),
            "gemini" => {
                let url = "https://generativelanguage.googleapis.com";
                (Dialect::Gemini, Some(url))
            }
            _ => (Dialect::OpenAi, None),
        };
        let given = |what| Some(variable(&of(name, what))).filter(|text| !text.is_empty());
        let missing = |what| format!("`{name}` needs {}", of(name, what));
        let url = given("BASE_URL");
        let key = given("API_KEY").map(Secret::new);
        if url.is_none() && key.is_none() && usual_url.is_some() {
            return Err(missing("API_KEY"));
        }
        let url = url.or(usual_url.map(ToOwned::to_owned));
        let logprobs = match given("LOGPROBS").as_deref() {
            None | Some("false") => false,
            Some("true") if dialect == Dialect::OpenAi => true,
            Some(_) => {
                return Err(format!(
                    "{} is `true` or `false`, and `true` only for a service that speaks OpenAI's API",
                    of(name, "LOGPROBS")
                ));
            }
        };
        Ok(Self {
            base_url: base_url(&url.ok_or_else(|| missing("BASE_URL"))?)
                .map_err(|reason| format!("{} {reason}", of(name, "BASE_URL")))?,
            model: given("MODEL").ok_or_else(|| missing("MODEL"))?,
            name: name.to_owned(),
            dialect,
            key,
            logprobs,
        })
    }
}

/// The variable of a provider.
fn of(name: &str, what: &str) -> String {
    format!("{}_{what}", name.to_ascii_uppercase())
}

/// An address whose text may stand in logs.
fn base_url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "is no URL")?;
    if !["http", "https"].contains(&url.scheme()) || !url.has_host() {
        return Err("is no http:// or https:// address");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has a user or a password: keys stand in a variable of their own");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has a query or a fragment");
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Settings>, String> {
        let get = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map_or(String::new(), |(_, value)| (*value).to_owned())
        };
        Settings::read(&get, Limits::default())
    }

    fn services(variables: &[(&str, &str)]) -> Vec<Service> {
        match read(variables) {
            Ok(Some(Settings::Remote { services, .. })) => services,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn whose_model_is_named_answers() {
        let keys = [("OPENAI_API_KEY", "k"), ("GEMINI_API_KEY", "g")];
        assert_eq!(read(&keys), Ok(None), "a key alone chooses nobody");
        let both = [("OPENAI_MODEL", "m"), ("GEMINI_MODEL", "n")];
        let found = services(&[keys, both].concat());
        let names: Vec<&str> = found.iter().map(|service| &*service.name).collect();
        assert_eq!(names, ["openai", "gemini"]);
        assert_eq!(found[0].base_url.as_str(), "https://api.openai.com/v1");
        assert_eq!(found[1].dialect, Dialect::Gemini);
        assert!(!format!("{found:?}").contains("\"k\""), "{found:?}");
    }

    #[test]
    fn any_name_is_a_service_that_speaks_openais_api() {
        let found = services(&[
            ("PROVIDERS", "vLLM, anthropic"),
            ("VLLM_BASE_URL", "http://10.0.0.7:8000/v1"),
            ("VLLM_MODEL", "qwen"),
            ("VLLM_LOGPROBS", "true"),
            ("ANTHROPIC_API_KEY", "a"),
            ("ANTHROPIC_MODEL", "b"),
            ("OPENAI_MODEL", "is not asked"),
        ]);
        let told: Vec<_> = found
            .iter()
            .map(|s| (&*s.name, s.dialect, s.logprobs))
            .collect();
        let expected = [
            ("vllm", Dialect::OpenAi, true),
            ("anthropic", Dialect::Anthropic, false),
        ];
        assert_eq!(told, expected);
        assert_eq!(found[0].key, None);
    }

    #[test]
    fn the_simulation_is_asked_for_by_name_and_alone() {
        let sim = Settings::Sim(SimSettings::default());
        assert_eq!(read(&[("PROVIDERS", "sim")]), Ok(Some(sim)));
        let both = [
            ("PROVIDERS", "openai,sim"),
            ("OPENAI_MODEL", "m"),
            ("OPENAI_API_KEY", "k"),
        ];
        assert_eq!(read(&both), Err("`sim` stands alone".to_owned()));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let url = ("OPENAI_BASE_URL", "ftp://x");
        let model = ("OPENAI_MODEL", "m");
        let key = ("OPENAI_API_KEY", "k");
        #[rustfmt::skip]
        let cases: [(&[(&str, &str)], &str); 8] = [
            (&[("PROVIDERS", "openai"), key], "`openai` needs OPENAI_MODEL"),
            (&[model], "`openai` needs OPENAI_API_KEY"),
            (&[("PROVIDERS", "ollama"), ("OLLAMA_MODEL", "m")], "`ollama` needs OLLAMA_BASE_URL"),
            (&[("PROVIDERS", "openai,openai"), model, key], "`openai` is named twice"),
            (&[("PROVIDERS", "a b")], "`a b` is no name of at most 32 letters, digits and underscores"),
            (&[model, url], "OPENAI_BASE_URL is no http:// or https:// address"),
            (&[model, ("OPENAI_BASE_URL", "http://me:secret@x/v1")], "OPENAI_BASE_URL has a user or a password: keys stand in a variable of their own"),
            (&[("PROVIDERS", "gemini"), ("GEMINI_MODEL", "m"), ("GEMINI_API_KEY", "k"), ("GEMINI_LOGPROBS", "true")], "GEMINI_LOGPROBS is `true` or `false`, and `true` only for a service that speaks OpenAI's API"),
        ];
        for (variables, expected) in cases {
            assert_eq!(read(variables), Err(expected.to_owned()));
        }
    }
}
