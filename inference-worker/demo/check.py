"""Measures the demo model as it is stored, and writes the two lists that the Rust tests read.

The weights are read in their stored type and computed in float32, each token is the most likely
one, and the prompt is what the chat template in `model/` makes of one user message.

`held-in.jsonl` gets the canonical questions whose answer comes out word for word, with the most
likely token at least `MARGIN` ahead at every step, so that another order of summation cannot
change the answer. `out-of-scope.jsonl` gets questions that the model never saw and that it answers, with
the same lead, by saying what it is; the rate over all such questions is printed.
"""

import json
import pathlib
import random

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import data

HERE = pathlib.Path(__file__).resolve().parent
MARGIN = 1.0
AT_MOST = 400


class Model:
    def __init__(self):
        self.tokenizer = AutoTokenizer.from_pretrained(HERE / "model")
        self.model = AutoModelForCausalLM.from_pretrained(HERE / "model", dtype=torch.bfloat16).float().eval()

    @torch.no_grad()
    def answer(self, question: str) -> tuple[str, float]:
        """The greedy answer, and the smallest lead (in logits) of a chosen token over the next best."""
        messages = [{"role": "user", "content": question}]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = self.tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
        end = self.tokenizer.eos_token_id
        chosen, lead, past = [], float("inf"), None
        while len(chosen) < AT_MOST:
            out = self.model(ids, past_key_values=past, use_cache=True)
            (first, second), (token, _) = out.logits[0, -1].topk(2)
            lead = min(lead, (first - second).item())
            if token == end:
                break
            chosen.append(token.item())
            past, ids = out.past_key_values, token.view(1, 1)
        return self.tokenizer.decode(chosen), lead


def write(name: str, rows: list[dict]) -> None:
    (HERE / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def report(what: str, right: int, of: int, wrong: list) -> None:
    print(f"{what}: {right} of {of} ({right / of:.1%})")
    for line in wrong:
        print("   ", line)


def main() -> None:
    torch.set_num_threads(2)
    model = Model()

    held_in, wrong, narrow = [], [], 0
    for entry in data.ENTRIES:
        question = entry["questions"][0]
        answer, lead = model.answer(question)
        if answer != entry["answer"]:
            wrong.append(f"{question} -> {answer}")
        elif lead < MARGIN:
            narrow += 1
        else:
            held_in.append({"question": question, "answer": answer})
    right = len(data.ENTRIES) - len(wrong)
    report("canonical wordings, exact", right, len(data.ENTRIES), wrong)
    print(f"    {narrow} of them with a lead under {MARGIN} logits")

    rng = random.Random(7)
    pairs = [(q, e["answer"]) for i, e in enumerate(data.ENTRIES) for q in (e["questions"][1:-1] if i % 4 == 0 else e["questions"][1:])]
    sample = rng.sample(pairs, 150)
    wrong = [f"{q} -> {a}" for q, expected in sample if (a := model.answer(q)[0]) != expected]
    report("other wordings of the training, exact (a sample)", len(sample) - len(wrong), len(sample), wrong)

    unseen = data.UNSEEN_WORDINGS
    wrong = [f"{q} -> {a}" for q, expected in unseen if (a := model.answer(q)[0]) != expected]
    report("wordings never trained on, exact", len(unseen) - len(wrong), len(unseen), wrong)

    outside, wrong = [], []
    for question in data.UNSEEN_OUT_OF_SCOPE:
        answer, lead = model.answer(question)
        if "demo model" not in answer:
            wrong.append(f"{question} -> {answer}")
        elif lead >= MARGIN:
            outside.append({"question": question})
    asked = len(data.UNSEEN_OUT_OF_SCOPE)
    report("out of scope and never trained on, said so", asked - len(wrong), asked, wrong)

    write("held-in.jsonl", held_in)
    write("out-of-scope.jsonl", outside[:24])


if __name__ == "__main__":
    main()
