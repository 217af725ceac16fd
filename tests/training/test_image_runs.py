"""Images in the one training loop: a detector in stages, killed and resumed, and its guards."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import launch
from jax_seg import compare, evaluate, models, predict, tune
from jax_seg.data.preprocess import Preprocessing
from jax_seg.runs import checkpoints
from jax_seg.runs.events import read_events
from jax_seg.training import plateau, programs, state
from jax_seg.training import run as training
from jax_seg.training import start as starting
from jax_seg.training.optimizers import make_optimizer
from jax_seg.training.step import make_locator
from tests import snapshots
from tests.conftest import GOLDEN
from tests.tiny_images import SIZE, get_config, write_images
from tests.training.test_resume import assert_same_end


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def built():
    """What `programs.build` has returned to the runs here."""
    found, build = [], programs.build

    def noted(**options):
        found.append(build(**options))
        return found[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "build", noted)
        yield found


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """A folder with 'killed': what a kill in the second stage would have left of `trained`."""
    return tmp_path_factory.mktemp("left")


@pytest.fixture(scope="module")
def trained(root, built, left, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained")
    # 3 updates an epoch, 2 epochs a stage; checkpoint 2n + 1 at the end of an epoch.
    snapshots.take({left / "killed": ("os.mkdir", r"/checkpoints/save_25\.")}, workdir)
    start(get_config(root), workdir)
    return workdir


def start(config, workdir):
    """As `launch.py` does, without a doctor."""
    return training.run(config, workdir, defaults=launch.default_of(config))


def test_a_run_killed_in_its_second_stage_ends_as_if_nothing_had_happened(
    root, trained, built, left
):
    workdir = left / "killed"
    assert not (workdir / "scores.json").exists()
    start(get_config(root), workdir)
    assert_same_end(workdir, trained)
    one, other = built
    assert one is other
    for program in ("train_step", "evaluate", "network"):
        assert getattr(one, program)._cache_size() == 1, program  # a resumed run compiles nothing


def test_a_frozen_encoder_keeps_its_bits_and_thaws(trained):
    # 3 updates an epoch, 2 epochs a stage
    params = {s: checkpoints.read_variables(trained, s)[0]["params"] for s in (3, 6, 12)}

    def changed(module, first, last):
        one, other = params[first][module], params[last][module]
        return any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), one, other)))

    assert not changed("encoder", 3, 6)
    assert changed("up_0", 3, 6)
    assert changed("encoder", 6, 12)


def test_what_a_run_of_images_leaves(root, trained):
    scores = json.loads((trained / "scores.json").read_text())
    assert set(scores) == {"raw", "swa", "ema"}
    assert {entry["volumes"] for entry in scores.values()} == {"held out"}
    assert {name: entry["chose"] for name, entry in scores.items()} == {
        "raw": ["checkpoint"],
        "swa": [],
        "ema": [],
    }
    for name in ("s", "e_mean", "e_max", "e_adaptive", "weighted_f", "mae", "iou", "iou_mean"):
        assert 0 <= scores["raw"][name] <= 1, name
    kept = json.loads((trained / "validation" / "scores.json").read_text())
    assert kept["judged_on"] == {"volumes": "held out", "chose": ["checkpoint"]}
    assert set(kept["super_classes"]["raw"]) <= {"Aquatic", "Terrestrial", "all"}
    assert len(kept["volumes"]) == kept["super_classes"]["raw"]["all"]["images"] == 2
    for name in kept["volumes"]:
        with Image.open(trained / "validation" / "probabilities" / f"{name}.png") as stored:
            assert stored.size == SIZE and stored.mode == "L"
    epochs = [e for e in read_events(trained) if e["kind"] == "train"]
    assert [e["stage"] for e in epochs] == ["frozen", "frozen", "thawed", "thawed"]
    for event in epochs:
        for level in range(4):
            use = [event[f"expert_use_{level}_{expert}"] for expert in range(2)]
            assert sum(use) == pytest.approx(1)
            assert 0 <= event[f"gate_entropy_{level}"] <= np.log(2) + 1e-6
    for picture in ("worst", "gates", "learning_curve"):
        assert (trained / "plots" / f"{picture}.png").exists()


def test_the_running_statistics_follow_the_weights(trained):
    """Averages of weights have statistics of their own; SWA's are measured, not averaged."""
    found = {
        weights: checkpoints.read_variables(trained, "latest", weights)[0]["batch_stats"]
        for weights in ("raw", "swa", "ema")
    }
    fresh = jax.tree.map(lambda leaf: leaf * 0, found["raw"])
    for one, other in (("raw", "swa"), ("raw", "ema"), ("swa", "ema")):
        same = jax.tree.map(lambda a, b: np.array_equal(a, b), found[one], found[other])
        assert not all(jax.tree.leaves(same)), (one, other)
    for weights, statistics in found.items():
        moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), statistics, fresh)
        assert any(jax.tree.leaves(moved)), weights


def test_prediction_writes_maps_of_the_images_size(root, trained, tmp_path, capsys):
    command = ["--workdir", str(trained), "--output", str(tmp_path / "maps"), "--input"]
    assert predict.main([*command, str(root / "Test" / "Image")]) == 0
    names = sorted(path.stem for path in (tmp_path / "maps").glob("*.png"))
    assert len(names) == 2
    # The same maps as the run's own evaluation, up to the rounding of a logit.
    kept = sorted((trained / "validation" / "probabilities").glob("*.png"))
    images = [str(root / "Train" / "Image" / f"{path.stem}.jpg") for path in kept]
    assert predict.main([*command, *images]) == 0
    for path in kept:
        with Image.open(path) as ours, Image.open(tmp_path / "maps" / path.name) as theirs:
            assert theirs.size == SIZE
            np.testing.assert_allclose(np.asarray(ours, float), np.asarray(theirs, float), atol=1)
            (tmp_path / "maps" / path.name).unlink()
    flipped = ["--flips", "width", "--overwrite", str(root / "Test" / "Image")]
    assert predict.main([*command[:-1], *flipped[:-1], "--input", flipped[-1]]) == 0
    capsys.readouterr()

    masks = root / "Test" / "GT_Object"
    scores = ["--camouflage", "--predictions", str(tmp_path / "maps"), "--labels", str(masks)]
    assert evaluate.main([*scores, "--output", str(tmp_path / "scores.json")]) == 0
    table = capsys.readouterr().out
    for name in ("Aquatic", "Terrestrial", "all", "object everywhere", "object nowhere"):
        assert name in table
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["constants"]["object everywhere"]["mae"] > 0.5
    assert found["constants"]["object nowhere"]["iou"] == 0
    assert found["judged_on"] == {"volumes": "held out", "chose": []}  # of the test part
    seen = tmp_path / "maps" / f"{names[0]}.json"
    noted = json.loads(seen.read_text()) | {"judged_on": {"volumes": "training", "chose": []}}
    seen.write_text(json.dumps(noted))
    assert evaluate.main([*scores, "--output", str(tmp_path / "scores.json")]) == 0
    assert f"The network was trained on {names[0]}: these scores" in capsys.readouterr().out
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["images"][names[0]]["volumes"] == found["judged_on"]["volumes"] == "training"
    (tmp_path / "maps" / f"{names[0]}.png").unlink()
    assert evaluate.main(scores) == 1
    assert "has no map" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--threshold=0.5", "--probabilities", "--overlap=0.5"])
def test_prediction_refuses_what_is_for_volumes(root, trained, tmp_path, capsys, flag):
    source = str(root / "Test" / "Image")
    command = ["--workdir", str(trained), "--input", source, "--output", str(tmp_path), flag]
    assert predict.main(command) == 1
    assert flag.split("=")[0] in capsys.readouterr().err


def test_commands_for_volumes_say_so(trained, capsys):
    assert tune.main([str(trained)]) == 1
    assert "is a run on images, but this needs volumes" in capsys.readouterr().err
    assert compare.main([str(trained), f"{trained}@ema"]) == 0
    assert "dice of 2 volumes" in capsys.readouterr().out


def plain_unet(root):
    """A U-Net in two dimensions, which compiles in seconds, on the same images."""
    config = get_config(root)
    config.loss.weights.load_balance = 0.0
    config.average.update(swa_every=0, ema_decay=0.0)
    config.train.epochs = 3
    with config.unlocked():
        config.model = {"name": "unet", "filters": 2, "poolings": 1, "in_channels": 3}
        config.model.dimensions = 2
        config.parts = {"all": {"pattern": "", "rate": 1.0}}
        config.stages = {}
    return config


def test_an_explosion_is_caught_before_the_weights_change(root, tmp_path):
    config = plain_unet(root)
    config.schedule.learning_rate = 1e30
    config.checkpoint.minutes = 1e-9
    with pytest.raises(training.Diverged) as caught:
        training.run(config, tmp_path)
    for words in (
        "loss",
        "COD10K-CAM-",
        "the first layer with a non-finite result is",
        "unchanged",
    ):
        assert words in str(caught.value)
    weights, _, step = checkpoints.read_variables(tmp_path, "latest")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(weights))
    assert step == len([e for e in read_events(tmp_path) if e["kind"] == "update"])


def test_the_first_broken_layer_is_found():
    model = models.build("unet", filters=2, poolings=2, dimensions=2)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    params = variables["params"]
    bottleneck = jax.tree.map(lambda leaf: leaf * jnp.nan, params["bottleneck"])
    optimizer = make_optimizer("sgd", momentum=0.0, nesterov=False, weight_decay=0.0, clip_norm=0.0)
    locate = make_locator(
        model, lambda _, batch: batch, Preprocessing(0, 1, 0, 1), jax.random.key(0)
    )
    batch = {name: jnp.ones((2, 8, 8, 1), jnp.uint8) for name in ("image", "label")}
    broken = state.create({"params": params | {"bottleneck": bottleneck}}, optimizer)
    layers = locate(broken, batch)
    assert layers[0].startswith("bottleneck/") and layers[-1] == "the network"
    assert not any(name.startswith("encoder") for name in layers)
    assert locate(broken, batch, accumulate=2) == layers
    assert locate(state.create(variables, optimizer), batch) == []


def test_the_warning_sign_is_an_event_with_advice(root, tmp_path, monkeypatch):
    seen = []

    def sign(losses, ious):
        seen.append((losses, ious))
        return len(losses) == 3

    monkeypatch.setattr(plateau, "warning_sign", sign)
    training.run(plain_unet(root), tmp_path)
    losses = [e["loss"] for e in read_events(tmp_path) if e["kind"] == "train"]
    ious = [e["iou"] for e in read_events(tmp_path) if e["kind"] == "volumes"]
    assert seen[-1] == (tuple(losses), tuple(ious))
    (decision,) = [
        e["decision"]
        for e in read_events(tmp_path)
        if e["kind"] == "decision" and e["decision"]["kind"] == "warning_sign"
    ]
    assert "schedule.learning_rate" in decision["advice"]
    assert "Warning sign" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("loss.weights.load_balance", 0.1, "loss.weights.load_balance is not 0, but .* no gates"),
        ("loss.weights.deep_cross_entropy", 0.1, "'deep_cross_entropy' needs coarser logits"),
        ("train.start_encoder", "x.safetensors", "train.start_encoder is x.safetensors, but"),
        ("colour.hue", 0.7, r"colour.hue is 0.7; set it from 0 to 0.5"),
        ("data.root", "", r"data.root is empty"),
        ("data.validation_share", 1.5, "data.validation_share is 1.5"),
    ],
)
def test_what_is_refused(root, tmp_path, field, value, message):
    config = plain_unet(root)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=message):
        training.run(config, tmp_path)


def test_two_sources_of_the_encoder_are_refused(root, tmp_path):
    config = plain_unet(root)
    config.train.update(start_from="a", start_encoder="b")
    with pytest.raises(ValueError, match="both give the encoder's weights"):
        training.run(config, tmp_path)


def detector_state(dims):
    model = models.build(
        "camouflage",
        depths=(2, 2, 3, 2),
        dims=dims,
        heads=(4, 4, 4, 4),
        experts=("edge",),
        active=1,
    )
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    optimizer = make_optimizer("sgd", momentum=0.0, nesterov=False, weight_decay=0.0, clip_norm=0.0)
    return state.create(variables, optimizer, ("ema",))


def test_an_encoder_starts_from_published_weights():
    path = GOLDEN / "edgenext_small_public.safetensors"
    started = starting.start_encoder(detector_state((16, 32, 48, 96)), path)
    assert any(bool(leaf.any()) for leaf in jax.tree.leaves(started.params["encoder"]))
    assert not any(bool(leaf.any()) for leaf in jax.tree.leaves(started.params["up_0"]))
    jax.tree.map(np.testing.assert_array_equal, started.averages["ema"]["params"], started.params)
    with pytest.raises(ValueError, match="differs in size from the detector's"):
        starting.start_encoder(detector_state((8, 32, 48, 96)), path)
