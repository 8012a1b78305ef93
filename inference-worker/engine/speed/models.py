"""Random weights of two shapes, as Hugging Face directories and, the same numbers, as GGUF."""

import json
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import save_file

COMMON = {"hidden_act": "silu", "max_position_embeddings": 4096, "tie_word_embeddings": True}
SHAPES = {
    "0.1b": COMMON
    | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "0.5b": COMMON
    | {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        "use_sliding_window": False,
    },
}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
TYPES = {
    "f32": gguf.GGMLQuantizationType.F32,
    "bf16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}

# The names of the projections and norms of a layer, in both formats.
LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def tensors(config: dict) -> dict[str, torch.Tensor]:
    """Normal numbers; exact in bf16, so that both precisions are the same model."""
    generator = torch.Generator().manual_seed(5)
    hidden, intermediate = config["hidden_size"], config["intermediate_size"]
    head_dim = hidden // config["num_attention_heads"]
    kv = config["num_key_value_heads"] * head_dim

    def normal(*shape, mean=0.0, std=0.02):
        numbers = torch.randn(shape, generator=generator) * std + mean
        return numbers.bfloat16()

    all_tensors = {
        "model.embed_tokens.weight": normal(config["vocab_size"], hidden),
        "model.norm.weight": normal(hidden, mean=1.0),
    }
    rows = {"q_proj": (hidden, hidden), "k_proj": (kv, hidden), "v_proj": (kv, hidden)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        for name, shape in rows.items():
            all_tensors[f"{prefix}.self_attn.{name}.weight"] = normal(*shape)
            if config["model_type"] == "qwen2":
                all_tensors[f"{prefix}.self_attn.{name}.bias"] = normal(shape[0])
        all_tensors[f"{prefix}.self_attn.o_proj.weight"] = normal(hidden, hidden)
        all_tensors[f"{prefix}.mlp.gate_proj.weight"] = normal(intermediate, hidden)
        all_tensors[f"{prefix}.mlp.up_proj.weight"] = normal(intermediate, hidden)
        all_tensors[f"{prefix}.mlp.down_proj.weight"] = normal(hidden, intermediate)
        for name in ("input_layernorm", "post_attention_layernorm"):
            all_tensors[f"{prefix}.{name}.weight"] = normal(hidden, mean=1.0)
    return all_tensors


def make(directory: Path) -> None:
    for shape, config in SHAPES.items():
        weights = tensors(config)
        for name, dtype in DTYPES.items():
            target = directory / f"{shape}-{name}"
            if (target / "config.json").exists():
                continue
            target.mkdir(parents=True, exist_ok=True)
            save_file(
                {name: tensor.to(dtype) for name, tensor in weights.items()},
                target / "model.safetensors",
                metadata={"format": "pt"},
            )
            named = config | {"dtype": str(dtype).removeprefix("torch.")}
            (target / "config.json").write_text(json.dumps(named, indent=2))
        for name in TYPES:
            path = directory / f"{shape}-{name}.gguf"
            if not path.exists():
                write_gguf(path, config, weights, name)


def write_gguf(path: Path, config: dict, weights: dict[str, torch.Tensor], kind: str) -> None:
    architecture = config["model_type"]
    part = path.with_suffix(".part")
    writer = gguf.GGUFWriter(part, architecture)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    for name, tensor in weights.items():
        numbers = tensor.float().numpy()
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = "num_attention_heads" if "q_proj" in name else "num_key_value_heads"
            numbers = interleaved(numbers, config[heads])
        type_ = TYPES[kind] if numbers.ndim == 2 else gguf.GGMLQuantizationType.F32
        data = gguf.quants.quantize(numbers, type_)
        writer.add_tensor(gguf_name(name), data, raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.rename(path)


def interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp turns neighbours together, where Hugging Face turns halves of a head."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))


def gguf_name(name: str) -> str:
    name = name.removeprefix("model.")
    if not name.startswith("layers."):
        return {"embed_tokens": "token_embd", "norm": "output_norm"}[name.split(".")[0]] + ".weight"
    _, layer, rest = name.split(".", 2)
    rest, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{LAYER[rest]}.{kind}"
