"""Every field of a run on images once: those of `base` except for volumes, and those of images.

The folder is in the layout of COD10K-v3: Train and Test, each with Image and GT_Object.
"""

import ml_collections

from configs import base

TERMS = {
    "cross_entropy": 5.0,
    "soft_iou": 3.0,
    "edge": 2.0,  # squared difference of the Sobel magnitudes
    "structure": 0.0,  # F³Net's weighted cross entropy and IoU
    "dice": 0.0,
    "deep_cross_entropy": 0.4,  # mean over the coarser logits
    "load_balance": 0.1,  # on the gates: even use of the experts
    "gate_importance": 0.0,  # on the gates: even weights of the experts
    "gate_z": 0.0,  # on the gates: small logits
}


def get_config():
    """The shared values, as a locked ConfigDict."""
    config = base.get_config()
    with config.unlocked():
        for section in ("synthetic", "preprocess", "postprocess"):
            del config[section]
        for name in ("overlap", "windows", "patches_per_volume", "background_target"):
            del config.validate[name]
        del config.augment.in_plane_only

        config.data = data = ml_collections.ConfigDict()
        data.name = "images"
        data.root = ""  # folder with Train and Test
        data.kind = "CAM"  # images with a camouflaged object; or 'NonCAM', 'all'
        data.super_classes = ()  # such as 'Aquatic'; () for all
        data.validation_share = 0.1  # share of the training part
        data.grouped = False  # keep a class on one side of the split: for tiles of one picture
        data.split_seed = 0
        data.side = 384  # pixels of the square that images are resized to
        data.batch = 8  # images per step of the network
        data.random_batch = ()  # batch sizes from which each epoch draws, instead of data.batch
        data.passes = 1  # passes over the training images per epoch; use more for a few images
        data.threads = 4  # threads that read ahead
        data.memory_gb = 4.0  # GiB for resized images, so that each is decoded once; 0 for none

        config.colour = colour = ml_collections.ConfigDict()  # jitter of the training images
        colour.probability = 0.5
        colour.brightness = 0.2  # a factor from 0.8 to 1.2
        colour.contrast = 0.2
        colour.saturation = 0.2
        colour.hue = 0.1  # share of a full turn, either way

        config.model = _model()
        config.loss = loss = ml_collections.ConfigDict()
        loss.weights = ml_collections.ConfigDict(TERMS)  # 0 omits the term
        loss.dice_smooth = 1e-5  # added to both sides of the quotient, pixels
        loss.level_weights = (1.0, 0.0, 0.0, 0.0)  # finest first; the coarser have their own term

        config.train.start_encoder = ""  # timm's EdgeNeXt (.safetensors or .pth) for the encoder

        del config.augment.flip
        config.augment.flip = (0.2, 0.5)  # upside down, and left to right
        config.augment.update(rotate90=0.2, noise=0.0, brightness=0.0, contrast=0.0)
        config.optimizer.update(name="adamw", weight_decay=1e-4, clip_norm=1.0)
        config.schedule.update(name="cosine", learning_rate=4e-4, warmup_epochs=0, eta_min=1e-5)
        config.train.epochs = 120
        config.validate.update(metric="iou", volumes_every=1)
        config.plateau.update(worse_epochs=0, rollback_fraction=0.0, patience=0)
        config.average.swa_every = 0
        config.noise.std = 0.0
    return config.lock()


def _model():
    """The detector, see `jax_seg.models.camouflage`."""
    model = ml_collections.ConfigDict()
    model.name = "camouflage"
    model.depths = (3, 3, 9, 3)  # blocks of the encoder's four levels: EdgeNeXt-base
    model.dims = (80, 160, 288, 584)  # its channels
    model.heads = (8, 8, 8, 8)  # heads of its attention
    model.kernel_sizes = (3, 5, 7, 9)
    model.scales = (2, 2, 3, 4)
    model.layer_scale = 1e-6  # initial factors of its blocks; 1 without pretrained weights
    model.experts = (  # at every level
        "texture",
        "attention",
        "hybrid",
        "frequency",
        "edge",
        "context",
        "contrast",
    )
    model.active = 3  # experts that an image uses at a level
    model.norm = "batch"  # norm of the decoder; 'group' or 'layer' suit batches of 1 and 2
    model.batch_momentum = 0.9  # share of batch norm's running statistics that an update keeps
    model.last_features = 64  # channels of the decoder's finest level
    model.deep_supervision = True  # logits of the decoder's coarser levels
    model.foreground_prior = 0.5  # share of foreground that the first logits express
    model.dropout = 0.1  # in the attention expert
    model.dtype = "float32"  # compute type; 'bfloat16' is faster on recent GPUs
    return model


def freeze_in_stages(config):
    """Name the encoder's levels as parts, so that stages can freeze them one by one."""
    with config.unlocked():
        config.parts = ml_collections.ConfigDict(
            {
                "encoder_3": {"pattern": "^encoder/stages_3", "rate": 1.0},
                "encoder_2": {"pattern": "^encoder/stages_2", "rate": 1.0},
                "encoder_0_1": {"pattern": "^encoder/(stem|stages_[01])", "rate": 1.0},
                "rest": {"pattern": "^(?!encoder/)", "rate": 1.0},
            }
        )
