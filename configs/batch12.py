"""Batch 12: one and a half times the batch, with a rate of 2e-4·√1.5.

    python launch.py --config configs/batch12.py --config.data.root=FOLDER

Changed from batch8: batch 8 to 12, learning rate 2e-4 to 2.45e-4.
Why: use more of the memory, and steadier gradients.
Not run in the notes.
"""

from configs import base


def get_config(arg=""):
    config = base.get_config()
    config.loss.weights.update(dice=0.5, focal=0.3, variance=0.1, boundary=0.05)
    config.loss.update(background_weight=2.94, foreground_weight=1.52)
    config.data.batch = 12
    config.schedule.learning_rate = 2.45e-4
    return base.shrink(config, arg)
