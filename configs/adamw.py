"""Solution 6: AdamW.

    python launch.py --config configs/adamw.py --config.data.root=FOLDER

Changed from conservative: the optimizer.
Why: rates that adapt to each parameter may leave a flat region.
Not run in the notes.
"""

from configs import base


def get_config(arg=""):
    config = base.get_config()
    config.optimizer.name = "adamw"
    config.loss.weights.update(dice=0.75, focal=0.15, variance=0.1)
    config.loss.update(background_weight=2.94, foreground_weight=1.52)
    config.data.batch = 12
    config.train.epochs = 500
    config.schedule.update(name="plateau", learning_rate=2.45e-4)
    config.plateau.rule = "conservative"
    return base.shrink(config, arg)
