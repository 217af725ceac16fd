"""Solution 7: Dice alone for 51 epochs, then focal and variance with it.

    python launch.py --config configs/curriculum.py --config.data.root=FOLDER

Changed from conservative: the loss in two phases. The best checkpoint is chosen by whole volumes,
since losses with different weights are not comparable.
Why: find the sheets first, then sharpen them.
Not run in the notes.
"""

from configs import base


def get_config(arg=""):
    config = base.get_config()
    config.loss.weights.update(dice=0.75, focal=0.15, variance=0.1)
    config.loss.update(background_weight=2.94, foreground_weight=1.52)
    config.data.batch = 12
    config.train.epochs = 500
    config.schedule.update(name="plateau", learning_rate=2.45e-4)
    config.plateau.rule = "conservative"
    config.validate.metric = "dice"
    only_dice = {"dice": 1.0, "focal": 0.0, "variance": 0.0}
    base.add_stage(config, "dice_only", epochs=(0, 50), loss_weights=only_dice)
    base.add_stage(config, "all_terms", epochs=(51, 499))
    return base.shrink(config, arg)
