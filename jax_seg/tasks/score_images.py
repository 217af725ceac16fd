"""Score grey maps of camouflaged objects against masks: `jax_seg.evaluate --camouflage`."""

import numpy as np

from jax_seg.data import images
from jax_seg.data.readers import pictures
from jax_seg.metrics import camouflage
from jax_seg.system.commands import report_errors
from jax_seg.system.files import write_json
from jax_seg.system.outputs import marked
from jax_seg.tasks import judged
from jax_seg.tasks.folders import score_folders

CONSTANTS = {"object everywhere": 255, "object nowhere": 0}


def score_map(map_path, mask_path):
    """Score a grey map, 255 where the object is certain, by a mask.

    Returns:
      Its `camouflage.image_scores` as 'maps', and those of CONSTANTS by name.

    Raises:
      FileNotFoundError, ValueError: a file cannot be read, or the sizes differ.
    """
    mask, found = pictures.read_mask(mask_path), pictures.read_map(map_path)
    if found.shape != mask.shape:
        raise ValueError(
            f"{map_path} is {found.shape[1]}×{found.shape[0]} pixels, but its mask is "
            f"{mask.shape[1]}×{mask.shape[0]}: predict at the size of the image."
        )
    maps = {"maps": found} | {k: np.full(mask.shape, v, np.uint8) for k, v in CONSTANTS.items()}
    return {key: camouflage.image_scores(one, mask) for key, one in maps.items()}


def run(predictions, labels, output=None):
    """Print the table of super-classes and constants; return the exit status.

    Args:
      predictions, labels: folders of maps and of masks.
      output: JSON file for the scores, or None.

    Raises:
      FileNotFoundError, ValueError: of `score_folders`.
    """
    camouflage.require_evaluator()
    examples, scores, errors = [], [], {}
    folders = predictions, labels
    for example, result in score_folders(*folders, images.find_images, ("map", "mask"), score_map):
        if isinstance(result, Exception):
            errors[example.id] = str(result)
            continue
        examples.append(example)
        scores.append(result)
    on = {example.id: judged.of_prediction(example.image, example.id) for example in examples}
    content = {"images": {}, "super_classes": {}, "constants": {}, "errors": errors}
    content["judged_on"] = judged.weakest(on.values()).as_json()
    if scores:
        classes = [example.super_class or camouflage.UNNAMED for example in examples]
        groups = camouflage.by_super_class([one["maps"] for one in scores], classes)
        constants = {k: camouflage.summary([one[k] for one in scores]) for k in CONSTANTS}
        print(camouflage.table(groups | constants))
        if caution := judged.caution(on, "images"):
            print(caution)
        content |= {"super_classes": groups, "constants": constants}
        for example, one in zip(examples, scores, strict=True):
            kept = {k: v for k, v in one["maps"].items() if k in camouflage.COLUMNS}
            content["images"][example.id] = kept | on[example.id].as_json()
    if output:
        write_json(output, marked(content, "evaluate"))
    return report_errors(errors.values(), len(errors) + len(scores), "images")
