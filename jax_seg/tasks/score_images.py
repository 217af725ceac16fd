"""Score grey maps of camouflaged objects against masks: `jax_seg.evaluate --camouflage`."""

import sys
from pathlib import Path

import numpy as np

from jax_seg.data import images
from jax_seg.data.names import require_two_folders
from jax_seg.data.readers import pictures
from jax_seg.metrics import camouflage
from jax_seg.system.files import write_json
from jax_seg.system.outputs import marked
from jax_seg.tasks import judged

CONSTANTS = {"object everywhere": 255, "object nowhere": 0}


def evaluate_maps(predictions, labels):
    """Score the maps of a folder by the masks of the same names in another.

    Args:
      predictions: folder of grey maps, 255 where the object is certain.
      labels: folder of masks; a mask without a map is an error.

    Yields:
      (Example of the mask, its `camouflage.image_scores` and those of CONSTANTS by name, or the
      error), for every name of either folder in order.

    Raises:
      FileNotFoundError, ValueError: a folder is missing, is empty, equals the other, or has a name
        twice.
    """
    require_two_folders(predictions, labels, ("maps", "masks"))
    predicted = {example.id: example for example in images.find_images(predictions)}
    labelled = {example.id: example for example in images.find_images(labels)}
    for name in sorted(predicted.keys() | labelled.keys()):
        try:
            if name not in predicted:
                raise FileNotFoundError(
                    f"{labelled[name].image} has no map in {predictions}: predict it too."
                )
            if name not in labelled:
                raise FileNotFoundError(
                    f"{predicted[name].image} has no mask in {labels}: add it or move the map away."
                )
            mask = pictures.read_mask(labelled[name].image)
            found = pictures.read_map(predicted[name].image)
            if found.shape != mask.shape:
                raise ValueError(
                    f"{predicted[name].image} is {found.shape[1]}×{found.shape[0]} pixels, but its "
                    f"mask is {mask.shape[1]}×{mask.shape[0]}: predict at the size of the image."
                )
            maps = {"maps": found}
            maps |= {k: np.full(mask.shape, v, np.uint8) for k, v in CONSTANTS.items()}
            yield (
                labelled[name],
                {key: camouflage.image_scores(one, mask) for key, one in maps.items()},
            )
        except (ValueError, OSError) as error:
            yield (labelled.get(name) or predicted[name]), error


def run(predictions, labels, output=None):
    """Print the table of super-classes and constants; return the exit status.

    Args:
      predictions, labels: of `evaluate_maps`.
      output: JSON file for the scores, or None.

    Raises:
      FileNotFoundError, ValueError: of `evaluate_maps`.
    """
    camouflage.require_evaluator()
    examples, scores, errors = [], [], {}
    for example, result in evaluate_maps(predictions, labels):
        if isinstance(result, Exception):
            errors[example.id] = str(result)
            continue
        examples.append(example)
        scores.append(result)
    on = {e.id: judged.of_prediction(Path(predictions) / e.image.name, e.id) for e in examples}
    content = {"images": {}, "super_classes": {}, "constants": {}, "errors": errors}
    content["judged_on"] = judged.weakest(on.values()).as_json()
    if scores:
        classes = [example.super_class or camouflage.UNNAMED for example in examples]
        groups = camouflage.by_super_class([one["maps"] for one in scores], classes)
        constants = {k: camouflage.summary([one[k] for one in scores]) for k in CONSTANTS}
        print(camouflage.table(groups | constants))
        if trained_on := [name for name, one in on.items() if one.volumes == judged.TRAINING]:
            print(
                f"The network was trained on {', '.join(trained_on)}: these scores show how "
                "well it fits them, not how it performs on other images."
            )
        content |= {"super_classes": groups, "constants": constants}
        for example, one in zip(examples, scores, strict=True):
            kept = {k: v for k, v in one["maps"].items() if k in camouflage.COLUMNS}
            content["images"][example.id] = kept | on[example.id].as_json()
    if output:
        write_json(output, marked(content, "evaluate"))
    for sentence in errors.values():
        print(f"Error: {sentence}", file=sys.stderr)
    if errors:
        total = len(errors) + len(scores)
        print(f"{len(errors)} of {total} images were not scored.", file=sys.stderr)
    return 1 if errors else 0
