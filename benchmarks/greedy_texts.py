"""Greedy texts of 20 prompts beside llama.cpp's, on the same GGUF files: where they part, and how near the choice was.

    python benchmarks/greedy_texts.py [--kinds stored f32 f16 q8_0] [--new 48] [--python ...] [--json FILE]

The files are SmolLM2-135M-Instruct as `make smollm` fetched it, whose weights are Q4_1, and exports of it by `vishwamai
convert --type`; f32 has the very numbers that Q4_1 stands for. Ours computes in float32 on each. So does llama.cpp on
f32, with a cache in float32 too; but before weights in fewer bits multiply activations it rounds these, to 8 bits for
Q4_1 and Q8_0, to 16 for F16. Twelve prompts are texts and eight are chats, which each side renders and tokenises by
itself. Texts are compared token by token, and no token ends one. Where two part, the gap is by how much the logit of
our token leads that of llama.cpp's, in ours and in llama.cpp (there below 0). The distance is the largest of any logit,
after the last token that the two have in common.

The last lines show that rounding is what makes the distance: on one random layer in Q8_0 ours, with activations rounded
in the same way, gives llama.cpp's logits. In a deep model the last bit of a sum decides which way some are rounded, so
there what it shows is that distances are as large.
"""

import json
from pathlib import Path

import numpy as np
from models import SMOLLM, gguf_file, random_model
from rich.table import Table
from side_by_side import Contender, Process, console, parse

TEXTS = (
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "The three laws of thermodynamics are",
    "def fibonacci(n):\n    ",
    "Q: What is 17 + 25?\nA:",
    "1, 1, 2, 3, 5, 8, 13,",
    '{"name": "Ada Lovelace", "born": 1815, "known_for": [',
    "La tour Eiffel a été construite",
    "Der schnellste Weg nach Berlin",
    "Ingredients:\n- 2 eggs\n- 100 g of flour\n\nMethod:\n1.",
    "<html>\n  <body>\n    <h1>",
    "\t\tthe  spaces   here…    don't\n\n\nmatter — 12345 🙂",
)
QUESTIONS = (
    "What is the capital of Japan?",
    "Write a haiku about rain.",
    "Explain photosynthesis to a child.",
    "Tom has 3 apples and buys 4 more. How many does he have?",
    "Translate to Spanish: Good morning, my friend.",
    "Write a Python function that reverses a string.",
)
CHATS = (
    *([{"role": "user", "content": question}] for question in QUESTIONS),
    [{"role": "system", "content": "You answer in one word."}, {"role": "user", "content": "Is the sky blue?"}],
    [
        {"role": "user", "content": "My name is Zoë."},
        {"role": "assistant", "content": "Hello, Zoë!"},
        {"role": "user", "content": "What is my name?"},
    ],
)


EXACT = {
    "ours": {"dtype": "float32"},
    "llama_cpp_peer": {"type_k": 0, "type_v": 0, "flash_attn": False}  # a cache in float32
    | {"n_threads": 1, "n_threads_batch": 1},  # threads that wait for each other are slow on a busy machine
}


def ask(peer: str, task: str, pythons: dict[str, str], **asked) -> list:
    """Returns what a peer answers in a process of its own."""
    process = Process(Contender(peer, peer, task, asked), pythons[peer])
    process.close()
    return process.first["result"]


def compare(model: str, new: int, pythons: dict[str, str]) -> dict[str, list]:
    """Returns of each prompt both sides' ids and new tokens, how many of these are alike, and the logits after them."""
    asked = {"model": model, "prompts": [*TEXTS, *CHATS]}
    found = {}
    for peer in EXACT:
        found[f"{peer} ids"] = ids = ask(peer, "encode", pythons, **asked)
        found[f"{peer} new"] = ask(peer, "decode", pythons, model=model, prompts=ids, new=new, **EXACT[peer])
    pairs = list(zip(found["ours new"], found["llama_cpp_peer new"], strict=True))
    found["alike"] = [next((i for i in range(new) if a[i] != b[i]), new) for a, b in pairs]
    made = [tokens[: min(n, new - 1)] for tokens, n in zip(found["ours new"], found["alike"], strict=True)]
    for peer, options in EXACT.items():
        asked = {"model": model, "prompts": found[f"{peer} ids"], "made": made}
        found[f"{peer} logits"] = ask(peer, "logits", pythons, **asked, **options)
    return found


def partings(found: dict[str, list], new: int) -> list[dict]:
    """Returns what is to be said of each prompt: whether its ids are the same, and where its texts part."""
    told = []
    for i, alike in enumerate(found["alike"]):
        ours, theirs = (np.array(found[f"{peer} logits"][i]) for peer in EXACT)
        same_ids = found["ours ids"][i] == found["llama_cpp_peer ids"][i]
        one = {"same_ids": same_ids, "alike": alike, "distance": float(np.abs(ours - theirs).max())}
        if alike < new:
            a, b = (found[f"{peer} new"][i][alike] for peer in EXACT)
            one |= {"tokens": (a, b), "gaps": (float(ours[a] - ours[b]), float(theirs[a] - theirs[b]))}
        told.append(one)
    return told


def show(kind: str, told: list[dict], new: int, texts: list[list[str]]) -> None:
    """Prints where texts part."""
    names = [*map(repr, TEXTS), *(f"chat: {chat[-1]['content']}" for chat in CHATS)]
    for name, one, pair in zip(names, told, texts, strict=True):
        if one["alike"] < new:
            (a, b), (ours, theirs) = pair, one["gaps"]
            where = f"{kind}, {name:.32}: {one['alike']} of {new} alike, then {a!r} where llama.cpp has {b!r}"
            gaps = f"gap {ours:+.3f} and {theirs:+.3f}, distance {one['distance']:.1e}"
            console.print(f"{where}; {gaps}", soft_wrap=True, markup=False)


def rounding(pythons: dict[str, str], smollm: Path) -> None:
    """Prints what rounding of activations alone comes to: on a layer of SmolLM2's shape, and on the file as it lies."""
    sizes = {"vocab_size": 4096, "d_model": 576, "d_ff": 1536, "n_heads": 9, "n_kv_heads": 3, "n_layers": 1}
    layer = gguf_file(random_model("layer", **sizes), "q8_0")
    row = np.random.default_rng(0).integers(3, 4096, 24).tolist()
    rows = ask("ours", "encode", pythons, model=str(smollm), prompts=TEXTS)
    for what, file, prompts in (("one layer in Q8_0", layer, [row]), ("SmolLM2, after the texts", smollm, rows)):
        asked = {"model": str(file), "prompts": prompts, "made": [[] for _ in prompts]}
        exact = np.array(ask("ours", "logits", pythons, **asked, **EXACT["ours"]))
        rounded = np.array(ask("ours", "logits", pythons, **asked, round_activations=True, **EXACT["ours"]))
        theirs = np.array(ask("llama_cpp_peer", "logits", pythons, **asked, **EXACT["llama_cpp_peer"]))
        pairs = {
            "llama.cpp from ours": (theirs, exact),
            "llama.cpp from ours rounded": (theirs, rounded),
            "ours rounded from ours": (rounded, exact),
        }
        told = "; ".join(f"{name} {np.median(np.abs(x - y).max(1)):.1e}" for name, (x, y) in pairs.items())
        console.print(f"{what}, median distance: {told}", soft_wrap=True)


def main() -> None:
    args = parse(__doc__, kinds=["stored", "f32", "f16", "q8_0"], new=48)
    [smollm] = SMOLLM.glob("*.gguf")
    table, record, first = Table("file", "same ids", "same text", "ours as on the first", "largest distance"), {}, None
    for kind in args.kinds:
        file = smollm if kind == "stored" else gguf_file(smollm, kind)
        with console.status(f"{kind}: 20 prompts, {args.new} tokens each"):
            found = compare(str(file), args.new, args.python)
        told, first = partings(found, args.new), first or found["ours new"]
        texts = ask("ours", "decode_tokens", args.python, model=str(file), rows=[one.get("tokens", ()) for one in told])
        show(kind, told, args.new, texts)
        sums = [sum(one["same_ids"] for one in told), sum(one["alike"] == args.new for one in told)]
        same = sum(a == b for a, b in zip(found["ours new"], first, strict=True))
        table.add_row(kind, *map(str, (*sums, same)), f"{max(one['distance'] for one in told):.1e}")
        record[kind] = told
    console.print(table)
    rounding(args.python, smollm)
    if args.json:
        args.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
