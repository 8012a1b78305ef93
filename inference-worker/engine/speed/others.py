"""The same work as examples/speed.rs, done by llama.cpp and by transformers; prints one line of JSON."""

import json
import resource
import sys
import time
from pathlib import Path

PREFILL, PROMPT, DECODED, THREADS = 512, 64, 128, 2


def prompt(sequence: int, length: int, vocabulary: int) -> list[int]:
    return [(i * 7919 + sequence * 101 + 13) % vocabulary for i in range(length)]


def llama(path: str, flash: bool) -> dict:
    import llama_cpp as lib
    import numpy as np

    quiet = lib.llama_log_callback(lambda level, text, data: None)
    lib.llama_log_set(quiet, None)
    lib.llama_backend_init()
    began = time.perf_counter()
    model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
    load = time.perf_counter() - began
    options = lib.llama_context_default_params()
    options.n_ctx = 8 * PREFILL
    options.n_batch = options.n_ubatch = PREFILL
    options.n_seq_max = 8
    options.n_threads = options.n_threads_batch = THREADS
    options.flash_attn_type = int(flash)
    context = lib.llama_init_from_model(model, options)
    vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    memory = lib.llama_get_memory(context)
    batch = lib.llama_batch_init(8 * PROMPT + PREFILL, 0, 1)

    def step(runs: list[tuple[int, list[int]]]) -> list[np.ndarray]:
        """Position and ids of each sequence; logits after the last of each."""
        count, last = 0, []
        for sequence, (start, ids) in enumerate(runs):
            for offset, token in enumerate(ids):
                batch.token[count] = token
                batch.pos[count] = start + offset
                batch.n_seq_id[count] = 1
                batch.seq_id[count][0] = sequence
                batch.logits[count] = offset + 1 == len(ids)
                count += 1
            last.append(count - 1)
        batch.n_tokens = count
        assert lib.llama_decode(context, batch) == 0
        shape = (vocabulary,)
        return [np.ctypeslib.as_array(lib.llama_get_logits_ith(context, at), shape) for at in last]

    def prefill(length: int) -> np.ndarray:
        lib.llama_memory_clear(memory, False)
        return step([(0, prompt(0, length, vocabulary))])[0].copy()

    def decode(count: int) -> tuple[float, list[int]]:
        lib.llama_memory_clear(memory, False)
        runs = [(0, prompt(at, PROMPT, vocabulary)) for at in range(count)]
        said = []
        for number in range(DECODED + 1):
            logits = step(runs)
            ids = [int(row.argmax()) for row in logits]
            said.append(ids[0])
            runs = [(start + len(known), [token]) for (start, known), token in zip(runs, ids)]
            if number == 0:
                began = time.perf_counter()
        return count * DECODED / (time.perf_counter() - began), said

    prefill(PREFILL)
    began = time.perf_counter()
    prefill(PREFILL)
    took = time.perf_counter() - began
    logits = prefill(PROMPT)
    alone, ids = decode(1)
    together, _ = decode(8)
    return report(load, took, alone, together, ids, logits)


def transformers(path: str) -> dict:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(THREADS)
    torch.set_grad_enabled(False)
    began = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(path, dtype="auto", attn_implementation="sdpa")
    model.eval()
    load = time.perf_counter() - began
    vocabulary = model.config.vocab_size

    def prompts(count: int, length: int):
        return torch.tensor([prompt(at, length, vocabulary) for at in range(count)])

    def generate(count: int, tokens: int):
        inputs = prompts(count, PROMPT)
        began = time.perf_counter()
        out = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            do_sample=False,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            pad_token_id=0,
            eos_token_id=None,
        )
        return time.perf_counter() - began, out[0, PROMPT:].tolist()

    def decode(count: int) -> tuple[float, list[int]]:
        first, _ = generate(count, 1)
        whole, ids = generate(count, DECODED + 1)
        return count * DECODED / (whole - first), ids

    model(prompts(1, PREFILL), logits_to_keep=1)
    began = time.perf_counter()
    model(prompts(1, PREFILL), logits_to_keep=1)
    took = time.perf_counter() - began
    logits = model(prompts(1, PROMPT), logits_to_keep=1).logits[0, -1].float().numpy()
    alone, ids = decode(1)
    together, _ = decode(8)
    return report(load, took, alone, together, ids, logits)


def report(load, prefill, alone, together, ids, logits) -> dict:
    return {
        "load_ms": load * 1000,
        "prefill_tokens_s": PREFILL / prefill,
        "decode_1_tokens_s": alone,
        "decode_8_tokens_s": together,
        "peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "ids": ids,
        "logits": logits.tolist(),
    }


if __name__ == "__main__":
    who, path = sys.argv[1], str(Path(sys.argv[2]))
    found = transformers(path) if who == "transformers" else llama(path, who == "llama-flash")
    print(json.dumps(found))
