"""v8: v7 with the Dice loss alone.

    python launch.py --config configs/v8.py --config.data.root=FOLDER

Changed from v7: no focal and no variance term, no class weights, learning rate 1e-3 to 5e-4.
Why: the notes do not say.
Not run in the notes.
"""

from configs import base


def get_config(arg=""):
    config = base.get_config()
    config.loss.weights.update(dice=1.0, focal=0.0)
    config.loss.focal_alpha = 0.35
    config.data.batch = 8
    config.train.epochs = 100
    config.schedule.update(name="plateau", learning_rate=5e-4, warmup_epochs=2)
    config.reduction.threshold = 1e-3
    config.optimizer.weight_decay = 1e-4
    config.plateau.update(rule="capped", maximum_scale=5.0, patience=25)
    config.average.swa_every = 0
    config.noise.std = 0.0
    return base.shrink(config, arg)
