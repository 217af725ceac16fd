"""nnU-Net itself, for a number of minutes: run by `benchmarks.nnunet` in nnU-Net's environment.

    python benchmarks/nnunet_peer.py FOLDER --minutes 8 [--patch 16 96 96 --features 16]

FOLDER holds `raw/Dataset001_data` in nnU-Net's layout and `split.json`, {'train', 'val'}. nnU-Net
plans, preprocesses, trains and predicts the validation part, with its own planner and trainer; only
the length of the training is ours, over which its polynomial rate runs. Preprocessing and
prediction do not count.
"""

import argparse
import json
import os
import shutil
import time
from pathlib import Path

NAME, CONFIGURATION, PLANS = "Dataset001_data", "3d_fullres", "nnUNetPlans"


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--patch", type=int, nargs=3, help="shrinks the plan to this patch")
    parser.add_argument("--features", type=int, default=16, help="of its finest level")
    parser.add_argument("--seed", type=int, default=0)
    text = "predict once, without the eight mirrored versions"
    parser.add_argument("--unmirrored", action="store_true", help=text)
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(folder / name)
    os.environ |= {"nnUNet_n_proc_DA": "1", "nnUNet_compile": "f"}
    plan(folder, arguments.patch, arguments.features)
    os.environ |= {"nnUNet_n_proc_DA": "0"}  # no processes that augment: there are no spare cores
    train(folder, 60 * arguments.minutes, arguments.seed, not arguments.unmirrored)


def plan(folder, patch, features):
    """Fingerprint, plan (shrunk where a patch is given) and preprocess the data."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
        preprocess,
    )

    extract_fingerprints([1], num_processes=1, check_dataset_integrity=False)
    plan_experiments([1])
    file = folder / "preprocessed" / NAME / f"{PLANS}.json"
    if patch:
        plans = json.loads(file.read_text())
        shrink(plans["configurations"][CONFIGURATION], patch, features)
        file.write_text(json.dumps(plans))
    preprocess([1], configurations=(CONFIGURATION,), num_processes=(1,))
    split = json.loads((folder / "split.json").read_text())
    (file.parent / "splits_final.json").write_text(json.dumps([split]))


def shrink(chosen, patch, features):
    """Change a configuration of the plan to another patch and width, by nnU-Net's own topology."""
    from nnunetv2.experiment_planning.experiment_planners.network_topology import (
        get_pool_and_conv_props,
    )

    _, strides, kernels, patch, _ = get_pool_and_conv_props(chosen["spacing"], patch, 4, 999)
    network = chosen["architecture"]["arch_kwargs"]
    stages = len(strides)
    network |= {
        "n_stages": stages,
        "features_per_stage": [min(features * 2**n, 320) for n in range(stages)],
        "strides": strides,
        "kernel_sizes": kernels,
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
    }
    chosen |= {"patch_size": [int(n) for n in patch], "batch_size": 2}


def train(folder, seconds, seed, mirrored):
    """Train for so long and predict the validation part; writes `peer.json`."""
    import numpy as np
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    class ForSomeTime(nnUNetTrainer):
        """Ends when the time is over; the rate falls over the time as over its 1000 epochs."""

        def run_training(self):
            self.on_train_start()
            self.network.train()
            began, updates = time.monotonic(), 0
            while (passed := time.monotonic() - began) < seconds:
                rate = self.initial_lr * (1 - passed / seconds) ** 0.9
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                self.train_step(next(self.dataloader_train))
                updates += 1
            self.current_epoch = 1
            self.on_train_end()
            return updates

    np.random.seed(seed)  # noqa: NPY002 (nnU-Net draws from it)
    torch.manual_seed(seed)
    preprocessed = folder / "preprocessed" / NAME
    shutil.rmtree(folder / "results", ignore_errors=True)
    trainer = ForSomeTime(
        json.loads((preprocessed / f"{PLANS}.json").read_text()) | {"continue_training": False},
        CONFIGURATION,
        0,
        json.loads((folder / "raw" / NAME / "dataset.json").read_text()),
        device=torch.device("cpu"),
    )
    updates = trainer.run_training()
    if not mirrored:
        trainer.inference_allowed_mirroring_axes = None
    trainer.perform_actual_validation()
    masks = Path(trainer.output_folder) / "validation"
    (folder / "peer.json").write_text(json.dumps({"updates": updates, "masks": str(masks)}))


if __name__ == "__main__":
    main()
