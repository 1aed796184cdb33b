"""What is typed wrongly: numbers out of range in every verb, options and verbs that there are not; none of it loads."""

import argparse

import pytest

from vishwamai import VishwamAI, VishwamAITokenizer
from vishwamai.cli import main, parser
from vishwamai.cli.arguments import Number
from vishwamai.training import trainer

from .conftest import CONFIG

WORDS = {  # the least that each verb needs
    "generate": ["hi"],
    "score": ["hi"],
    "reason": ["4 9 10 13", "--task", "game24"],
    "train": [CONFIG],
    "convert": ["a", "b"],
    "quantize": ["a", "b"],
    "merge": ["a", "b"],
    "tokenizer train": ["README.md", "-o", "out"],
    "tokenizer encode": ["hi"],
    "tokenizer decode": ["1"],
}
# What means something, as --help says; everything else of -1, 0 and nan is refused.
MEANT = {
    "--seed": {"-1", "0"},
    "--top-k": {"-1", "0"},
    "--temperature": {"0"},
    "--min-p": {"0"},
    "reason --max-tokens": {"0"},
    "reason --max-calls": {"0"},
    "reason --max-seconds": {"0"},
    "reason --max-nodes": {"0"},
}


class Loaded(Exception):
    """A model, a run or a text was asked for."""


def verbs(within: argparse.ArgumentParser, path: str = ""):
    """(verb, its parser) of every verb and task."""
    nested = [action for action in within._actions if isinstance(action, argparse._SubParsersAction)]
    if not nested:
        yield path.strip(), within
    for name, verb in (nested[0].choices if nested else {}).items():
        yield from verbs(verb, f"{path} {name}")


def numbers():
    """(verb, option) of every option that is a number."""
    for verb, options in verbs(parser()):
        for action in options._actions:
            if action.type in (int, float) or isinstance(action.type, Number):
                yield verb, max(action.option_strings, key=len)


@pytest.fixture
def nothing_loads(monkeypatch):
    """Whatever takes long ends at once."""

    def loads(*args, **options):
        raise Loaded

    for owner, name in (
        (VishwamAI, "from_pretrained"),
        (VishwamAITokenizer, "from_pretrained"),
        (VishwamAITokenizer, "train"),
        (trainer, "train"),
    ):
        monkeypatch.setattr(owner, name, loads)
    monkeypatch.setattr("vishwamai.cli.inspect._inspect", loads)
    monkeypatch.setattr("vishwamai.hub.resolve", loads)


def test_every_number_is_one_of_ours():
    found = list(numbers())
    assert len(found) > 30 and {verb for verb, _ in found} >= {"generate", "chat", "reason", "train", "inspect"}
    for _, options in verbs(parser()):  # argparse's own int and float let nan, inf and every sign through
        assert not any(action.type in (int, float) for action in options._actions)


@pytest.mark.parametrize("value", ["-1", "0", "nan", "inf", "x"])
@pytest.mark.parametrize(("verb", "option"), list(numbers()))
def test_numbers_out_of_range_are_refused_before_anything_is_loaded(verb, option, value, capsys, nothing_loads):
    argv = [*verb.split(), *WORDS.get(verb, []), f"{option}={value}"]
    if value in MEANT.get(f"{verb} {option}", MEANT.get(option, ())):
        with pytest.raises(Loaded):
            main(argv)
        return
    try:
        code = main(argv)
    except SystemExit as ended:  # argparse's own way
        code = ended.code
    out, err = capsys.readouterr()
    last = err.strip().rpartition("\n")[2]
    assert code == 2 and out == "" and "error: " in last, err
    assert (
        option.strip("-").replace("-", "_") in last.replace("-", "_")
        and value.strip("-").replace("1e400", "inf") in last
    ), last


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["genrate", "hi"], "there is no verb 'genrate'; did you mean generate?"),
        (["tokenizer", "encod", "x"], "there is no task 'encod'; did you mean encode?"),
        (["generate", "--temprature", "0.7", "hi"], "there is no option --temprature; did you mean --temperature?"),
        (["chat", "--temprature=0.7"], "there is no option --temprature; did you mean --temperature?"),
        (["score", "hi", "--jsn"], "there is no option --jsn; did you mean --json?"),
        (["tokenizer", "train", "f", "-o", "x", "--vocabsize", "9"], "--vocabsize; did you mean --vocab-size?"),
        (["train", CONFIG, "--max-second", "4", "--ouput", "x"], "--ouput; did you mean --output?"),
        (["generate", "hi", "there"], "nothing is known to do with: there"),
        (["--versoin"], "required: VERB"),
    ],
)
def test_what_was_likely_meant(argv, says, capsys, nothing_loads):
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2 and says in capsys.readouterr().err


def test_an_override_that_there_is_not(capsys, nothing_loads):
    assert main(["train", CONFIG, "training.stepz=3"]) == 2
    assert "there is no field 'stepz' (did you mean 'steps'?)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--sample", "-t", "0"], "do_sample=True draws, and temperature=0 takes the likeliest"),
        (["-t", "0", "--top-p", "0.5"], "temperature=0 takes the likeliest token, and top_p=0.5 draws"),
        (["--top-p", "3"], "top_p is 3.0"),
        (["--num-beams", "5000"], "num_beams is 5000"),
        (["--stop", ""], "stop is"),
    ],
)
def test_options_that_contradict_each_other_are_refused_before_anything_is_loaded(options, says, capsys, nothing_loads):
    assert main(["generate", "hi", *options]) == 2
    assert says in capsys.readouterr().err
