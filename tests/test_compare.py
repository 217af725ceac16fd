"""Comparisons by hand and against SciPy; the command on files, runs and checkpoints."""

import json

import jax
import numpy as np
import pytest
import tifffile
from scipy import stats

from jax_seg import fit_ensemble
from jax_seg.compare import main, scores_of
from jax_seg.metrics.comparison import Comparison, adjusted, compare, interval, number, verdict
from jax_seg.runs import checkpoints
from jax_seg.system.files import write_json
from tests.workdirs import write_run

GENERATOR = np.random.default_rng(0)


def test_sign_flips_by_hand():
    """Differences 1, 2, 3: of 8 sign choices only all + and all - reach the sum 6."""
    found = compare([0, 0, 0], [1, 2, 3])
    assert (found.volumes, found.difference) == (3, 2)
    assert found.p_value == found.smallest_p == 2 / 8
    assert compare([0, 0, 0], [3, 3, -1]).p_value == 4 / 8  # ±(3 + 3 + 1) and ±(3 + 3 - 1)
    assert compare([1, 1], [1, 1]).p_value == 1


def test_rounding_does_not_break_ties():
    """0.1 + 0.2 - 0.3 is not 0 in floating point; every choice of signs is as extreme as 0."""
    assert compare(np.zeros(3), [0.1, 0.2, -0.3]).p_value == 1


@pytest.mark.parametrize("count", [5, 9, 16])
def test_exact_test_against_scipy(count):
    a, b = GENERATOR.normal(size=(2, count))
    b += 0.5
    oracle = stats.permutation_test(
        (b - a,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert compare(a, b).p_value == pytest.approx(oracle.pvalue)


def test_many_volumes_are_sampled_and_agree_with_a_t_test():
    a = GENERATOR.normal(size=60)
    b = a + GENERATOR.normal(0.2, 1, size=60)
    found = compare(a, b)
    assert found.p_value == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=0.02)
    assert found.smallest_p == 1 / 10_001
    assert compare(a, b) == found and compare(a, b, seed=1) != found


def test_interval_against_scipy():
    values = GENERATOR.normal(size=40)
    oracle = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(5)
    ).confidence_interval
    np.testing.assert_allclose(interval(values), oracle, atol=0.02)
    assert interval([0.5]) == (0.5, 0.5)


def test_the_interval_is_paired():
    """Volumes that differ a lot, models that differ a little and always alike."""
    a = np.linspace(0, 1, 10)
    found = compare(a, a + 0.01)
    assert found.low == pytest.approx(0.01) and found.high == pytest.approx(0.01)
    assert found.p_value == 2 / 2**10


def test_false_alarms_are_as_rare_as_promised():
    """400 pairs of equal models on 8 volumes; two-sided at 5 %."""
    alarms = 0
    for _ in range(400):
        found = compare(*GENERATOR.normal(size=(2, 8)))
        alarms += "better" in verdict("A", "B", found, found.p_value)
    assert alarms <= 32  # 20 expected, standard deviation 4.4


def test_holm_by_hand():
    assert adjusted([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert adjusted([0.5, 0.9]) == [1, 1]
    assert adjusted([0.02]) == [0.02]


def test_sentences():
    found = Comparison(9, 0.0131, 0.0042, 0.0213, 0.004, 0.004)
    assert verdict("A", "B", found, 0.004) == "B is better than A by .013 (95 %: .004 to .021)"
    assert (
        verdict("A", "B", found, 0.004, higher_is_better=False)
        == "A is better than B by .013 (95 %: .004 to .021)"
    )
    worse = found._replace(difference=-0.0131, low=-0.0213, high=-0.0042)
    assert verdict("A", "B", worse, 0.004) == "A is better than B by .013 (95 %: .004 to .021)"
    assert verdict("A", "B", found, 0.06) == (
        "A and B are not distinguishable on 9 volumes: B differs by .013 (95 %: .004 to .021), "
        "p = .060"
    )
    assert verdict("A", "B", found, 0.06, pairs=3).endswith(", p = .060 as one of 3 pairs")
    touching = found._replace(low=-0.001)
    assert "not distinguishable" in verdict("A", "B", touching, 0.004)


def test_three_volumes_can_tell_nothing_and_it_is_said():
    found = compare([0.5, 0.6, 0.7], [0.6, 0.7, 0.8])
    assert found.low > 0  # the bootstrap alone would claim a difference
    sentence = verdict("A", "B", found, found.p_value)
    assert sentence == (
        "A and B are not distinguishable on 3 volumes: B differs by .100 (95 %: .100 to .100), "
        "p = .250; with 3 volumes no p-value can be below .250: score at least 6 to distinguish "
        "the models"
    )
    six = compare(np.zeros(6), np.full(6, 0.1))
    assert verdict("A", "B", six, six.p_value).startswith("B is better than A by .100")
    assert "at least 7" in verdict("A", "B", six, 3 * six.p_value, pairs=3)
    assert " on 1 volume:" in verdict("A", "B", compare([0.1], [0.2]), 1.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0131, ".013"), (-0.25, "-.250"), (0.0, ".000"), (-0.0001, ".000"), (1.25, "1.250"),
     (0.9999, "1.000"), (-12.5, "-12.500")],
)  # fmt: skip
def test_numbers(value, text):
    assert number(value) == text


def scores_file(path, values, metric="dice"):
    volumes = {f"v{n}": {metric: float(value)} for n, value in enumerate(values)}
    path.write_text(json.dumps({"volumes": volumes}))
    return str(path)


def test_two_files(tmp_path, capsys):
    base = GENERATOR.random(8) / 2
    a = scores_file(tmp_path / "a.json", base)
    b = scores_file(tmp_path / "b.json", [*(base + 0.1), 0.9])
    output = tmp_path / "found.json"
    assert main([a, b, "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "Skipping volumes that not every model has scored: v8." in printed
    assert f"{b} is better than {a} by .100 (95 %: .100 to .100)" in printed
    assert "dice of 8 volumes" in printed
    found = json.loads(output.read_text())
    assert found["models"][a]["mean"] == pytest.approx(base.mean())
    assert found["models"][a]["worst"] == pytest.approx(base.min())
    assert found["pairs"][0]["p_value"] == 2 / 2**8 == found["pairs"][0]["adjusted_p_value"]


def test_distances_are_better_when_lower(tmp_path, capsys):
    a = scores_file(tmp_path / "a.json", np.full(6, 2.0), "surface_mean")
    b = scores_file(tmp_path / "b.json", np.full(6, 3.5), "surface_mean")
    assert main([a, b, "--metric", "surface_mean"]) == 0
    assert f"{a} is better than {b} by 1.500 (95 %: 1.500 to 1.500)" in capsys.readouterr().out


def test_many_pairs_are_adjusted(tmp_path, capsys):
    """Three equal models but for 0.1: 2 / 2^6 = .031 alone, .094 as the smallest of three."""
    files = [scores_file(tmp_path / f"{n}.json", np.full(6, 0.1 * n)) for n in range(3)]
    assert main(files) == 0
    printed = capsys.readouterr().out
    assert "better" not in printed
    assert printed.count("no p-value can be below .094: score at least 7") == 3


def test_a_run_and_its_averages(tmp_path, capsys):
    volumes = {f"v{n}": {"dice": 0.5 + n / 100} for n in range(7)}
    better = {name: {"dice": found["dice"] + 0.02} for name, found in volumes.items()}
    folder = tmp_path / "run" / "validation"
    folder.mkdir(parents=True)
    (folder / "scores.json").write_text(
        json.dumps({"step": 9, "volumes": volumes, "averages": {"swa": better}})
    )
    run = str(tmp_path / "run")
    output = tmp_path / "found.json"
    assert main([run, f"{run}@swa", "--output", str(output)]) == 0
    (sentence,) = (
        line for line in capsys.readouterr().out.splitlines() if "is better than" in line
    )
    assert f"{run}@swa is better than {run} by .020 (95 %" in sentence
    assert sentence.endswith(f"; these volumes chose the checkpoint of {run}")
    found = json.loads(output.read_text())
    assert found["pairs"][0]["sentence"] == sentence
    assert [one["judged_on"]["chose"] for one in found["models"].values()] == [["checkpoint"], []]
    assert main([run, f"{run}@ema"]) == 1
    assert "no scores of the average 'ema'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def two_runs(volumes_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    a = write_run(folder / "a", volumes_folder, steps=(1, 2))
    return str(a), str(write_run(folder / "b", volumes_folder))


def test_checkpoints_segment_the_held_out_volumes(two_runs, volumes_folder, tmp_path, capsys):
    a, b = two_runs
    assert main([f"{a}@1", f"{a}@2", f"{b}@latest@swa"]) == 0
    assert "dice of 2 volumes" in capsys.readouterr().out  # a third of six
    found, errors, judged_on = scores_of(f"{a}@1", "dice")
    assert errors == {} and len(found) == 2
    assert {one.volumes for one in judged_on.values()} == {"held out"}
    assert scores_of(f"{a}@best", "dice")[0] == found  # the first is the best
    assert scores_of(f"{a}@latest", "dice")[0] == scores_of(f"{a}@2", "dice")[0] != found
    assert scores_of(f"{a}@2@ema", "dice")[0] != scores_of(f"{a}@2", "dice")[0]

    weighed, one = tmp_path / "ensemble.json", next(iter(found))
    content = {"members": [f"{a}@1", f"{b}@1"], "weights": [1, 0], "fitted_to": [one]}
    weighed.write_text(json.dumps(content))
    values, _, judged_on = scores_of(str(weighed), "dice")
    assert values == found
    assert {name for name, on in judged_on.items() if on.chose == ("weights",)} == {one}
    assert {on.chose for on in scores_of(f"{a}@best", "dice")[2].values()} == {("checkpoint",)}
    assert scores_of(f"{a}@1", "score")[0].keys() == found.keys()


def test_chosen_volumes_and_bad_ones(two_runs, volumes_folder, tmp_path, capsys):
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        for name in ("v0", "v1", "v2", "v3"):
            source = volumes_folder / f"train_{kind}" / f"{name}.tif"
            (tmp_path / kind / f"{name}.tif").write_bytes(source.read_bytes())
    tifffile.imwrite(tmp_path / "labels/v1.tif", np.full((20, 20, 20), 2, np.uint8))
    tifffile.imwrite(tmp_path / "labels/v2.tif", np.zeros((20, 20, 21), np.uint8))
    chosen = ["--images", str(tmp_path / "images"), "--labels", str(tmp_path / "labels")]
    assert main([*two_runs, *chosen]) == 1
    printed = capsys.readouterr()
    assert "dice of 2 volumes" in printed.out
    for phrase in ("v1.tif has no labelled voxel", "v2.tif has shape (20, 20, 21)"):
        assert printed.err.count(phrase) == 2  # for each model
    # Of the four copies two at least are of scrolls that were trained on.
    assert f"{two_runs[0]} and {two_runs[1]} were trained on " in printed.out
    assert printed.out.count("  training volumes\n") == 2


def test_a_network_that_diverged_is_reported_not_scored(two_runs, monkeypatch, capsys):
    read = checkpoints.read_variables

    def broken(workdir, *rest):
        params, *others = read(workdir, *rest)
        factor = np.nan if str(workdir) == two_runs[1] else 1.0
        return jax.tree.map(lambda leaf: leaf * factor, params), *others

    monkeypatch.setattr(checkpoints, "read_variables", broken)
    assert main([f"{run}@1" for run in two_runs]) == 1
    assert "no scored volume in common" in capsys.readouterr().err
    scores, errors, _ = scores_of(f"{two_runs[1]}@1", "dice")
    assert scores == {} and len(errors) == 2
    assert all(
        "contains NaN: the checkpoint diverged or its dtype overflows" in e for e in errors.values()
    )
    command = [*two_runs, "--output", "never.json"]
    assert fit_ensemble.main(command) == 1
    assert capsys.readouterr().err.count("contains NaN") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{a}"], "at least two models"),
        (["{a}", "{a}"], "each once"),
        (["{a}@1", "{b}@7"], "no checkpoint '7'"),
        (["{a}@swaa", "{b}"], "'@swaa'"),
        (["{a}@1", "{b}"], "validation/scores.json does not exist: let the run finish"),
        (["{a}@1", "{b}@1", "--images", "x"], "belong together"),
        (["{a}@1", "{b}@1", "--metric", "f1"], "There is no score 'f1'"),
        (["{a}@1", "{b}@1", "--metric", "foreground_label"], "neither better nor worse"),
        (["{file}", "{broken}"], "is not valid JSON"),
        (["{file}", "{empty}"], "holds no scores of volumes"),
        (["{file}", "{nan}"], "the dice of v0 is nan"),
        (["{file}", "{b}@1"], "no scored volume in common"),
        (
            ["{file}", "{file2}", "--metric", "cldice"],
            "the cldice of x is missing (available: dice",
        ),
        (["{file}", "{list}"], "holds no scores of volumes"),
        (["{file}", "nowhere"], "nowhere does not exist: name a run"),
    ],
)
def test_bad_arguments(two_runs, tmp_path, capsys, arguments, message):
    names = {"a": two_runs[0], "b": two_runs[1]}
    for name, content in {
        "file": {"volumes": {"x": {"dice": 0.5}}},
        "file2": {"volumes": {"x": {"dice": 0.6}}},
        "empty": {"pooled": {}},
        "list": {"volumes": [0.5]},
        "nan": {"volumes": {"v0": {"dice": float("nan")}}},
    }.items():
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "broken").write_text("{")
    names |= {n: str(tmp_path / n) for n in ("file", "file2", "empty", "list", "nan", "broken")}
    assert main([argument.format(**names) for argument in arguments]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_runs_that_were_trained_on_all_volumes_are_not_compared(volumes_folder, tmp_path, capsys):
    everything = write_run(
        tmp_path / "all", volumes_folder, change=lambda c: c.data.update(fold="none")
    )
    assert main([str(everything), "other.json"]) == 1
    assert "holds out no volume (data.fold=none)" in capsys.readouterr().err


def test_members_of_an_ensemble_share_one_threshold(volumes_folder, tmp_path):
    runs = [
        str(write_run(tmp_path / name, volumes_folder, change=lambda c, t=t: c.validate.update(t)))
        for name, t in (("a", {"threshold": 0.5}), ("b", {"threshold": 0.3}))
    ]
    write_json(tmp_path / "ensemble.json", {"members": runs, "weights": [0.5, 0.5]})
    with pytest.raises(ValueError, match=r"differ in their threshold \(0\.5, 0\.3\): predict with"):
        scores_of(str(tmp_path / "ensemble.json"), "dice")


def test_scores_of_weights_that_had_seen_the_volumes_are_not_compared(tmp_path, capsys):
    """A fold's run that began with the weights of another fold."""
    write_json(tmp_path / "run/config.json", {"data": {"fold": "1"}, "train": {"start_from": "a"}})
    content = {"judged_on": {"volumes": "training", "chose": []}, "volumes": {"v": {"dice": 1.0}}}
    write_json(tmp_path / "run/validation/scores.json", content)
    assert main([str(tmp_path / "run"), "other.json"]) == 1
    error = capsys.readouterr().err
    assert "run held out volumes that its first weights (train.start_from=a) had seen" in error


def test_a_file_of_scores_says_which_volumes_were_trained_on(tmp_path, capsys):
    rows = {f"v{n}": {"dice": n / 10, "volumes": "held out", "chose": []} for n in range(6)}
    better = {name: row | {"dice": row["dice"] + 0.1} for name, row in rows.items()}
    better["v2"]["volumes"] = "training"
    for name, volumes in (("a", rows), ("b", better)):
        write_json(tmp_path / name, {"volumes": volumes})
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert main([a, b, "--output", str(tmp_path / "found.json")]) == 0
    sentence = f"{b} is better than {a} by .100 (95 %: .100 to .100); {b} was trained on v2"
    assert sentence in capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())["models"]
    assert [found[name]["judged_on"]["volumes"] for name in (a, b)] == ["held out", "training"]


def test_a_runs_own_file_of_scores_is_marked_as_a_whole(tmp_path, capsys):
    volumes = {f"v{n}": {"dice": n / 10} for n in range(3)}
    write_json(tmp_path / "other", {"volumes": volumes})
    on = {"volumes": "training", "chose": ["checkpoint"]}
    write_json(tmp_path / "run", {"judged_on": on, "volumes": volumes})
    run, other = str(tmp_path / "run"), str(tmp_path / "other")
    assert main([run, other]) == 0
    sentence = f"; {run} was trained on these volumes; these volumes chose the checkpoint of {run}"
    assert sentence in capsys.readouterr().out


def test_runs_on_other_data_are_told(tmp_path, capsys):
    for name, root in (("a", "/data/one"), ("b", "/data/two")):
        write_json(tmp_path / name / "config.json", {"data": {"root": root, "fold": "0"}})
        volumes = {str(n): {"dice": 0.5 + n / 100} for n in range(3)}
        write_json(tmp_path / name / "validation" / "scores.json", {"volumes": volumes})
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    printed = capsys.readouterr().out
    assert "differ in data.root, and volumes are matched by their ids" in printed
