"""v9: a curriculum in three phases, 50 epochs.

    python launch.py --config configs/v9.py --config.data.root=FOLDER

Changed from v8: 50 epochs; focal from epoch 31 on, more of it with variance and boundary from 40
on; averaging from 30. The best checkpoint is chosen by whole volumes, since losses with different
weights are not comparable.
Why: the notes do not say.
Observed: .4024, the lowest loss in the notes, with most of the weight on Dice: a value of a
different loss.
"""

from configs import base


def get_config(arg=""):
    config = base.get_config()
    config.loss.weights.update(dice=0.85, focal=0.1, variance=0.03, boundary=0.02)
    config.loss.focal_alpha = 0.4
    config.data.batch = 8
    config.train.epochs = 50
    config.schedule.update(name="plateau", learning_rate=5e-4, warmup_epochs=2)
    config.reduction.threshold = 1e-3
    config.reduction.patience = 8
    config.optimizer.weight_decay = 1e-4
    config.plateau.update(rule="capped", maximum_scale=5.0, patience=25)
    config.average.swa_start = 30
    config.noise.start_epoch = 50
    config.validate.metric = "dice"
    none = {"variance": 0.0, "boundary": 0.0}
    base.add_stage(config, "first", epochs=(0, 30), loss_weights={"dice": 1.0, "focal": 0.0} | none)
    base.add_stage(
        config, "second", epochs=(31, 39), loss_weights={"dice": 0.95, "focal": 0.05} | none
    )
    base.add_stage(config, "third", epochs=(40, 49))
    return base.shrink(config, arg)
