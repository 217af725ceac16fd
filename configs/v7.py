"""v7: v6 with a small variance term again, batch 8.

    python launch.py --config configs/v7.py --config.data.root=FOLDER

Changed from v6: Dice .8 to .75, variance 0 to .1, boundary .05 to 0, batch 4 to 8, patience 20 to
25.
Why: the notes do not say.
Not run in the notes.
"""

from configs import base


def get_config(arg=""):
    config = base.get_config()
    config.loss.weights.update(dice=0.75, focal=0.15, variance=0.1)
    config.loss.focal_alpha = 0.35
    config.loss.update(background_weight=1.0, foreground_weight=1.5)
    config.data.batch = 8
    config.train.epochs = 100
    config.schedule.update(name="plateau", learning_rate=1e-3, warmup_epochs=2)
    config.reduction.threshold = 1e-3
    config.optimizer.weight_decay = 1e-4
    config.plateau.update(rule="capped", maximum_scale=5.0, patience=25)
    config.average.swa_every = 0
    config.noise.std = 0.0
    return base.shrink(config, arg)
