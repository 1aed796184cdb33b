"""config.json of published checkpoints: each is read, and gives the sizes and the parameters that the checkpoint has.

`published.json` has their attributes, without `quantization_config` and with ones for the longrope factors of Phi 4.
The parameters were counted elsewhere: by the Hub, or in a report; one under 1000 is in billions, of which only two
decimals are known. Counted are choice biases and the constants of Apertus's activation too; not counted are images, and
layers that predict further tokens.
"""

import json
from pathlib import Path

import pytest

from vishwamai.hf import config, export
from vishwamai.hf.families import FAMILIES
from vishwamai.models import cost

PUBLISHED = json.loads((Path(__file__).parent / "published.json").read_text())
pytestmark = pytest.mark.filterwarnings("ignore:.*'attn_factor' is overlooked")
INSIDE_OTHERS = {"ministral3", "vishwamai"}  # published inside a model of images too, and ours


@pytest.fixture
def read(tmp_path):
    """`read(name)` is what the published configuration says."""

    def read(name: str):
        (tmp_path / "config.json").write_text(json.dumps(PUBLISHED[name]["config"]))
        return config.read_pretrained(tmp_path)

    return read


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_configuration_gives_the_model_that_was_published(name, read):
    said, model = PUBLISHED[name], read(name).model
    sizes = (model.n_layers, model.n_heads, model.n_kv_heads, model.vocab_size)
    assert sizes == (said["layers"], said["heads"], said["kv_heads"], said["vocabulary"])
    total = cost.count_parameters(model).total
    assert (total if said["parameters"] > 1000 else round(total / 1e9, 2)) == said["parameters"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_can_be_written_as_its_own_family(name, read):
    found = read(name)
    assert export.choose_family(found.model, found.model_type) == FAMILIES[found.model_type].written_as


def test_every_family_has_one():
    assert {entry["config"]["model_type"] for entry in PUBLISHED.values()} == FAMILIES.keys() - INSIDE_OTHERS
