"""`vishwamai tokenizer`: trains one, and turns text into ids and back."""

from __future__ import annotations

import argparse
from typing import Any

from vishwamai.cli.arguments import COUNT, add_model, add_verb
from vishwamai.cli.texts import read_lines, read_text
from vishwamai.errors import InputError


def add(verbs: Any) -> None:
    """Makes the verb and its tasks known."""
    verb = verbs.add_parser("tokenizer", help="Train a tokenizer, or turn text into ids and back.")
    tasks = verb.add_subparsers(title="tasks", metavar="TASK", required=True)
    one = add_verb(tasks, "train", train, "Train a byte-level BPE tokenizer on text files.")
    one.add_argument("files", nargs="+", help="UTF-8 text files; - is standard input")
    one.add_argument("--vocab-size", type=COUNT, default=8192, help="how many tokens it has at most [%(default)s]")
    one.add_argument("-o", "--output", required=True, help="the folder to write")
    one = add_verb(tasks, "encode", encode, "Print the ids of a text.")
    one.add_argument("text", help="the text; - reads it from standard input")
    one.add_argument("--pieces", action="store_true", help="print each token beside its id")
    add_model(one)
    one = add_verb(tasks, "decode", decode, "Print the text of ids.")
    one.add_argument("ids", nargs="+", help="token ids; - reads them from standard input")
    add_model(one)


def train(args: argparse.Namespace) -> None:
    """`vishwamai tokenizer train`: writes a tokenizer's folder."""
    from vishwamai.text.tokenizer import VishwamAITokenizer

    tokenizer = VishwamAITokenizer.train(read_lines(args.files), args.vocab_size)
    tokenizer.save_pretrained(args.output)
    print(f"{args.output}: {len(tokenizer)} tokens")


def encode(args: argparse.Namespace) -> None:
    """`vishwamai tokenizer encode`: ids in one line, or a token a line."""
    from vishwamai.text.tokenizer import VishwamAITokenizer

    tokenizer = VishwamAITokenizer.from_pretrained(args.model)
    ids = tokenizer.encode(read_text(args.text))
    lines = [f"{i}\t{tokenizer.decode([i])!r}" for i in ids] if args.pieces else [" ".join(map(str, ids))]
    print("\n".join(lines))


def decode(args: argparse.Namespace) -> None:
    """`vishwamai tokenizer decode`: the text of ids."""
    from vishwamai.text.tokenizer import VishwamAITokenizer

    words = [word for argument in args.ids for word in read_text(argument).replace(",", " ").split()]
    try:
        ids = [int(word) for word in words]
    except ValueError as error:
        raise InputError(f"token ids are whole numbers: {error}") from None
    tokenizer = VishwamAITokenizer.from_pretrained(args.model)
    if wrong := [i for i in ids if tokenizer.id_to_token(i) is None]:
        raise InputError(f"{wrong[0]} is no token of {args.model}, whose ids go from 0 to {len(tokenizer) - 1}")
    print(tokenizer.decode(ids))
