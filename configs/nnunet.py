"""nnunet: trained as nnU-Net trains, with any network.

    python launch.py --config configs/nnunet.py --config.data.root=FOLDER
    python launch.py --config configs/nnunet.py --config.train.start_from=WORKDIR \
        --config.schedule.learning_rate=1e-3 --config.train.epochs=100 --config.data.root=FOLDER

Changed from base: Dice and cross entropy, SGD at 1e-2 with polynomial decay over 1000 epochs of 250
updates, no intervention, nnU-Net's augmentation, no post-processing.
Why: it is the field's reference (Isensee et al. 2021). Its decay of 3e-5 passes through a momentum
of 0.99, and is 3e-3 where it does not, as here. The second command trains a network further
that `jax_seg.convert` imported: fields of the network, its window and, where there is one like it,
its normalisation follow from WORKDIR (docs/nnunet.md).
"""

from configs import base


def get_config(arg=""):
    config = base.get_config()
    config.loss.weights.update(dice=1.0, cross_entropy=1.0, focal=0.0)
    config.train.update(epochs=1000, epoch_length="250")
    config.optimizer.update(weight_decay=3e-3, clip_norm=12.0)
    config.schedule.update(name="polynomial", learning_rate=1e-2, warmup_epochs=0)
    config.plateau.update(worse_epochs=0, rollback_fraction=0.0, patience=0)
    config.average.swa_every = 0
    config.noise.std = 0.0
    config.augment.update(rotate90=0.0, rotate=0.2, scale=0.2, noise=0.1, blur=0.2)
    config.augment.update(low_resolution=0.25, gamma=0.3, gamma_inverted=0.1)
    config.postprocess.steps = ()
    return base.shrink(config, arg)
