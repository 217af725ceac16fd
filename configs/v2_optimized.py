"""v2 optimized: back from v3, with 300 epochs and weights 1:2.

The notes give foreground 3.0 in a table and 2.0 where they tell of the run, averaging from 40
and from 50: the run's values stand here. Expected: validation loss .35. Observed: best .5602 at
epoch 9; dice .48 to .50.
"""

from configs import base


def get_config(arg=""):
    config = base.get_config()
    config.loss.weights.update(dice=0.4, focal=0.25, variance=0.2, boundary=0.1, cldice=0.05)
    config.loss.focal_alpha = 0.4
    config.loss.update(background_weight=1.0, foreground_weight=2.0)
    config.average.swa_start = 50
    config.validate.threshold = 0.6
    return base.shrink(config, arg)
