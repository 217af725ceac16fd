"""v5: half of the loss is the variance term.

    python launch.py --config configs/v5.py --config.data.root=FOLDER

Changed from v4: variance .25 to .5, Dice .45 to .3, boundary .15 to .05, no clDice, alpha .3 to .4,
class weights 1:5 to 1:2, learning rate 2e-4 to 1e-4, noise from epoch 10, every 2, 2.5 times as
strong.
Why: "variance stuck at .95 means uniform predictions". No prediction brings the term below .83
(`losses.VARIANCE_FLOOR`).
Expected: variance below .2.
Observed: best .5721 near epoch 5, then .57 to .62; intervention 19 scaled the rate 92.5-fold.
Replayed (docs/versions): Dice .166 on generated scrolls, .615 on membranes.
"""

from configs import base


def get_config(arg=""):
    config = base.get_config()
    config.loss.weights.update(dice=0.3, focal=0.15, variance=0.5, boundary=0.05)
    config.loss.focal_alpha = 0.4
    config.loss.update(background_weight=1.0, foreground_weight=2.0)
    config.plateau.rule = "conservative"  # the multipliers that the log of the run shows
    config.average.swa_start = 30
    config.noise.update(start_epoch=10, every=2, std=5e-3)
    return base.shrink(config, arg)
