"""The command that makes a run of PyTorch's weights."""

import numpy as np
import pytest

from jax_seg import convert
from jax_seg.runs import checkpoints, together
from jax_seg.weights.unet import from_torch
from tests.conftest import GOLDEN
from tests.torch_files import state_dict, torch_save, torch_shapes

SOURCE = GOLDEN / "unet_f4_d2.pth"


def test_a_run_with_its_range_of_intensities(tmp_path, capsys):
    workdir = tmp_path / "run"
    assert convert.main([str(SOURCE), str(workdir), "--range", "10", "210"]) == 0
    told = capsys.readouterr().out
    assert "U-Net with 4 filters and 2 poolings" in told and "intensities 10 to 210" in told
    params, stored_beside, _ = checkpoints.read_variables(workdir)
    np.testing.assert_array_equal(
        params["params"]["output"]["bias"], from_torch(SOURCE)[1]["output"]["bias"]
    )
    assert stored_beside["preprocessing"]["scale"] == 1 / 200


def test_a_network_of_two_channels(tmp_path, capsys):
    """The range is that of both channels; with --images each would have its own."""
    shapes = torch_shapes(channels=2).items()
    arrays = state_dict({name: np.ones(shape, np.float32) for name, shape in shapes})
    source, workdir = torch_save(tmp_path / "two.pth", arrays), tmp_path / "run"
    assert convert.main([str(source), str(workdir), "--patch", "4", "4", "4"]) == 0
    assert "intensities 0 to 255 map" in capsys.readouterr().out
    segment, (network,), _ = together.load([str(workdir)])
    assert network.fields["model.in_channels"] == 2
    image = np.random.default_rng(0).integers(1, 99, (4, 6, 5, 2)).astype(np.uint8)
    logits = np.asarray(segment(image))
    assert logits.shape == (4, 6, 5)
    np.testing.assert_allclose(np.asarray(segment(image[..., ::-1])), logits, atol=1e-5)


def test_a_network_that_prediction_cannot_run_is_refused(tmp_path, capsys):
    source = torch_save(
        tmp_path / "flat.pth",
        state_dict(
            {name: np.ones(shape, np.float32) for name, shape in torch_shapes(dimensions=2).items()}
        ),
    )
    assert convert.main([str(source), str(tmp_path / "run")]) == 1
    assert "of 2 dimensions and 1 logits" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.pth"], r"absent.pth"),
        ([str(SOURCE), "--range", "5", "5"], "5 to 5; give the lower number first"),
        ([str(SOURCE), "--images", "/nowhere"], "/nowhere"),
    ],
)
def test_errors_are_one_sentence_and_leave_nothing(tmp_path, capsys, arguments, message):
    source, *flags = arguments
    assert convert.main([source, str(tmp_path / "run"), *flags]) == 1
    told = capsys.readouterr().err
    assert message in told and told.startswith("Error: ") and told.count("\n") == 1
    assert not any(tmp_path.iterdir())
