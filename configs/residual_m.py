"""residual_m: nnU-Net's residual-encoder network of size M, trained as nnU-Net trains.

    python launch.py --config configs/residual_m.py --config.data.root=FOLDER

Changed from base: six levels of 32, 64, 128, 256, 320 and 320 channels with 1, 3, 4, 6, 6 and 6
residual blocks (102 million parameters), deep supervision, each volume normalised by its own mean
and deviation; Dice and cross entropy, SGD at 1e-2 with polynomial decay over 1000 epochs, nnU-Net's
augmentation.
Why: it is the preset that nnU-Net recommends (Isensee et al. 2024, "nnU-Net revisited"), with
patches of 128³ in batches of 2 for cards of 8 to 12 GB; `model.dtype='bfloat16'` and
`model.rematerialise=True` need less. For other spacings set `model.kernels` and `model.strides`.
"""

from configs import base

FEATURES = (32, 64, 128, 256, 320, 320)


def get_config(arg=""):
    config = base.get_config()
    config.loss.weights.update(dice=1.0, cross_entropy=1.0, focal=0.0)
    config.train.epochs = 1000
    config.optimizer.update(weight_decay=3e-5, clip_norm=12.0)
    config.schedule.update(name="polynomial", learning_rate=1e-2, warmup_epochs=0)
    config.plateau.update(worse_epochs=0, rollback_fraction=0.0, patience=0)
    config.average.swa_every = 0
    config.noise.std = 0.0
    config.preprocess.update(
        name="zscore", per_volume=True, region="box", low_percentile=0.0, high_percentile=100.0
    )
    config.augment.update(rotate90=0.0, rotate=0.2, scale=0.2, noise=0.1, blur=0.2)
    config.augment.update(low_resolution=0.25, gamma=0.3, gamma_inverted=0.1)
    config = base.shrink(config, arg)
    levels = config.model.poolings = 2 if arg else 5
    config.model.update(
        name="residual_unet",
        features=FEATURES[: levels + 1] if not arg else (8, 16, 32),
        downsample="stride",
        affine=True,
        deep_supervision=max(levels - 2, 0),
    )
    return config
