"""Checkpoints: what is restored is what was saved, on any mesh, or is not restored at all."""

import gc
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.checkpoint import Checkpoints, checksums, flatten
from vishwamai.errors import CheckpointError
from vishwamai.parallel.mesh import make_mesh
from vishwamai.parallel.sharding import Sharding

# Orbax leaves half-read arrays behind when a file is damaged; what the collector says of them is not ours.
pytestmark = pytest.mark.filterwarnings(
    "ignore:(?s)Exception ignored in.*Event loop is closed:pytest.PytestUnraisableExceptionWarning",
    "ignore:coroutine .* was never awaited:RuntimeWarning",
)


@pytest.fixture(autouse=True, scope="module")
def nothing_left_for_the_next_module():
    yield
    gc.collect()


TREE = {"w": jnp.arange(64.0).reshape(8, 8), "n": {"count": jnp.array(3, jnp.int32)}, "b": jnp.ones(4, jnp.bfloat16)}


def saved(folder, *steps):
    checkpoints = Checkpoints(folder)
    for step in steps:
        checkpoints.save(step, jax.tree.map(lambda x, s=step: x + jnp.asarray(s, x.dtype), TREE), {"at": step})
    checkpoints.close()
    return Checkpoints(folder)


def test_the_newest_comes_back_with_its_notes(tmp_path):
    step, tree, extra = saved(tmp_path, 1, 2).restore(TREE)
    assert step == 2 and extra == {"at": 2}
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b + jnp.asarray(2, b.dtype)), tree, TREE)
    assert tree["b"].dtype == jnp.bfloat16


def test_an_empty_folder_holds_none_and_only_the_newest_are_kept(tmp_path):
    assert Checkpoints(tmp_path / "none").restore(TREE) is None
    assert saved(tmp_path / "some", 1, 2, 3, 4, 5).steps() == [3, 4, 5]


def test_a_flipped_bit_is_noticed_and_the_step_before_is_used(tmp_path):
    checkpoints = saved(tmp_path, 1, 2)
    files = [
        p for p in (tmp_path / "2" / "state").rglob("*") if p.is_file() and p.stat().st_size > 0 and "/d/" in str(p)
    ]
    for path in files:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 16
        path.write_bytes(data)
    with pytest.warns(RuntimeWarning, match="step 2"):
        assert checkpoints.restore(TREE)[0] == 1
    with pytest.warns(RuntimeWarning), pytest.raises(CheckpointError, match="no checkpoint"):
        checkpoints.restore(TREE, step=2)


def empty(path):
    path.write_bytes(b"")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [empty, cut, lambda path: path.unlink()], ids=["emptied", "cut", "deleted"])
@pytest.mark.parametrize("what", ["notes/metadata", "state/_METADATA", "state/manifest.ocdbt", "state/**/d/*"])
def test_a_damaged_file_costs_one_step_and_never_gives_wrong_values(tmp_path, what, damage):
    saved(tmp_path, 1, 2)
    for path in (tmp_path / "2").glob(what):
        damage(path)
    with pytest.warns(RuntimeWarning, match="step 2"):
        step, tree, _ = Checkpoints(tmp_path).restore(TREE)
    assert step == 1
    np.testing.assert_array_equal(tree["w"], TREE["w"] + 1)


def test_another_s_checkpoint_in_the_making_may_be_left_alone(tmp_path, tmp_path_factory):
    saved(tmp_path, 1)
    seen = tmp_path_factory.mktemp("seen") / "checkpoints"  # where no manager that clears is still at work
    shutil.copytree(tmp_path, seen)
    (seen / "4.orbax-checkpoint-tmp").mkdir()
    assert Checkpoints(seen, clear=False).steps() and (seen / "4.orbax-checkpoint-tmp").exists()


def test_what_is_no_checkpoint_is_not_taken_for_one(tmp_path):
    saved(tmp_path, 1)
    (tmp_path / "2").mkdir()
    (tmp_path / "3").write_text("not a folder")
    (tmp_path / "4.orbax-checkpoint-tmp").mkdir()
    with pytest.warns(RuntimeWarning, match="step 2"):
        assert Checkpoints(tmp_path).restore(TREE)[0] == 1
    assert not (tmp_path / "4.orbax-checkpoint-tmp").exists()


def test_a_damaged_step_is_saved_anew_when_the_run_reaches_it_again(tmp_path):
    checkpoints = saved(tmp_path, 1, 2)
    empty(tmp_path / "2" / "notes" / "metadata")
    checkpoints.save(2, TREE, {"at": "again"})
    checkpoints.close()
    assert Checkpoints(tmp_path).restore(TREE)[::2] == (2, {"at": "again"})


def test_the_step_with_the_least_loss_is_kept_beside_the_newest(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, loss in enumerate([3.0, None, 1.0, 2.0, None, None], 1):
        checkpoints.save(step, TREE, {}, loss=loss)
    checkpoints.close()
    again = Checkpoints(tmp_path, keep=2)
    assert again.steps() == [3, 5, 6] and again.best() == 3
    again.save(7, TREE, {}, loss=0.5)
    again.close()
    assert Checkpoints(tmp_path).steps() == [6, 7] and Checkpoints(tmp_path).best() == 7


NAN = float("nan")


@pytest.mark.parametrize(
    ("losses", "best"),
    [
        ([NAN, 1.0, float("-inf"), 3.0], 2),
        ([float("inf"), NAN, None], None),
    ],
    ids=str,
)
def test_a_loss_that_is_not_finite_is_never_the_best(tmp_path, losses, best):
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step, loss in enumerate(losses, 1):
        checkpoints.save(step, {"w": TREE["w"]}, {}, loss=loss)
    checkpoints.close()
    again = Checkpoints(tmp_path, keep=1)
    assert again.best() == best == checkpoints.best()
    assert again.steps() == sorted({best or len(losses), len(losses)})


def test_damaged_notes_are_never_believed(tmp_path):
    extra = {"batches": {"next": [200, 0]}, "run": "abc"}
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, TREE, extra, loss=0.625)
    checkpoints.close()
    notes = tmp_path / "2" / "notes" / "metadata"
    raw = notes.read_bytes()
    for before, after in ((b"200", b"300"), (b"abc", b"abd"), (b'"extra"', b'"exura"'), (b"0.625", b"0.125")):
        assert raw.count(before) == 1
        notes.write_bytes(raw.replace(before, after))
        with pytest.warns(RuntimeWarning, match="notes"), pytest.raises(CheckpointError):
            checkpoints.restore(TREE, step=2)
    again = Checkpoints(tmp_path)
    assert again.best() == 1
    with pytest.warns(RuntimeWarning, match="step 2: .*notes"):
        assert again.restore(TREE)[::2] == (1, extra)


def test_any_digit_of_a_note_s_checksums_counts(tmp_path):
    saved(tmp_path, 1)
    notes = tmp_path / "1" / "notes" / "metadata"
    raw = notes.read_bytes()
    digits = [i for i, byte in enumerate(raw) if chr(byte).isdigit()]
    assert len(digits) > 20
    again = Checkpoints(tmp_path)
    for i in digits[:: len(digits) // 3]:
        notes.write_bytes(raw[:i] + bytes([raw[i] ^ 1]) + raw[i + 1 :])
        with pytest.warns(RuntimeWarning, match="notes"), pytest.raises(CheckpointError):
            again.restore(TREE)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run")
    (tmp_path / "run").rmdir()
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(CheckpointError, match="in .*/run: .*disk full"):
        checkpoints.save(1, TREE, {})
        checkpoints.wait()


@pytest.mark.parametrize(
    ("like", "words"),
    [
        ({**TREE, "w": jnp.zeros((8, 9))}, "in this run"),
        ({**TREE, "w": jnp.zeros((8, 8), jnp.bfloat16)}, "in this run"),
        ({"w": TREE["w"]}, "other arrays"),
    ],
)
def test_another_shape_dtype_or_tree_is_refused(tmp_path, like, words):
    with pytest.warns(RuntimeWarning), pytest.raises(CheckpointError, match=words):
        saved(tmp_path, 1).restore(like)


def test_a_checkpoint_is_restored_onto_another_mesh(tmp_path):
    def laid(**sizes):
        sharding = Sharding(make_mesh(**sizes))
        return {
            **jax.device_put(TREE, sharding.named()),
            "w": jax.device_put(TREE["w"], sharding.named("embed", "mlp")),
        }

    first = Checkpoints(tmp_path)
    first.save(1, laid(fsdp=8), {})
    first.close()
    like = laid(fsdp=2, tensor=4)
    _, tree, _ = Checkpoints(tmp_path).restore(like)
    np.testing.assert_array_equal(tree["w"], TREE["w"])
    assert tree["w"].sharding == like["w"].sharding


def test_a_checksum_sees_any_bit_and_no_layout():
    plain = checksums(flatten(TREE))
    sharded = checksums(flatten(jax.device_put(TREE, Sharding(make_mesh(fsdp=8)).named())))
    assert {k: int(v) for k, v in plain.items()} == {k: int(v) for k, v in sharded.items()}
    w = np.asarray(TREE["w"]).copy()
    for at in range(0, 64, 7):
        for bit in (0, 13, 31):
            flipped = w.copy().view(np.uint32)
            flipped.reshape(-1)[at] ^= np.uint32(1 << bit)
            changed = checksums({"w": jnp.asarray(flipped.view(np.float32))})["w"]
            assert int(changed) != int(checksums({"w": jnp.asarray(w)})["w"])
