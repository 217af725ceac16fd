"""A tiny run on images, as a configuration file."""

import numpy as np
from PIL import Image

from configs import base, images

SIZE = (48, 40)  # width and height of the images


def get_config(root):
    """A detector of 2 experts in two stages: the encoder is frozen in the first."""
    config = images.get_config()
    images.freeze_in_stages(config)
    config.data.update(root=str(root), side=32, batch=2, threads=1, validation_share=0.3)
    config.model.update(
        depths=(1, 1, 1, 1),
        dims=(8, 8, 8, 8),
        heads=(2, 2, 2, 2),
        kernel_sizes=(3, 3, 3, 3),
        experts=("hybrid", "edge"),
        active=1,
        last_features=2,
        deep_supervision=False,
    )
    config.loss.update(level_weights=())
    config.loss.weights.deep_cross_entropy = 0.0
    config.average.update(swa_start=1, swa_every=1, ema_decay=0.9, swa_learning_rate=1e-3)
    config.schedule.learning_rate = 1e-3
    config.validate.metric = "loss"
    config.train.update(epochs=4, log_every=1)
    config.checkpoint.update(minutes=0.0, keep=20)
    frozen = dict.fromkeys(("encoder_0_1", "encoder_2", "encoder_3"), 0.0)
    base.add_stage(config, "frozen", epochs=(0, 1), rates=frozen)
    base.add_stage(config, "thawed", epochs=(2, 3))
    return config


def write_images(root, train=7, test=2):
    """Discs a little brighter than a noisy ground, in the layout and naming of COD10K."""
    generator = np.random.default_rng(0)
    width, height = SIZE
    y, x = np.mgrid[:height, :width]
    for part, count in (("Train", train), ("Test", test)):
        for folder in ("Image", "GT_Object"):
            (root / part / folder).mkdir(parents=True)
        for number in range(count):
            centre = generator.uniform((12, 12), (height - 12, width - 12))
            mask = np.hypot(y - centre[0], x - centre[1]) < generator.uniform(6, 11)
            image = generator.normal(110, 15, (height, width, 3)) + 40 * mask[..., None]
            kind = ("1-Aquatic-1-Ray", "2-Terrestrial-5-Cat")[number % 2]
            name = f"COD10K-CAM-{kind}-{part}{number}"
            image = Image.fromarray(image.clip(0, 255).astype(np.uint8))
            image.save(root / part / "Image" / f"{name}.jpg")
            mask = Image.fromarray(mask.astype(np.uint8) * 255)
            mask.save(root / part / "GT_Object" / f"{name}.png")
    return root
