"""`vishwamai convert`: a folder written anew, tensor by tensor, with a certificate of what came out."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vishwamai import compile_cache
from vishwamai.cli.arguments import DTYPES, add_origin, add_verb, import_face, origin
from vishwamai.cli.status import Status
from vishwamai.errors import InputError, TokenizerError

if TYPE_CHECKING:
    from vishwamai.hf.certificate import TokenPrompt
    from vishwamai.hf.source import CheckpointSource

MIB = 2**20
GGUF_KINDS = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "mxfp4")
CERTIFICATES = ("full", "hashes", "none")


def add(verbs: Any) -> None:
    """Makes the verb known."""
    verb = add_verb(verbs, "convert", convert, "Write a model anew: as another family, in our own format, in a dtype.")
    add_folders(verb)
    verb.add_argument("--as", dest="family", metavar="MODEL_TYPE", help="llama, vishwamai, ... [the source's own]")
    about = f"of the weights in a GGUF file: {', '.join(GGUF_KINDS)} [each as it is stored]"
    verb.add_argument("--type", dest="kind", choices=GGUF_KINDS, metavar="TYPE", help=about)
    verb.set_defaults(quantization=None)


def add_folders(verb: argparse.ArgumentParser) -> None:
    """What is read and what is written, and the certificate of it."""
    verb.add_argument("source", help="built-in name, folder, GGUF file, hub id, or the folder of a training run")
    verb.add_argument("target", help="the folder to write, empty or new; with convert also a GGUF file, NAME.gguf")
    add_origin(verb)
    verb.add_argument("--dtype", choices=DTYPES, help="of the weights written [each as it is stored]")
    about = "what parity.json holds: hashes and distances of logits, hashes alone, or no such file [%(default)s]"
    verb.add_argument("--certificate", choices=CERTIFICATES, default="full", help=about)


def convert(args: argparse.Namespace) -> None:
    """`vishwamai convert`: any folder that loads, written anew."""
    status = Status()
    import_face(status)
    from vishwamai.hf import certificate
    from vishwamai.hf import convert as conversion

    target, compare = Path(args.target), args.certificate == "full"
    if target.suffix == ".gguf":
        return _to_gguf(args, target, status)
    if args.kind is not None:
        raise InputError(f"--type is of GGUF files, and {target} is none: name it {target}.gguf, or leave --type out")
    asked = {"model_type": args.family, "dtype": args.dtype, "quantization": args.quantization}
    compile_cache.enable()
    with _source(args, status) as source:
        with status("converting") as report:
            done = conversion.convert_checkpoint(source, target, **asked, progress=report)
        print(f"{target}: {done.model_type}, {done.dtype}, {done.size / MIB:,.1f} MiB")
        if args.certificate == "none":
            return
        with status("comparing logits" if compare else "hashing"):
            prompts = _prompts(source) if compare else []
            made = certificate.write_certificate(source, target, prompts, name=args.source, compare=compare)
    for key in certificate.DISTANCES if compare else ():
        print(f"{key.replace('_', ' ')}: {_describe(made[key])}")


def _to_gguf(args: argparse.Namespace, target: Path, status: Status) -> None:
    """The same, as a GGUF file."""
    from vishwamai.gguf.convert import convert_to_gguf
    from vishwamai.gguf.source import GGUFSource
    from vishwamai.hf import certificate

    if args.quantization is not None:
        raise InputError(f"quantize writes folders; for {target} use vishwamai convert with --type")
    if args.dtype is not None:
        raise InputError("--dtype is of folders; for a GGUF file give --type")
    compile_cache.enable()
    with _source(args, status) as source:
        with status("converting") as report:
            done = convert_to_gguf(source, target, kind=args.kind, model_type=args.family, progress=report)
        print(f"{target}: {done.model_type}, {done.dtype}, {done.size / MIB:,.1f} MiB")
        if args.certificate != "full":
            return
        with status("comparing logits"):
            found = certificate.source_distance(source, GGUFSource(target), _prompts(source))
    print(f"source to target: {_describe(found)}")


@contextmanager
def _source(args: argparse.Namespace, status: Status) -> Iterator[CheckpointSource]:
    """The model to convert; of a training run, the model of its newest checkpoint for as long as it is needed."""
    from vishwamai.gguf.source import open_source
    from vishwamai.hf.source import CheckpointSource

    folder = Path(args.source)
    if not (folder / "run.json").is_file():
        yield open_source(args.source, **origin(args))
        return
    from vishwamai.api import VishwamAI
    from vishwamai.training import trainer

    with status("reading the checkpoint"):
        run, result = trainer.load_newest(folder)
    model: Any = run.model
    left: Any = result
    print(f"{folder}: step {left.step:,} of {run.training.steps:,}")
    with tempfile.TemporaryDirectory(dir=folder) as made:  # on the disk that has room for its checkpoints
        with status("writing the model"):
            VishwamAI(model, left.weights, tokenizer=left.tokenizer).save_pretrained(made)
        del left, result
        yield CheckpointSource(Path(made))


def _describe(found: dict[str, Any]) -> str:
    if found["distance"] is None:
        return found["reason"]
    same = f"the same greedy token at {found['same_greedy_token']:.1%} of {found['positions']} positions"
    return f"logits differ by {found['distance']:.1e} of the largest, {same}"


def _prompts(source: CheckpointSource) -> list[TokenPrompt]:
    """What the certificate asks: texts where the model has a tokenizer that is read, ids elsewhere."""
    from vishwamai.gguf.source import find_tokenizer
    from vishwamai.hf import certificate

    read = find_tokenizer(source)
    try:
        encode = None if read is None else read().encode
    except TokenizerError:
        encode = None
    return certificate.choose_prompts(source.pretrained.model, encode)
