"""Two small runs without training, and what predict writes with them."""

import functools
import json

import tifffile

from jax_seg import models, predict
from jax_seg.data.preprocess import Preprocessing
from jax_seg.infer.network import make_network
from jax_seg.infer.sliding_window import predict_volume
from jax_seg.runs import checkpoints
from tests.conftest import tiny_config
from tests.workdirs import write_run


def write_runs(folder, root):
    """Two runs on the volumes of `root`, the first with two checkpoints, as texts."""
    a = write_run(folder / "a", root, steps=(1, 2))
    return str(a), str(write_run(folder / "b", root))


@functools.cache
def tiny_network():
    """The network of every run here, compiled once."""
    model = models.build(**tiny_config("").model.to_dict() | {"in_channels": 1})
    return make_network(model, Preprocessing(0.0, 255.0, 0.0, 1 / 255))


def logits_of(image, workdir, name="best", weights="raw"):
    """A network's logits, without any of the code for ensembles."""
    variables, _, _ = checkpoints.read_variables(workdir, name, weights)
    network = functools.partial(tiny_network(), variables)
    return predict_volume(network, tifffile.imread(image), patch=(16, 16, 16))


def run(image, output, *flags):
    """(exit status, mask, float16 probabilities, sidecar)."""
    status = run_status(image, output, *flags)
    name = image.stem
    if not (output / f"{name}.tif").exists():
        return status, None, None, None
    return (
        status,
        tifffile.imread(output / f"{name}.tif"),
        tifffile.imread(output / "probabilities" / f"{name}.tif"),
        json.loads((output / f"{name}.json").read_text()),
    )


def run_status(image, output, *flags):
    """The exit status of the same command."""
    command = ["--input", str(image), "--output", str(output), "--probabilities", *map(str, flags)]
    return predict.main(command)
