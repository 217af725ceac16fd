"""auto: settings from the data, this device and the time.

    python launch.py --config configs/auto.py --config.data.root=FOLDER --config.train.minutes=60

Changed from base: what `jax_seg.planning` decides, each with its reason in the log and in
WORKDIR/plan.json. Fields set on the command line are kept. `python -m jax_seg.plan FOLDER
--output configs/mine.py` writes the same as a file.
Why: a newcomer with a folder of volumes should not have to know what suits them.
"""

import ml_collections

from configs import base


def get_config(arg=""):
    if arg:
        raise ValueError(
            f"configs/auto.py takes no ':{arg}': what it plans fits the machine; set "
            "train.minutes for a short run."
        )
    config = base.get_config()
    config.train.minutes = 60.0
    with config.unlocked():
        config.plan = ml_collections.ConfigDict()
        config.plan.device = ""  # 'cpu', a card such as 'h100', or '24 GB'; '' for this device
    return config
