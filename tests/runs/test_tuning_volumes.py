"""The volumes of a run that can be tuned on, and their folds."""

from configs import base
from jax_seg.runs import tuning_volumes
from jax_seg.runs.run import open_run
from jax_seg.system import configuration
from jax_seg.system.files import write_json
from tests.tuning import write_folder


def paths(**group_of):
    return [tuning_volumes.Paths(name, group, None, None, None) for name, group in group_of.items()]


def test_folds_hold_every_volume_out_once():
    by_scroll = tuning_volumes.folds(paths(a="s", b="t", c="s"))
    assert by_scroll == [(["b"], ["a", "c"]), (["a", "c"], ["b"])]
    one_scroll = tuning_volumes.folds(paths(a="s", b="s"))
    assert one_scroll == [(["b"], ["a"]), (["a"], ["b"])]
    assert tuning_volumes.folds(paths(a="s")) == []
    many = tuning_volumes.folds(paths(**{f"v{k}": f"s{k}" for k in range(12)}))
    assert len(many) == 5
    assert sorted(name for _, scored in many for name in scored) == sorted(
        f"v{k}" for k in range(12)
    )
    assert all(not set(searched) & set(scored) for searched, scored in many)


def test_of_a_runs_own_data_all_but_its_validation_part_was_trained_on(tmp_path):
    folder = write_folder(tmp_path)
    predictions = (folder / "validation/probabilities").rename(folder / "probabilities")
    config = base.get_config()
    config.data.update(root=str(folder), images="images", labels="labels")
    write_json(folder / "config.json", configuration.as_dict(config))
    scores = {"judged_on": {"volumes": "held out", "chose": ["checkpoint"]}, "volumes": {"c": {}}}
    write_json(folder / "validation/scores.json", scores)
    found, errors, _ = tuning_volumes.find(open_run(folder), predictions)
    assert not errors
    assert {paths.id: paths.judged_on.volumes for paths in found} == {
        "a": "training",
        "b": "training",
        "c": "held out",
    }
