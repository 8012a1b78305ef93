"""Our CPU backend beside llama.cpp and transformers: same weights, same two threads, in turns.

    compare.py all DIRECTORY SPEED ROUNDS          all of these, one after the other
    compare.py make DIRECTORY                      writes the models (8 GB)
    compare.py run DIRECTORY SPEED ROUNDS [CASE ...]
                                                   measures; SPEED is the built examples/speed
    compare.py table DIRECTORY                     prints what was measured, medians of all rounds

Each program runs alone in a process of its own; a round runs all of them, so that what the machine
does meanwhile meets all alike. Rounds add up over several calls of `run`.
"""

import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from datetime import date
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
CASES = [f"{shape}-{kind}" for shape in ("0.1b", "0.5b") for kind in ("bf16", "f32", "int8")]
FIGURES = {
    "prefill_tokens_s": "prefill of 512",
    "decode_1_tokens_s": "decode, 1 query",
    "decode_8_tokens_s": "decode, 8 queries",
}


def programs(directory: Path, speed: str, case: str) -> dict[str, list[str]]:
    shape, kind = case.split("-")
    stored = "bf16" if kind == "int8" else kind
    other = [sys.executable, str(HERE / "others.py")]
    gguf = str(directory / f"{shape}-{'q8_0' if kind == 'int8' else kind}.gguf")
    weights = "int8" if kind == "int8" else "mapped"
    run = {
        "ours": [speed, str(directory / f"{shape}-{stored}"), weights],
        "llama-plain": other + ["llama-plain", gguf],
        "llama-flash": other + ["llama-flash", gguf],
    }
    if kind != "int8":
        run["transformers"] = other + ["transformers", str(directory / f"{shape}-{kind}")]
    return run


def measure(directory: Path, speed: str, rounds: int, cases: list[str]) -> None:
    versions = [f"{name} {version(name)}" for name in ("llama-cpp-python", "torch", "transformers")]
    print(date.today(), ", ".join(versions), flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"}
    with (directory / "measured.jsonl").open("a") as out:
        for _ in range(rounds):
            for case in cases:
                for name, command in programs(directory, speed, case).items():
                    done = subprocess.run(
                        command, env=environment, check=True, stdout=subprocess.PIPE
                    )
                    found = json.loads(done.stdout.splitlines()[-1])
                    out.write(json.dumps({"case": case, "program": name} | found) + "\n")
                    out.flush()
                    rates = " ".join(f"{found[figure]:9.1f}" for figure in FIGURES)
                    print(f"{case:10} {name:14} {rates}", flush=True)


def table(directory: Path) -> None:
    runs = defaultdict(lambda: defaultdict(list))
    for line in (directory / "measured.jsonl").read_text().splitlines():
        found = json.loads(line)
        runs[found["case"]][found["program"]].append(found)
    print("| weights | work | ours | llama.cpp | ratio | transformers | ratio | of memory's bound |")
    print("|---|---|---|---|---|---|---|---|")
    for case in CASES:
        for figure, work in FIGURES.items():
            print(row(runs[case], case, figure, work))
    print()
    print(lateness(runs))
    print()
    print("| weights | peak memory, ours / llama.cpp / transformers, MB | logits apart | same ids |")
    print("|---|---|---|---|")
    for case in CASES:
        print(agreement(runs[case], case))


def row(found: dict, case: str, figure: str, work: str) -> str:
    def median(name: str, figure: str = figure) -> float | None:
        return statistics.median(run[figure] for run in found[name]) if found.get(name) else None

    ours = median("ours")
    if ours is None:
        return f"| {case} | {work} | | | | | | |"
    # Whichever way llama.cpp is faster.
    llama = max(filter(None, (median("llama-plain"), median("llama-flash"))), default=None)
    cells = [case, work, f"{ours:.1f}"]
    for other in (llama, median("transformers")):
        cells += [f"{other:.1f}", f"{ours / other:.2f}"] if other else ["", ""]
    bound = figure.replace("tokens_s", "of_bound")
    cells.append(f"{median('ours', bound):.2f}" if bound in found["ours"][0] else "")
    return "| " + " | ".join(cells) + " |"


def lateness(runs: dict) -> str:
    ours = [run for found in runs.values() for run in found["ours"]]
    idle, beside = (
        statistics.median(run[f"timer_late_{when}_ms"] for run in ours) for when in ("idle", "beside")
    )
    return f"A timer of tokio, 99 of 100: {idle:.2f} ms late idle, {beside:.2f} ms beside decoding."


def agreement(found: dict, case: str) -> str:
    if not found.get("ours"):
        return f"| {case} | | | |"
    ours = found["ours"][0]
    peaks, apart, same = [], [], []
    for name in ("ours", "llama-plain", "transformers"):
        if not found.get(name):
            continue
        other = found[name][0]
        peaks.append(f"{statistics.median(r['peak_resident_bytes'] for r in found[name]) / 1e6:.0f}")
        if name == "ours":
            continue
        differences = (abs(a - b) for a, b in zip(ours["logits"], other["logits"], strict=True))
        apart.append(f"{max(differences):.4f}")
        pairs = list(zip(ours["ids"], other["ids"]))
        same.append(str(next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))))
    largest = max(map(abs, ours["logits"]))
    apart_text = f"{' / '.join(apart)} of {largest:.2f}"
    return f"| {case} | {' / '.join(peaks)} | {apart_text} | {' / '.join(same)} of {len(ours['ids'])} |"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["all", directory, speed, rounds]:
            from models import make

            make(Path(directory))
            measure(Path(directory), speed, int(rounds), CASES)
            table(Path(directory))
        case ["make", directory]:
            from models import make

            make(Path(directory))
        case ["run", directory, speed, rounds, *cases]:
            measure(Path(directory), speed, int(rounds), cases or CASES)
        case ["table", directory]:
            table(Path(directory))
        case _:
            sys.exit(__doc__)
