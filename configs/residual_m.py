"""residual_m: nnU-Net's residual-encoder network of size M.

    python launch.py --config configs/residual_m.py --config.data.root=FOLDER

Changed from nnunet: six levels of 32, 64, 128, 256, 320 and 320 channels with 1, 3, 4, 6, 6 and 6
residual blocks (102 million parameters), deep supervision; each volume is normalised by its own
mean and deviation.
Why: it is the preset that nnU-Net recommends (Isensee et al. 2024, "nnU-Net revisited"), with
patches of 128³ in batches of 2 for cards of about 10 GB; `model.dtype='bfloat16'` and
`model.rematerialise=True` need less. For other spacings set `model.kernels` and `model.strides`.
"""

from configs import nnunet

FEATURES = (32, 64, 128, 256, 320, 320)


def get_config(arg=""):
    config = nnunet.get_config(arg)
    config.preprocess.update(
        name="zscore", per_volume=True, region="box", low_percentile=0.0, high_percentile=100.0
    )
    features = (8, 16, 32) if arg else FEATURES
    config.model.update(name="residual_unet", downsample="stride", affine=True)
    config.model.update(filters=features[0], features=features, poolings=len(features) - 1)
    config.model.deep_supervision = max(len(features) - 3, 0)  # nnU-Net gives the last no weight
    return config
