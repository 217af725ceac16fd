"""January 7, second update: two loss terms instead of five, rate 1e-4.

    python launch.py --config configs/jan07_update2.py --config.data.root=FOLDER

Changed from jan07_update1: only Dice and focal, learning rate 5e-4 to 1e-4, the gradient's norm
logged every 50 updates.
Why: five terms may conflict, and nothing showed whether gradients flow.
Expected: a training loss below .25 by epoch 10, gradient norms of .1 to 10.
Not run in the notes.
"""

from configs import base


def get_config(arg=""):
    config = base.get_config()
    config.model.poolings = 5
    config.loss.weights.update(dice=0.5, focal=0.5)
    config.loss.focal_alpha = 0.34
    config.loss.update(background_weight=1.94, foreground_weight=0.52)
    config.optimizer.update(weight_decay=1e-5, clip_norm=2.0)
    config.schedule.update(name="plateau", learning_rate=1e-4, warmup_epochs=10)
    config.reduction.patience = 8
    config.average.swa_every = 0
    config.noise.std = 0.0
    config.train.log_every = 50
    return base.shrink(config, arg)
