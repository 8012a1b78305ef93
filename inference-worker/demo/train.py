"""Trains the demo model from scratch and writes `model/`. See README.md.

    python -m pip install -r requirements.txt
    python train.py --bf16 --checkpoint /somewhere/demo.pt
    python check.py
"""

import argparse
import json
import math
import os
import pathlib
import random
import time

# Threads that spin at a barrier make training ten times slower where others use the cores too.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

import data

HERE = pathlib.Path(__file__).resolve().parent
MODEL = HERE / "model"
SEED = 20250304
CONTEXT = 1024
SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
PAD, END = 0, 1

# One turn is a role token, the text and <|end|>, with nothing between.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ '<|system|>' }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|assistant|>' }}"
    "{% else %}{{ '<|user|>' }}{% endif %}"
    "{{ message['content'] | trim }}{{ '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

CONFIG = {
    "_name_or_path": "amaima-demo",
    "amaima_demo": True,
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "attention_bias": False,
    "mlp_bias": False,
    "hidden_act": "silu",
    "hidden_size": 256,
    "intermediate_size": 576,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "vocab_size": 2048,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": END,
    "pad_token_id": PAD,
    "torch_dtype": "bfloat16",
}


def train_tokenizer() -> Tokenizer:
    """Byte-level BPE: all 256 bytes are in the vocabulary, so that any input has an encoding."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    rng = random.Random(SEED)
    texts = [m["content"] for _ in range(4000) for m in data.dialogue(rng)]
    texts += [text for e in data.ENTRIES for text in (*e["questions"], e["answer"]) * 4]
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"],
        special_tokens=[AddedToken(s, special=True, normalized=False) for s in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    assert tokenizer.get_vocab_size() == CONFIG["vocab_size"]
    return tokenizer


def encode(tokenizer: Tokenizer, messages: list[dict]) -> tuple[list[int], list[int]]:
    """Token ids as the chat template gives them, and the labels: answers and their <|end|> only."""
    ids, labels = [], []
    for message in messages:
        role = tokenizer.token_to_id(f"<|{message['role']}|>")
        text = [*tokenizer.encode(message["content"].strip(), add_special_tokens=False).ids, END]
        ids += [role, *text]
        labels += [-100, *(text if message["role"] == "assistant" else [-100] * len(text))]
    return ids[:CONTEXT], labels[:CONTEXT]


def batches(tokenizer: Tokenizer, rng: random.Random, size: int):
    """Endless batches of dialogues of similar length, padded on the right."""
    while True:
        pool = sorted((encode(tokenizer, data.dialogue(rng)) for _ in range(size * 16)), key=lambda s: len(s[0]))
        groups = [pool[i : i + size] for i in range(0, len(pool), size)]
        rng.shuffle(groups)
        for group in groups:
            longest = max(len(ids) for ids, _ in group)
            ids = torch.tensor([ids + [PAD] * (longest - len(ids)) for ids, _ in group])
            labels = torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in group])
            yield ids, labels


def loss_of(model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    # Right padding needs no mask under causal attention, and logits are made where a label stands.
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    wanted = labels[:, 1:] != -100
    logits = model.lm_head(hidden[wanted]).float()
    return torch.nn.functional.cross_entropy(logits, labels[:, 1:][wanted])


def save(model: LlamaForCausalLM, tokenizer: Tokenizer) -> None:
    MODEL.mkdir(exist_ok=True)

    def write(name, value):
        (MODEL / name).write_text(json.dumps(value, indent=2) + "\n")

    write("config.json", CONFIG)
    write("generation_config.json", {"eos_token_id": END, "pad_token_id": PAD, "do_sample": False, "max_new_tokens": 400})
    write(
        "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": CONTEXT,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|end|>",
            "pad_token": "<|pad|>",
            "chat_template": CHAT_TEMPLATE,
        },
    )
    tokenizer.save(str(MODEL / "tokenizer.json"))
    weights = {k: v.to(torch.bfloat16).contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    save_file(weights, MODEL / "model.safetensors", metadata={"format": "pt"})
    (MODEL / "model.safetensors").chmod(0o644)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bf16", action="store_true", help="autocast the arithmetic of the training")
    parser.add_argument("--checkpoint", type=pathlib.Path, help="written every 500 steps, read at the start")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    tokenizer = train_tokenizer()
    model = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in CONFIG.items() if k not in ("torch_dtype", "_name_or_path")}))
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters", flush=True)

    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}], lr=args.rate, betas=(0.9, 0.98)
    )
    warmup = min(200, args.steps // 10)

    def rate(step):
        if step < warmup:
            return (step + 1) / warmup
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (args.steps - warmup)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    first = 0
    if args.checkpoint and args.checkpoint.exists():
        state = torch.load(args.checkpoint)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first = state["step"]

    stream = batches(tokenizer, random.Random(SEED + first), args.batch)
    started, tokens, running = time.monotonic(), 0, None
    model.train()
    for step in range(first, args.steps):
        ids, labels = next(stream)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            loss = loss_of(model, ids, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        tokens += int((ids != PAD).sum())
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        if (step + 1) % 50 == 0:
            took = time.monotonic() - started
            print(f"step {step + 1} loss {running:.4f} tokens {tokens} took_s {took:.0f} tokens_per_s {tokens / took:.0f}", flush=True)
        if args.checkpoint and ((step + 1) % 500 == 0 or step + 1 == args.steps):
            torch.save(
                {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "step": step + 1},
                args.checkpoint,
            )
            save(model, tokenizer)
    save(model, tokenizer)


if __name__ == "__main__":
    main()
