//! Which tensors a configuration asks for, before any of them is read.

use super::config::Config;

/// A tensor that must be there.
pub(crate) struct Wanted {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
}

/// All of them, one at a time: a configuration may claim more layers than memory could list.
pub(crate) fn layout(config: &Config) -> impl Iterator<Item = Wanted> {
    let table = [config.vocab_size, config.hidden_size];
    let head = (!config.tie_word_embeddings).then(|| wanted("lm_head", "weight", &table));
    [
        wanted("model.embed_tokens", "weight", &table),
        wanted("model.norm", "weight", &[config.hidden_size]),
    ]
    .into_iter()
    .chain(head)
    .chain((0..config.num_hidden_layers).flat_map(|number| layer(config, number)))
}

fn layer(config: &Config, number: usize) -> Vec<Wanted> {
    let hidden = config.hidden_size;
    let intermediate = config.intermediate_size;
    let q = config.num_attention_heads * config.head_dim;
    let kv = config.num_key_value_heads * config.head_dim;
    let projections = [
        ("self_attn.q_proj", q, hidden, config.qkv_bias),
        ("self_attn.k_proj", kv, hidden, config.qkv_bias),
        ("self_attn.v_proj", kv, hidden, config.qkv_bias),
        ("self_attn.o_proj", hidden, q, config.output_bias),
        ("mlp.gate_proj", intermediate, hidden, config.mlp_bias),
        ("mlp.up_proj", intermediate, hidden, config.mlp_bias),
        ("mlp.down_proj", hidden, intermediate, config.mlp_bias),
    ];
    let mut all: Vec<Wanted> = ["input_layernorm", "post_attention_layernorm"]
        .map(|name| part(number, name, "weight", &[hidden]))
        .into();
    if config.qk_norm {
        all.extend(
            ["self_attn.q_norm", "self_attn.k_norm"]
                .map(|name| part(number, name, "weight", &[config.head_dim])),
        );
    }
    for (name, rows, columns, bias) in projections {
        all.push(part(number, name, "weight", &[rows, columns]));
        all.extend(bias.then(|| part(number, name, "bias", &[rows])));
    }
    all
}

fn part(number: usize, name: &str, kind: &str, shape: &[usize]) -> Wanted {
    wanted(&format!("model.layers.{number}.{name}"), kind, shape)
}

fn wanted(name: &str, kind: &str, shape: &[usize]) -> Wanted {
    Wanted {
        name: format!("{name}.{kind}"),
        shape: shape.into(),
    }
}
