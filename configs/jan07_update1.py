"""January 7, first update: a tenth of the rate, and a warm-up of ten epochs.

    python launch.py --config configs/jan07_update1.py --config.data.root=FOLDER

Changed from jan07_original: learning rate 5e-3 to 5e-4, warm-up 0 to 10 epochs, clipping 1 to 2,
patience of the reduction 5 to 8 epochs, its factor .3 to .5.
Why: the loss swung from batch to batch, as if the steps were too long.
Expected: 5 to 10 % better with every epoch of warm-up, below .25 by epoch 20.
Observed: no learning in epochs 0 to 8, validation loss .323 to .336. The original never passed the
warm-up on to its trainer; here it works.
"""

from configs import base


def get_config(arg=""):
    config = base.get_config()
    config.model.poolings = 5
    config.loss.weights.update(dice=0.3, focal=0.4, boundary=0.15, cldice=0.1, connectivity=0.05)
    config.loss.focal_alpha = 0.34
    config.loss.update(background_weight=1.94, foreground_weight=0.52)
    config.optimizer.update(weight_decay=1e-5, clip_norm=2.0)
    config.schedule.update(name="plateau", learning_rate=5e-4, warmup_epochs=10)
    config.reduction.patience = 8
    config.average.swa_every = 0
    config.noise.std = 0.0
    return base.shrink(config, arg)
