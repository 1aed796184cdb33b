"""docs/families.md, which `make families` writes, says of every case and every family what the code is now."""

import importlib.util
import re
from pathlib import Path

import pytest

from vishwamai.hf import export
from vishwamai.hf.families import FAMILIES

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "families.md"


@pytest.fixture(scope="module")
def text():
    """The page."""
    return PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def rows(text):
    """The cells of each row of its table."""
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]


@pytest.fixture(scope="module")
def plugin():
    """What writes the page."""
    found = importlib.util.spec_from_file_location("families_page", HERE / "families_page.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_every_case_has_its_row_and_the_switches_that_it_turns_on(plugin, rows, cases):
    assert [row[1].strip("`") for row in rows] == list(cases) == list(plugin.cases())
    for family, case, switches, *_ in rows:
        kind = plugin.cases()[case.strip("`")]["model_type"]
        assert family == f"`{kind}` {FAMILIES[kind].architecture}"
        assert switches == plugin.switches(plugin.model_of(case.strip("`")))


def test_every_error_is_small_and_every_token_the_same(rows):
    for _, case, _, logits, cached, greedy, back in rows:
        assert all(0 <= float(error) <= 1e-5 for error in (logits, cached, back)), case
        matched, compared = re.fullmatch(r"(\d+) of (\d+)", greedy).groups()
        assert matched == compared and int(matched) > 28, case


def test_every_family_is_there(plugin, rows, text):
    assert {row[0].split("`")[1] for row in rows} == set(export.WRITTEN)
    assert plugin.others() in text
    assert {kind for kind in FAMILIES if f"`{kind}`" in text} == FAMILIES.keys() - {"vishwamai"}


def test_an_error_is_rounded_up_to_one_of_three_steps(plugin):
    errors = (0.0, 1e-7, 1.01e-7, 2e-6, 4.9e-6, 9.9e-6)
    assert [plugin.rounded(error) for error in errors] == ["0", "1e-07", "2e-07", "2e-06", "5e-06", "1e-05"]
