"""residual_l: nnU-Net's residual-encoder network of size L.

    python launch.py --config configs/residual_l.py --config.data.root=FOLDER

Changed from residual_m: patches of 160³ in place of 128³, twice the voxels and memory, for cards of
24 GB.
Why: sheets that a patch of 128³ shows as fragments are connected in a larger one.
"""

from configs import residual_m


def get_config(arg=""):
    config = residual_m.get_config(arg)
    if not arg:
        config.data.patch = (160, 160, 160)
    return config
