"""Sliding-window inference: ours beside MONAI's, with the same weights, overlap and blending.

    python -m benchmarks.inference [--size 128] [--patch 64] [--filters 16]

Needs the extra 'bench'. Alternates the two, prints seconds per volume, their ratio, and the largest
difference of the probabilities. MONAI's network lies channels last in memory, on a GPU in a second
row also channels first. What cannot run is left out; without ours the exit status is 1.
"""

import argparse
import copy
import functools
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import torch
from monai.inferers import sliding_window_inference

from benchmarks import torch_device
from benchmarks.timing import alternate, those_that_run
from benchmarks.torch_unet import UNet
from jax_seg.data.preprocess import Preprocessing
from jax_seg.infer.network import make_network
from jax_seg.infer.sliding_window import gaussian_profile, predict_volume
from jax_seg.system import startup
from jax_seg.weights.unet import from_torch


def main(argv=None):
    """Print the table; return the largest difference of the probabilities, nan without a peer.

    Raises:
      SystemExit: ours is missing.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128, help="voxels along each axis")
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--filters", type=int, default=16)
    parser.add_argument("--poolings", type=int, default=4)
    parser.add_argument("--windows", type=int, default=1, help="windows per call of the network")
    parser.add_argument("--overlap", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args(argv)
    startup.convolve_channels_last()

    torch.manual_seed(0)
    peer = UNet(arguments.filters, arguments.poolings)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(peer.state_dict(), Path(folder) / "peer.pth")
        model, params = from_torch(Path(folder) / "peer.pth")
    network = make_network(model, Preprocessing(0, 1, 0, 1))
    network = functools.partial(network, {"params": params})
    patch = (arguments.patch,) * 3
    weight = functools.reduce(np.multiply.outer, [gaussian_profile(p) for p in patch])
    volume = np.random.default_rng(0).random((arguments.size,) * 3, np.float32)

    def ours():
        logits = predict_volume(
            network, volume, patch=patch, overlap=arguments.overlap, batch=arguments.windows
        )
        return np.asarray(jax.nn.sigmoid(logits))

    def build(channels_first=False):
        device, layout = torch_device.device(), torch_device.layout(channels_first)
        on_device = copy.deepcopy(peer).to(device, memory_format=layout).eval()
        # MONAI's own Gaussian, but for its floor of 1e-3 at the corners.
        weights = torch.from_numpy(weight).to(device)

        @torch.no_grad()
        def theirs():
            logits = sliding_window_inference(
                torch.from_numpy(volume).to(device)[None, None],
                patch,
                arguments.windows,
                on_device,
                overlap=arguments.overlap,
                roi_weight_map=weights,
            )
            return torch.sigmoid(logits)[0, 0].cpu().numpy()

        return (theirs,)

    builders = {"jax_seg": lambda: (ours,), "MONAI": build}
    if jax.default_backend() == "gpu":
        builders["MONAI channels first"] = functools.partial(build, channels_first=True)
    found = those_that_run(builders, release=torch.cuda.empty_cache)
    calls = {name: call for name, (call,) in found.items()}
    seconds = alternate(calls, arguments.repeats)
    print(
        f"volume {arguments.size}³, patch {arguments.patch}³, {arguments.filters} filters, overlap "
        f"{arguments.overlap:g}, {jax.default_backend()}, jax {jax.__version__}, torch "
        f"{torch.__version__}"
    )
    print(f"{'':22}{'seconds':>10}{'× MONAI':>10}")
    for name, taken in seconds.items():
        print(f"{name:22}{taken:>10.2f}{seconds.get('MONAI', float('nan')) / taken:>10.2f}")
    if "jax_seg" not in calls:
        sys.exit(1)
    result = calls.pop("jax_seg")()
    difference = max(
        (np.abs(result - call()).max() for call in calls.values()), default=float("nan")
    )
    print(f"largest difference of probabilities: {difference:.1e}")
    return difference


if __name__ == "__main__":
    main()
