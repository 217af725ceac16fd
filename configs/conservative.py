"""Conservative: the recovery from escape, with a rate that falls on plateaus.

    python launch.py --config configs/conservative.py --config.data.root=FOLDER

Changed from escape: multiplier 1 + 0.15(p - 1), cosine restarts to reduction on plateau, Dice .7 to
.75, focal .2 to .15, variance .05 to .1, no boundary term, batch 8 to 12, learning rate 2e-4 to
2.45e-4, 500 epochs.
Why: large rates had destabilised the run; more time instead of shocks.
Expected: stability, and .55 to .60 by epoch 250 at best.
Observed: a plateau at .61 to .65 within 5 to 20 epochs, like every configuration of that week;
variance .95 to .99.
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
    return base.shrink(config, arg)
