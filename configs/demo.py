"""A small network that learns generated scrolls on a laptop in two minutes.

    make demo
    python launch.py --config configs/demo.py --config.data.root=FOLDER

Changed from the versions of the plan: 8 filters, Dice and cross entropy, AdamW, one cosine, no
interventions, no averaging, no weight noise.
Why: a plain baseline for the versions.
Observed (docs/versions, two minutes on one core): Dice .835 on generated scrolls, .733 on
membranes.
"""

from configs import base


def get_config(arg=""):
    config = base.get_config()
    config.data.update(patch=(48, 48, 48), batch=2, patches_per_volume=10, folds=4, threads=2)
    config.model.update(filters=8, poolings=2)
    config.loss.weights.update(dice=0.5, cross_entropy=0.5, focal=0.0)
    config.optimizer.update(name="adamw", weight_decay=1e-2, clip_norm=1.0)
    config.schedule.update(name="cosine", learning_rate=3e-3, warmup_epochs=1)
    config.train.epochs = 12
    config.validate.update(metric="dice", volumes_every=3)
    config.plateau.update(worse_epochs=0, rollback_fraction=0.0, patience=0)
    config.average.swa_every = 0
    config.noise.std = 0.0
    config.postprocess.steps = ()
    return base.shrink(config, arg)
