//! Turns a conversation into the prompt that the model was trained on.
//!
//! Templates are the Jinja sources that model directories ship, rendered as the `transformers`
//! library does: blocks trimmed, Python string methods available, `raise_exception` to refuse.
//! See <https://huggingface.co/docs/transformers/chat_templating>.

use std::fmt;
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::files::read_text;
use crate::tokenizer::{Tokenizer, TokenizerConfig};

const NAME: &str = "chat";

/// Bytes of a template at most. Those that models ship have some ten thousand.
const SOURCE_LIMIT: usize = 1 << 20;

/// What one rendering may cost, in the template engine's unit: an instruction, an element, or some
/// 64 bytes that it makes. A loop that does not end, or a text that doubles, is refused and not computed.
/// Lists are added lazily and cost nothing (minijinja 3.1), so one that doubles has no bound.
const FUEL: u64 = 2_000_000;
/// More for each byte of the messages, which a template may look at and copy several times.
const FUEL_PER_BYTE: u64 = 64;

/// Bytes of a rendered text at most: so many, and more for each byte of the messages, as a template
/// may repeat some of them.
const TEXT_LIMIT: usize = 1 << 20;
const TEXT_PER_BYTE: usize = 16;

/// Used where a model directory has no template: one line per message, named by its role.
const PLAIN: &str = "\
{%- for message in messages -%}
{{ message.role }}: {{ message.content | trim }}
{% endfor -%}
{%- if add_generation_prompt -%}assistant:{%- endif -%}";

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`, as far as the template knows them.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// A compiled template together with the special tokens that it may print.
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
    /// The plain default prints no special tokens, so the tokenizer has to add its own.
    plain: bool,
    /// The file that it is from.
    origin: Option<&'static str>,
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("plain", &self.plain)
            .finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// Takes the template from `chat_template.jinja`, else from `chat_template` of
    /// tokenizer_config.json (the one named `default` where there are several), else the plain
    /// one.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Json`], or [`Error::ChatTemplate`] when it does not compile or
    /// refuses a lone message of a user, which every question here is.
    pub fn load(dir: &Path, tokenizer: &Tokenizer) -> Result<Self, Error> {
        const FILE: &str = "chat_template.jinja";
        let path = dir.join(FILE);
        let config = tokenizer.config();
        let (source, origin) = match path.exists() {
            true => (Some(read_text(&path)?), Some(FILE)),
            false => match config.chat_template() {
                Some(source) => (Some(source.to_owned()), Some("tokenizer_config.json")),
                None => (None, None),
            },
        };
        let template = Self {
            origin,
            ..Self::compile(source, config)?
        };
        template.render(&[Message {
            role: "user".into(),
            content: "Hello".into(),
        }])?;
        Ok(template)
    }

    /// The file of the model directory that the template is from; none for the plain one.
    pub fn origin(&self) -> Option<&'static str> {
        self.origin
    }

    fn compile(source: Option<String>, config: &TokenizerConfig) -> Result<Self, Error> {
        if let Some(length) = source.as_ref().map(String::len)
            && length > SOURCE_LIMIT
        {
            let reason = format!("it has {length} bytes, at most {SOURCE_LIMIT} are served");
            return Err(Error::ChatTemplate(minijinja::Error::new(
                ErrorKind::SyntaxError,
                reason,
            )));
        }
        let mut environment = Environment::new();
        environment.set_syntax(
            SyntaxConfig::builder()
                .trim_blocks(true)
                .lstrip_blocks(true)
                .build()
                .map_err(Error::ChatTemplate)?,
        );
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |reason: String| -> Result<Value, _> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, reason))
        });
        let plain = source.is_none();
        environment
            .add_template_owned(NAME, source.unwrap_or_else(|| PLAIN.to_owned()))
            .map_err(Error::ChatTemplate)?;
        Ok(Self {
            environment,
            bos_token: config.bos_token().unwrap_or_default().to_owned(),
            eos_token: config.eos_token().unwrap_or_default().to_owned(),
            plain,
            origin: None,
        })
    }

    /// The rendered conversation, ending where the assistant's next answer begins.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] where the template fails, calls `raise_exception` or writes far more
    /// than it was given.
    pub fn render(&self, messages: &[Message]) -> Result<String, Error> {
        let bytes: usize = messages.iter().map(|each| each.content.len()).sum();
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(FUEL + FUEL_PER_BYTE * bytes as u64));
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| context! { role => &message.role, content => &message.content })
            .collect();
        let text = environment
            .get_template(NAME)
            .and_then(|template| {
                template.render(context! {
                    messages,
                    add_generation_prompt => true,
                    bos_token => &self.bos_token,
                    eos_token => &self.eos_token,
                    // Templates ask whether they are none, as transformers passes them.
                    tools => (),
                    documents => (),
                })
            })
            .map_err(Error::ChatTemplate)?;
        let limit = TEXT_LIMIT.saturating_add(TEXT_PER_BYTE.saturating_mul(bytes));
        if text.len() > limit {
            let length = text.len();
            let reason = format!("it writes {length} bytes, at most {limit} are served");
            return Err(Error::ChatTemplate(minijinja::Error::new(
                ErrorKind::InvalidOperation,
                reason,
            )));
        }
        Ok(text)
    }

    /// The ids of the rendered conversation; special tokens inside the contents are removed
    /// before rendering.
    ///
    /// # Errors
    /// As [`render`](Self::render), and [`Error::Tokenizer`].
    pub fn prompt(&self, tokenizer: &Tokenizer, messages: &[Message]) -> Result<Vec<u32>, Error> {
        let messages: Vec<Message> = messages
            .iter()
            .map(|message| Message {
                role: tokenizer.without_special_tokens(&message.role),
                content: tokenizer.without_special_tokens(&message.content),
            })
            .collect();
        let text = self.render(&messages)?;
        match self.plain {
            true => tokenizer.encode_whole(&text),
            false => tokenizer.encode(&text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(source: Option<&str>) -> ChatTemplate {
        let config = serde_json::from_str(r#"{"bos_token":"<s>","eos_token":{"content":"</s>"}}"#)
            .expect("a tokenizer config");
        ChatTemplate::compile(source.map(str::to_owned), &config).expect("a template")
    }

    fn messages(list: &[(&str, &str)]) -> Vec<Message> {
        list.iter()
            .map(|(role, content)| Message {
                role: (*role).into(),
                content: (*content).into(),
            })
            .collect()
    }

    #[test]
    fn the_plain_default_names_the_roles() {
        let text = template(None).render(&messages(&[("system", "Be kind."), ("user", " Hi\n")]));
        assert_eq!(
            text.expect("text"),
            "system: Be kind.\nuser: Hi\nassistant:"
        );
    }

    #[test]
    fn python_methods_slices_and_trimmed_blocks_work_as_in_transformers() {
        let source = "{{ bos_token }}{% for m in messages[::-1] %}\n  {% if loop.first %}\n\
            <{{ m['role'] }}>{{ m.content.strip().split('|')[-1] }}{{ eos_token }}\n  {% endif %}\n\
            {% if m.content.startswith('a') %}{% break %}{% endif %}\n{% endfor %}\
            {% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}";
        let text = template(Some(source)).render(&messages(&[("user", "x"), ("user", " a|b ")]));
        assert_eq!(text.expect("text"), "<s><user>b</s>\n<assistant>");
    }

    #[test]
    fn raise_exception_refuses_with_its_reason() {
        let template = template(Some("{{ raise_exception('roles must alternate') }}"));
        let Err(Error::ChatTemplate(error)) = template.render(&[]) else {
            panic!("expected a refusal")
        };
        assert!(
            error.to_string().contains("roles must alternate"),
            "{error}"
        );
    }

    #[test]
    fn what_is_not_passed_is_none() {
        let source = "{% if tools is not none or documents is not none %}wrong{% endif %}right";
        let text = template(Some(source)).render(&[]);
        assert_eq!(text.expect("text"), "right");
    }

    #[test]
    fn a_long_conversation_has_what_it_needs() {
        let source = "{% for m in messages %}{% set text = m.role ~ m.content.strip() %}\
            {{ bos_token + text | trim + eos_token }}{% endfor %}";
        let content = "word ".repeat(1_000_000);
        let text = template(Some(source)).render(&messages(&[("user", &content)]));
        assert_eq!(text.expect("text").len(), content.len() - 1 + 11);
    }

    #[test]
    fn templates_that_would_not_end_or_fill_the_memory_are_refused() {
        let endless = [
            "{% include 'chat' %}",
            "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
            "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}x\
                {% endfor %}{% endfor %}{% endfor %}",
            "{% set ns = namespace(x='abcd') %}{% for i in range(60) %}\
                {% set ns.x = ns.x ~ ns.x %}{% endfor %}",
            "{{ 'abcdefgh' * 99999999999 }}",
        ];
        for source in endless {
            let result = template(Some(source)).render(&[]);
            assert!(matches!(result, Err(Error::ChatTemplate(_))), "{source}");
        }
    }

    #[test]
    fn a_text_much_longer_than_the_messages_is_refused() {
        let twice = format!("{{{{ ('x' * {TEXT_LIMIT}) ~ messages[0].content * 20 }}}}");
        let content = "four".repeat(TEXT_LIMIT);
        for (source, messages) in [
            (format!("{{{{ 'x' * {} }}}}", TEXT_LIMIT + 1), messages(&[])),
            (twice, messages(&[("user", &content)])),
        ] {
            let Err(Error::ChatTemplate(error)) = template(Some(&source)).render(&messages) else {
                panic!("expected a refusal")
            };
            assert!(error.to_string().contains("at most"), "{error}");
        }
        let longest = format!("{{{{ 'x' * {TEXT_LIMIT} }}}}");
        let text = template(Some(&longest)).render(&[]).expect("text");
        assert_eq!(text.len(), TEXT_LIMIT);
    }

    #[test]
    fn a_template_that_does_not_compile_is_refused() {
        let config = serde_json::from_str("{}").expect("an empty config");
        let nested = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
        for source in ["{% if %}".to_owned(), nested, " ".repeat(SOURCE_LIMIT + 1)] {
            let result = ChatTemplate::compile(Some(source), &config);
            assert!(matches!(result, Err(Error::ChatTemplate(_))), "{result:?}");
        }
    }
}
