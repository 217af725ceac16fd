"""Solution 4: the Dice loss alone.

    python launch.py --config configs/dice_only.py --config.data.root=FOLDER

Changed from conservative: no focal and no variance term, no class weights.
Why: a single objective has no conflicts.
Not run in the notes.
"""

from configs import base


def get_config(arg=""):
    config = base.get_config()
    config.loss.weights.update(dice=1.0, focal=0.0)
    config.data.batch = 12
    config.train.epochs = 500
    config.schedule.update(name="plateau", learning_rate=2.45e-4)
    config.plateau.rule = "conservative"
    return base.shrink(config, arg)
