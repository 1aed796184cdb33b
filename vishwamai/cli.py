"""The command `vishwamai`: one verb each for generating, chatting, training, tokenizers, converting and inspecting.

Each verb is a few lines over the package's own functions, and imports what it needs when it runs, so that `--help`
costs nothing. What the user can put right (`VishwamAIError`) ends as one sentence and exit code 2, never a traceback.
It knows no arrays.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vishwamai.errors import DataError, InputError, VishwamAIError

if TYPE_CHECKING:
    from rich.table import Table

    from vishwamai.models.config import ModelConfig

DEFAULT_MODEL = "vishwamai/base"
DTYPES = ("float32", "bfloat16", "float16")
MIB = 2**20


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0, 2 for bad input, 130 when interrupted."""
    args = _parsed(argv)
    try:
        args.run(args)
        return 0
    except VishwamAIError as error:
        print(f"vishwamai: error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if (error.name or "vishwamai").startswith("vishwamai"):
            raise
        print(f"vishwamai: error: the package {error.name} is missing; pip install 'vishwamai[train]'", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has gone; Python would complain again when it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


# What can be typed.


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments. argparse takes `a.b=value` in one place only; people write them between options too."""
    top = parser()
    args, rest = top.parse_known_args(argv)
    if rest and (args.run is not train or any(word.startswith("-") for word in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    args.overrides = [*getattr(args, "overrides", []), *rest]
    return args


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    top = argparse.ArgumentParser(prog="vishwamai", description="Language models in JAX, on TPU, GPU and CPU.")
    top.add_argument("--version", action="version", version=f"vishwamai {metadata.version('vishwamai')}")
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True)
    for add in (_add_generate, _add_chat, _add_train, _add_tokenizer, _add_convert, _add_inspect):
        add(verbs)
    return top


def _verb(verbs: Any, name: str, run: Any, about: str) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=about, description=about)
    verb.set_defaults(run=run)
    return verb


def _add_model(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("-m", "--model", default=DEFAULT_MODEL, help="built-in name, folder or hub id [%(default)s]")


def _add_sampling(verb: argparse.ArgumentParser) -> None:
    add = verb.add_argument
    add("--revision", help="a commit, branch or tag of a hub repository")
    add("--dtype", default="float32", choices=DTYPES, help="of weights, computation and cache [%(default)s]")
    add("-n", "--max-new-tokens", type=int, help="at most this many tokens beyond the prompt")
    add("--sample", action="store_true", help="draw tokens at random; any of the next four does so too")
    add("-t", "--temperature", type=float, help="above 1 is bolder, below 1 is safer")
    add("--top-k", type=int, help="draw from this many of the likeliest tokens")
    add("--top-p", type=float, help="draw from the likeliest tokens that have this much probability together")
    add("--min-p", type=float, help="draw from tokens with at least this share of the likeliest one's probability")
    add("--repetition-penalty", type=float, help="above 1 makes tokens that have occurred less likely")
    add("--seed", type=int, default=0, help="the same seed gives the same text [%(default)s]")
    add("--stop", action="append", metavar="TEXT", help="end before this text; may be given again")


def _add_generate(verbs: Any) -> None:
    verb = _verb(verbs, "generate", generate, "Continue a text, printing it as it is made.")
    verb.add_argument("prompt", help="the text to continue; - reads it from standard input")
    _add_model(verb)
    _add_sampling(verb)
    verb.add_argument("--max-length", type=int, help="at most this many tokens, the prompt counted")
    verb.add_argument("--num-beams", type=int, default=1, help="search with this many beams; nothing is streamed")
    verb.add_argument("--stats", action="store_true", help="tell tokens, time and compilations on standard error")


def _add_chat(verbs: Any) -> None:
    verb = _verb(verbs, "chat", chat, "Talk with a model; /reset forgets what was said, /exit ends.")
    _add_model(verb)
    _add_sampling(verb)
    verb.add_argument("--system", help="what the model is told first")


def _add_train(verbs: Any) -> None:
    verb = _verb(verbs, "train", train, "Train a model as a configuration says.")
    verb.add_argument("config", help="a JSON file, such as configs/train/base.json")
    verb.add_argument("overrides", nargs="*", metavar="a.b=value", help="values to change, by their path")
    verb.add_argument("-o", "--output", help="the run's folder; a run that is in it goes on [runs/CONFIG]")
    verb.add_argument("--max-seconds", type=float, help="stop after this long, to go on later")
    verb.add_argument("--explain", action="store_true", help="print every value and where it came from, and stop")


def _add_tokenizer(verbs: Any) -> None:
    verb = verbs.add_parser("tokenizer", help="Train a tokenizer, or turn text into ids and back.")
    tasks = verb.add_subparsers(title="tasks", metavar="TASK", required=True)
    one = _verb(tasks, "train", tokenizer_train, "Train a byte-level BPE tokenizer on text files.")
    one.add_argument("files", nargs="+", help="UTF-8 text files; - is standard input")
    one.add_argument("--vocab-size", type=int, default=8192, help="how many tokens it has at most [%(default)s]")
    one.add_argument("-o", "--output", required=True, help="the folder to write")
    one = _verb(tasks, "encode", tokenizer_encode, "Print the ids of a text.")
    one.add_argument("text", help="the text; - reads it from standard input")
    one.add_argument("--pieces", action="store_true", help="print each token beside its id")
    _add_model(one)
    one = _verb(tasks, "decode", tokenizer_decode, "Print the text of ids.")
    one.add_argument("ids", nargs="+", help="token ids; - reads them from standard input")
    _add_model(one)


def _add_convert(verbs: Any) -> None:
    verb = _verb(verbs, "convert", convert, "Write a model as a folder that transformers loads too.")
    verb.add_argument("source", help="built-in name, folder or hub id")
    verb.add_argument("target", help="the folder to write; it must be empty or new")
    verb.add_argument("--revision", help="a commit, branch or tag of a hub repository")
    verb.add_argument("--dtype", default="bfloat16", choices=DTYPES, help="of the weights written [%(default)s]")


def _add_inspect(verbs: Any) -> None:
    verb = _verb(verbs, "inspect", inspect, "Tell what a model is and needs, from its configuration alone.")
    verb.add_argument("model", nargs="?", default=DEFAULT_MODEL, help="name, folder, hub id or .json [%(default)s]")
    verb.add_argument("--batch", type=int, default=1, help="rows in the cache that is counted [%(default)s]")
    verb.add_argument("--length", type=int, help="positions in that cache [the model's longest]")


# Texts in.


def read_text(argument: str) -> str:
    """A text given on the command line, or standard input for `-` (without its last line end)."""
    if argument != "-":
        return argument
    return _utf8(sys.stdin.buffer.read(), "standard input").removesuffix("\n")


def _utf8(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8 (byte {error.start} is 0x{raw[error.start]:02x})") from None


def _file_texts(names: Sequence[str]) -> Iterator[str]:
    for name in names:
        try:
            raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        except OSError as error:
            raise DataError(f"{name}: cannot be read ({error.strerror}); check the path") from None
        yield from _utf8(raw, "standard input" if name == "-" else name).splitlines(keepends=True)


# The verbs.


def _load(args: argparse.Namespace) -> Any:
    from vishwamai.api import VishwamAI

    return VishwamAI.from_pretrained(args.model, revision=args.revision, dtype=args.dtype)


def _sampling(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `generate` that were given; those left out keep their defaults."""
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "stop", "max_new_tokens")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    do_sample = args.sample or bool(given.keys() & {"temperature", "top_k", "top_p", "min_p"})
    return given | {"do_sample": do_sample, "seed": args.seed}


def generate(args: argparse.Namespace) -> None:
    """`vishwamai generate`: the completion on standard output, without the prompt."""
    prompt, options = read_text(args.prompt), _sampling(args)
    if args.max_length is not None:
        options["max_length"] = args.max_length
    model = _load(args)
    if args.num_beams != 1:
        return print(model.complete(prompt, num_beams=args.num_beams, **options)[0])
    stats = _stream(model.stream(prompt, **options))
    if args.stats:
        pace = f"{stats.generated_tokens} tokens, {stats.tokens_per_second:,.0f} a second"
        print(f"{pace}; {stats.compiles} programs compiled in {stats.compile_seconds:.1f} s", file=sys.stderr)


def _stream(chunks: Any) -> Any:
    """Prints chunks as they come and a line end; returns the stats of the last one."""
    stats = None
    for chunk in chunks:
        print(chunk.text, end="", flush=True)
        stats = chunk.stats or stats
    print(flush=True)
    return stats


def chat(args: argparse.Namespace) -> None:
    """`vishwamai chat`: a conversation in the terminal."""
    from rich.console import Console

    console, model, options = Console(highlight=False), _load(args), _sampling(args)
    first = [{"role": "system", "content": args.system}] if args.system else []
    messages = list(first)
    while (said := _ask(console)) is not None:
        if said == "/reset":
            messages = list(first)
        elif said:
            messages.append({"role": "user", "content": said})
            messages.append({"role": "assistant", "content": _answer(console, model.stream(messages, **options))})


def _ask(console: Any) -> str | None:
    """What the user types; None where they end the conversation."""
    try:
        said = console.input("[bold cyan]you[/]: ").strip()
    except EOFError:
        return None
    return None if said in ("/exit", "/quit") else said


def _answer(console: Any, chunks: Any) -> str:
    console.print("[bold green]model[/]:", end=" ")
    texts = []
    for chunk in chunks:
        console.print(chunk.text, end="", markup=False)
        texts.append(chunk.text)
    console.print()
    return "".join(texts)


def train(args: argparse.Namespace) -> None:
    """`vishwamai train`: a run of the trainer, or what it would be; the model ends in the run's folder, as `model`."""
    from vishwamai import config
    from vishwamai.api import VishwamAI
    from vishwamai.parallel import hosts
    from vishwamai.training import trainer
    from vishwamai.training.config import RunConfig

    run, sources = config.load(RunConfig, args.config, args.overrides)
    if args.explain:
        return print(config.explain(run, sources))
    hosts.initialize()
    folder = Path(args.output or Path("runs") / Path(args.config).stem)
    result: Any = trainer.train(run, folder, max_seconds=args.max_seconds)
    VishwamAI(run.model, result.weights, tokenizer=result.tokenizer).save_pretrained(folder / "model")
    state = "finished" if result.finished else "stopped, and the same command goes on,"
    print(f"{state} at step {result.step:,} of {run.training.steps:,}; the model is in {folder / 'model'}")


def tokenizer_train(args: argparse.Namespace) -> None:
    """`vishwamai tokenizer train`: writes a tokenizer's folder."""
    from vishwamai.text.tokenizer import VishwamAITokenizer

    tokenizer = VishwamAITokenizer.train(_file_texts(args.files), args.vocab_size)
    tokenizer.save_pretrained(args.output)
    print(f"{args.output}: {len(tokenizer)} tokens")


def tokenizer_encode(args: argparse.Namespace) -> None:
    """`vishwamai tokenizer encode`: ids in one line, or a token a line."""
    from vishwamai.text.tokenizer import VishwamAITokenizer

    tokenizer = VishwamAITokenizer.from_pretrained(args.model)
    ids = tokenizer.encode(read_text(args.text))
    lines = [f"{i}\t{tokenizer.decode([i])!r}" for i in ids] if args.pieces else [" ".join(map(str, ids))]
    print("\n".join(lines))


def tokenizer_decode(args: argparse.Namespace) -> None:
    """`vishwamai tokenizer decode`: the text of ids."""
    from vishwamai.text.tokenizer import VishwamAITokenizer

    words = [word for argument in args.ids for word in read_text(argument).replace(",", " ").split()]
    try:
        ids = [int(word) for word in words]
    except ValueError as error:
        raise InputError(f"token ids are whole numbers: {error}") from None
    print(VishwamAITokenizer.from_pretrained(args.model).decode(ids))


def convert(args: argparse.Namespace) -> None:
    """`vishwamai convert`: any model that loads, written anew."""
    from vishwamai.api import VishwamAI

    target = Path(args.target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} is there already; name a folder that is empty or new")
    model = VishwamAI.from_pretrained(args.source, revision=args.revision, dtype=args.dtype)
    model.save_pretrained(target)
    print(f"{target}: {sum(file.stat().st_size for file in target.iterdir()) / MIB:,.1f} MiB")


def inspect(args: argparse.Namespace) -> None:
    """`vishwamai inspect`: switches, parameters and memory."""
    from rich.console import Console

    (family, cfg), console = _described(args.model), Console(highlight=False)
    length = cfg.max_length if args.length is None else args.length
    if args.batch < 1 or length < 1:
        raise InputError(f"a cache of {args.batch} rows of {length} positions: both must be 1 or more")
    console.print(f"[bold]{args.model}[/]  {family}")
    console.print(_switches(cfg), _parameters(cfg), _memory(cfg, args.batch, length))


def _described(name: str) -> tuple[str, ModelConfig]:
    """The family and the model in a folder or a model's JSON; no weights are read."""
    from vishwamai.api import read_config
    from vishwamai.hf.config import read
    from vishwamai.hub import resolve

    if name.endswith(".json"):
        return "a configuration", read_config(name)
    found = read(resolve(name))
    return found.model_type, found.model


def _table(title: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    return table


def _switches(cfg: ModelConfig) -> Table:
    """Every field that is not at its default, layers in words."""
    table = _table("what it is", "field", "value")
    for field in dataclasses.fields(cfg):
        value = getattr(cfg, field.name)
        if field.name != "stacks" and value != field.default:
            table.add_row(field.name, f"{value:,}" if type(value) is int else str(value))
    for stack in cfg.stacks:
        kinds = [f"{layer.window or 'full'}{' experts' if layer.moe else ''}" for layer in stack.pattern]
        table.add_row("layers", f"{stack.repeats} x ({', '.join(kinds)})")
    return table


def _parameters(cfg: ModelConfig) -> Table:
    """Parameters by part, from the specs."""
    import math

    from vishwamai.models import cost, transformer
    from vishwamai.weights import spec

    parts: dict[str, int] = {}
    for path, param in spec.named(transformer.specs(cfg)):
        part = ".".join(path.split(".")[3:4]) or path
        parts[part] = parts.get(part, 0) + math.prod(param.shape)
    table = _table("parameters", "part", "count")
    for part, count in parts.items():
        table.add_row(part, f"{count:,}")
    table.add_row("total", f"{cost.parameters(cfg).total:,}")
    table.add_row("active for a token", f"{cost.parameters(cfg).active:,}")
    return table


def _memory(cfg: ModelConfig, batch: int, length: int) -> Table:
    from vishwamai.models import cost

    total = cost.parameters(cfg).total
    table = _table("memory in MiB", "what", "float32", "bfloat16")
    cache = [cost.cache_bytes(cfg, batch, length, size) / MIB for size in (4, 2)]
    table.add_row("weights", f"{4 * total / MIB:,.2f}", f"{2 * total / MIB:,.2f}")
    table.add_row(f"cache, {batch} x {length:,}", *(f"{size:,.2f}" for size in cache))
    table.add_row("weights, gradients and AdamW's moments", f"{16 * total / MIB:,.2f}", "")
    return table


if __name__ == "__main__":
    sys.exit(main())
