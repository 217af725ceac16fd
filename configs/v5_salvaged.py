"""v5 salvaged (option B): resume from v5 with a fifth of the variance term.

    python launch.py --config configs/v5_salvaged.py --config.data.root=FOLDER \\
        --config.train.start_from=runs/v5

Changed from v5: variance .5 to .1, Dice .3 to .7, batch 2 to 4.
Why: the variance term was the trap, and v5's weights might still be useful.
Expected: an escape within 20 to 30 epochs.
Not run in the notes.
"""

from configs import base


def get_config(arg=""):
    config = base.get_config()
    config.loss.weights.update(dice=0.7, focal=0.15, variance=0.1, boundary=0.05)
    config.loss.focal_alpha = 0.4
    config.loss.update(background_weight=1.0, foreground_weight=2.0)
    config.data.batch = 4
    config.plateau.rule = "conservative"
    config.average.swa_start = 30
    config.noise.update(start_epoch=10, every=2, std=5e-3)
    return base.shrink(config, arg)
