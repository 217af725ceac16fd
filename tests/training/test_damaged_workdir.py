"""A run whose files were damaged, and that was interrupted in writes, ends as if it were whole."""

import re
import shutil
import warnings

import jax
import numpy as np

from jax_seg.runs import checkpoints
from jax_seg.runs.events import read_events
from jax_seg.system.files import read_json, write_json
from jax_seg.tasks.task import stored_scores
from jax_seg.training import run as training
from tests.conftest import tiny_config

DAMAGE = (
    lambda content: b"",
    lambda content: content[: len(content) // 2],
    lambda c: bytes(len(c)),
)


def weights(workdir):
    variables, _, step = checkpoints.read_variables(workdir, "latest")
    return variables, step


def test_a_damaged_run_ends_as_if_it_were_whole(volumes_folder, tmp_path):
    before, workdir, config = tmp_path / "before", tmp_path / "run", tiny_config(volumes_folder)
    config.checkpoint.keep = 2
    scores = training.run(config, before)
    shutil.copytree(before, workdir)
    damaged = [
        workdir / "checkpoints" / "save_17" / "state" / "manifest.ocdbt",  # the newest
        *(workdir / "cache" / "measured").iterdir(),
        *(workdir / "cache" / "volumes").iterdir(),
        *(workdir / name for name in ("config.json", "scores.json", "validation/scores.json")),
    ]
    for number, path in enumerate(damaged):  # empty, cut or zeroed in turn
        path.write_bytes(DAMAGE[number % 3](path.read_bytes()))
    left = [
        workdir / ".config.99999999.json",
        workdir / "cache" / "volumes" / "tmp1a2b.part",
        workdir / "cache" / "measured" / ".v1-1a2b.99999999.npz",
        workdir / "validation" / "probabilities" / ".v4.99999999.tif",
        workdir / "checkpoints" / "save_18.orbax-checkpoint-tmp" / "state",
    ]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert training.run(config, workdir) == scores
    ours = [str(w.message) for w in warned if "damaged" in str(w.message)]
    assert len(ours) == 1, ours
    assert re.fullmatch(r".*/save_17 is damaged \(.+\); skipping it\.", ours[0])
    assert not any(path.exists() for path in left)
    (ours, step), (theirs, expected_step) = weights(workdir), weights(before)
    assert step == expected_step == 8
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    losses = [
        [e["loss"] for e in read_events(w) if e["kind"] == "train"] for w in (workdir, before)
    ]
    assert losses[0] == losses[1]
    for name in ("config.json", "scores.json", "validation/scores.json"):
        assert read_json(workdir / name) == read_json(before / name)


def test_damaged_scores_are_computed_again(tmp_path):
    lines, checksums = [], {"v0": [1, 2]}

    def stored():
        return stored_scores(tmp_path, {"raw": 8}, checksums, lines.append)

    content = {"raw": {"step": 8, "dice": 0.5}}
    write_json(tmp_path / "scores.json", content)
    write_json(tmp_path / "validation" / "scores.json", {"data": checksums})
    assert stored() == content and lines.pop() == f"Already scored: {tmp_path / 'scores.json'}"
    (tmp_path / "scores.json").write_text("{")
    assert stored() is None and "scores.json is not valid JSON" in lines.pop()
    write_json(tmp_path / "scores.json", content)
    (tmp_path / "validation" / "scores.json").write_bytes(bytes(20))
    assert stored() is None and "validation/scores.json is not valid JSON" in lines.pop()
    write_json(tmp_path / "validation" / "scores.json", {"data": {"v0": [1, 3]}})
    assert stored() is None and "validation data have changed" in lines.pop()
    write_json(tmp_path / "scores.json", {"raw": {"step": 4}})
    write_json(tmp_path / "validation" / "scores.json", {"data": checksums})
    assert stored() is None and lines == []  # of another step
