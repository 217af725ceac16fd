"""surface: papyrus sheets in scrolls, by what won the competition on them.

    python launch.py --config configs/surface.py --config.data.root=FOLDER --workdir runs/small
    python launch.py --config configs/surface.py:192 --config.data.root=FOLDER \
        --config.train.start_from=runs/small@ema --workdir runs/large
    python -m jax_seg.tune runs/large

Changed from residual_m: Dice, cross entropy and skeleton recall alike, Muon with one polynomial
decay, an average of the weights, half of the patches at foreground. `:192` and `:256` train a
network further on larger patches, at a third of the rate and for a third of the epochs.
Why: the first place trained nnU-Net on patches of 128³, then 192³ and 256³; the seventh found Dice,
cross entropy and skeleton recall with Muon better than SGD, clDice and heavier augmentation. Their
post-processing (hysteresis, small pieces, one-voxel holes) is searched for by `jax_seg.tune` on
held-out volumes. Train all folds with --config.data.fold=all, and name them all to
`jax_seg.predict`.
Not run at full size, for want of a GPU: `:demo` is what was run.
"""

from configs import residual_m

SIDES = {"": 128, "192": 192, "256": 256}


def get_config(arg=""):
    config = residual_m.get_config("demo" if arg == "demo" else "")
    config.loss.weights.update(dice=1.0, cross_entropy=1.0, skeleton_recall=1.0)
    config.optimizer.update(name="muon", momentum=0.95, weight_decay=1e-2, clip_norm=1.0)
    config.schedule.learning_rate = 3e-3
    config.average.ema_decay = 0.999
    config.data.foreground_share = 0.5
    config.postprocess.steps = ("remove_small:voxels=100", "fill_holes:voxels=50")  # as base
    if arg == "demo":
        config.average.ema_decay = 0.9
        return config
    if arg not in SIDES:
        raise ValueError(f"The argument is ':{arg}'; choose :demo, :192 or :256, or none.")
    config.data.patch = (SIDES[arg],) * 3
    if arg:
        config.train.epochs //= 3
        config.schedule.learning_rate /= 3
    return config
