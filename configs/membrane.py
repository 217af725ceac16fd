"""Cell membranes in anisotropic electron microscopy: 20 slices of 256×256, labels 0, 1 and 2.

    python launch.py --config configs/membrane.py --config.data.root=FOLDER

Changed from the versions of the plan: z-scored intensities, Dice and cross entropy, Muon, one
cosine, an exponential average, the two finest levels within slices.
Why: a slice is ten times as thick as a pixel is wide; sized for eight minutes on two cores.
Observed (BUILD.md): Dice .866 on three held-out volumes, .744 by the PyTorch peer
(`benchmarks/membrane_peer.py`) in the same time.
"""

from configs import base


def get_config(arg=""):
    config = base.get_config()
    config.data.update(patch=(16, 96, 96), batch=2, patches_per_volume=10, folds=4, threads=1)
    config.preprocess.name = "zscore"
    config.augment.update(in_plane_only=True, noise=0.0, brightness=0.0, contrast=0.0)
    config.model.update(filters=16, poolings=3, planar_levels=2)
    config.loss.weights.update(dice=1.0, cross_entropy=1.0, focal=0.0)
    config.optimizer.update(name="muon", momentum=0.95, weight_decay=1e-2, clip_norm=1.0)
    config.schedule.update(name="cosine", learning_rate=3e-3, warmup_epochs=1)
    config.train.epochs = 9
    config.validate.update(metric="dice", volumes_every=0, patches_per_volume=2)
    config.plateau.update(worse_epochs=0, rollback_fraction=0.0, patience=0)
    config.average.update(swa_every=0, ema_decay=0.99)
    config.noise.std = 0.0
    config.postprocess.steps = ()
    return base.shrink(config, arg)
