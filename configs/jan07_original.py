"""January 7, before: five loss terms, learning rate 5e-3 from the first step.

    python launch.py --config configs/jan07_original.py --config.data.root=FOLDER

Changed: nothing; this is the first run, with five poolings (90.5 million parameters).
Why: the notes do not say. They blame the rate, the missing warm-up, clipping at 1 and a rate that
is reduced too early.
Observed: validation loss .3330, .3288, .3276, .3246, .3316, .3209 in epochs 0 to 5; losses of
single batches from .27 to .47.
"""

from configs import base


def get_config(arg=""):
    config = base.get_config()
    config.model.poolings = 5
    config.loss.weights.update(dice=0.3, focal=0.4, boundary=0.15, cldice=0.1, connectivity=0.05)
    config.loss.focal_alpha = 0.34
    config.loss.update(background_weight=1.94, foreground_weight=0.52)
    config.optimizer.update(weight_decay=1e-5, clip_norm=1.0)
    config.schedule.update(name="plateau", learning_rate=5e-3, warmup_epochs=0)
    config.reduction.factor = 0.3
    config.average.swa_every = 0
    config.noise.std = 0.0
    return base.shrink(config, arg)
