"""Makes the small random models and the reference figures beside this file.

Each model is a Hugging Face directory with seeded random weights. The weights are scaled so that
the next-token distributions are peaked: with the usual small initialisation every token would be
almost equally likely, and a wrong attention mask or rotation would hardly move a logit.

The reference is what `transformers` computes on the CPU from the weights as saved, in float64
throughout. The library itself drops to float32 in three places (RMS norm, the rotary table and the
eager softmax); `true_float64` replaces the first two and the attention used here is PyTorch's own,
which stays in float64. The result is compared with the untouched float32 model as a check on both.

    python -m pip install -r requirements.txt
    python make.py            # rewrites every directory
    python make.py qwen3      # rewrites one
"""

import json
import math
import pathlib
import shutil
import sys
import zlib

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoConfig

HERE = pathlib.Path(__file__).resolve().parent
PROMPT_LENGTHS = (1, 7, 40)

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "attention_bias": False,
    "mlp_bias": False,
    "hidden_act": "silu",
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 113,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}

QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_act": "silu",
    "hidden_size": 56,
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 7,
    "num_key_value_heads": 1,
    "vocab_size": 101,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "use_sliding_window": False,
    "max_window_layers": 2,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}

# Heads of 16 with a hidden size of 40 over 4 heads: only a reader that takes `head_dim` gets it right.
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "attention_bias": False,
    "hidden_act": "silu",
    "head_dim": 16,
    "hidden_size": 40,
    "intermediate_size": 88,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 97,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "rope_scaling": None,
    "sliding_window": None,
    "use_sliding_window": False,
    "max_window_layers": 2,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}

MISTRAL = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "hidden_act": "silu",
    "head_dim": 8,
    "hidden_size": 32,
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 128,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-05,
    "rope_theta": 100000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}

# With heads of 16 and these figures the eight wavelengths fall into all three branches of the
# llama3 scaling: one is kept, one is blended, six are stretched.
LLAMA3_ROPE = LLAMA | {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 64,
        "rope_type": "llama3",
    },
}

# Of the eight pairs two are kept, one is blended, five are stretched.
QWEN2_YARN = QWEN2 | {
    "hidden_size": 48,
    "num_attention_heads": 3,
    "rope_theta": 10000.0,
    "max_position_embeddings": 128,
    "rope_scaling": {
        "factor": 4.0,
        "beta_fast": 4.0,
        "original_max_position_embeddings": 128,
        "rope_type": "yarn",
    },
}


def newer_keys(config: dict) -> dict:
    """The same configuration as transformers 5 writes it: `rope_parameters` and `dtype`."""
    config = dict(config)
    theta = config.pop("rope_theta")
    scaling = config.pop("rope_scaling", None) or {"rope_type": "default"}
    config["rope_parameters"] = scaling | {"rope_theta": theta}
    config["dtype"] = config.pop("torch_dtype")
    return config


MODELS = {
    "llama": (LLAMA, 1),
    "llama-tied": (LLAMA | {"tie_word_embeddings": True, "intermediate_size": 88}, 1),
    "llama-bf16": (LLAMA | {"torch_dtype": "bfloat16", "num_key_value_heads": 3}, 1),
    "llama3-rope": (LLAMA3_ROPE, 1),
    "mistral": (MISTRAL, 1),
    "qwen2": (QWEN2, 1),
    "qwen2-yarn": (QWEN2_YARN, 1),
    "qwen3": (QWEN3, 1),
    "qwen3-sharded": (newer_keys(QWEN3 | {"vocab_size": 103}), 2),
}


def random_weights(model, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(shape, std):
        return torch.randn(shape, generator=generator, dtype=torch.float32) * std

    weights = {}
    for name, parameter in sorted(model.state_dict().items()):
        shape = parameter.shape
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        if name.endswith("norm.weight") or "layernorm" in name:
            weights[name] = 1.0 + normal(shape, 0.2)
        elif name.endswith(".bias"):
            weights[name] = normal(shape, 0.5)
        elif "embed_tokens" in name or "lm_head" in name:
            # The final norm leaves a vector of unit variance, so that logits have a deviation of 3.
            weights[name] = normal(shape, 3.0 / math.sqrt(shape[1]))
        elif "q_proj" in name or "k_proj" in name:
            weights[name] = normal(shape, 1.6 / math.sqrt(shape[1]))
        else:
            weights[name] = normal(shape, 1.2 / math.sqrt(shape[1]))
    return weights


def save(directory: pathlib.Path, config: dict, shards: int, weights: dict) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    metadata = {"format": "pt"}
    if shards == 1:
        save_file(weights, directory / "model.safetensors", metadata=metadata)
        return
    names = sorted(weights)
    cut = math.ceil(len(names) / shards)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: weights[name] for name in names[shard * cut : (shard + 1) * cut]}
        save_file(part, directory / file, metadata=metadata)
        weight_map |= dict.fromkeys(part, file)
    total = sum(t.numel() * t.element_size() for t in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def true_float64(model) -> None:
    """Replaces the two kinds of module that compute in float32 whatever the model's dtype is."""

    def norm(module):
        def forward(hidden):
            variance = hidden.pow(2).mean(-1, keepdim=True)
            return module.weight * (hidden * torch.rsqrt(variance + module.variance_epsilon))

        return forward

    def rotary(module):
        inv_freq = module.inv_freq.double()

        def forward(x, position_ids):
            half = position_ids[..., None].double() * inv_freq
            angles = torch.cat((half, half), dim=-1)
            return angles.cos() * module.attention_scaling, angles.sin() * module.attention_scaling

        return forward

    for module in model.modules():
        kind = type(module).__name__
        if kind.endswith("RMSNorm"):
            module.forward = norm(module)
        elif kind.endswith("RotaryEmbedding"):
            module.forward = rotary(module)


def load(directory: pathlib.Path, dtype):
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="sdpa"
    )
    return model.to(dtype).eval()


@torch.no_grad()
def make(name: str) -> None:
    config, shards = MODELS[name]
    directory = HERE / name
    seed = zlib.crc32(name.encode())

    skeleton = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    weights = random_weights(skeleton, seed)
    stored = getattr(torch, config.get("torch_dtype") or config["dtype"])
    save(directory, config, shards, {k: v.to(stored).contiguous() for k, v in weights.items()})

    plain, exact = load(directory, torch.float32), load(directory, torch.float64)
    true_float64(exact)
    generator = torch.Generator().manual_seed(seed + 1)
    prompts, entropies, differences = [], [], []
    for length in PROMPT_LENGTHS:
        ids = torch.randint(3, config["vocab_size"], (1, length), generator=generator)
        logits = exact(ids).logits[0]
        assert logits.dtype == torch.float64
        logprobs = logits.log_softmax(-1)
        entropies.append(-(logprobs.exp() * logprobs).sum(-1).mean().item())
        differences.append((plain(ids).logits[0].double() - logits).abs().max().item())
        following = logprobs[:-1].gather(1, ids[0, 1:, None])[:, 0]
        prompts.append(
            {
                "input_ids": ids[0].tolist(),
                "logits_last": [float(f"{x:.10g}") for x in logits[-1].tolist()],
                "logprobs_of_next": [float(f"{x:.10g}") for x in following.tolist()],
            }
        )
    expected = {"dtype": str(stored).removeprefix("torch."), "prompts": prompts}
    for file in directory.glob("*.safetensors"):
        file.chmod(0o644)
    (directory / "expected.json").write_text(json.dumps(expected) + "\n")

    flat = math.log(config["vocab_size"])
    worst = max(differences)
    print(
        f"{name:14} entropy {max(entropies):.2f} of {flat:.2f} at most, "
        f"float32 off by {worst:.1e} at most"
    )
    assert max(entropies) < 0.75 * flat, "the distributions are too flat to show a mistake"
    assert worst < 1e-3, "the float64 figures are not those of the library's own float32 model"


if __name__ == "__main__":
    for model_name in sys.argv[1:] or MODELS:
        make(model_name)
