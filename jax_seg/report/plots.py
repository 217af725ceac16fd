"""Figures of a run: image, label and prediction in three planes, and the learning curves."""

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # after the choice of a backend without a screen
from matplotlib.patches import Patch

from jax_seg.data.sampling import AXES
from jax_seg.ops.classes import BACKGROUND, FOREGROUND, MASKED
from jax_seg.report.colours import of_classes
from jax_seg.system.files import replacing
from jax_seg.tasks.judged import TRAINING

CASES = 6  # of the picture `cases`
DECISIONS = {"rollback": "tab:purple", "intervention": "tab:red", "early_stop": "black"}
# Colours
FOUND, MISSED, WRONG, UNLABELED = (0.1, 0.75, 0.3), (0.2, 0.45, 1.0), (1.0, 0.25, 0.2), (0.6,) * 3


def learning_curve(events, path):
    """Losses, Dice of whole volumes, learning rate and gradient norm against the epoch.

    Vertical lines mark decisions: rollbacks, interventions, an early stop.

    Args:
      events: of `events.read_events`.
      path: of the PNG.
    """
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    train = [e for e in events if e["kind"] == "train"]
    patches = [e for e in events if e["kind"] == "validation"]
    volumes = [e for e in events if e["kind"] == "volumes"]
    _curve(axes[0], train, "loss", "training")
    training = TRAINING in {e.get("volumes") for e in patches}
    _curve(axes[0], patches, "loss", "validation, training data" if training else "validation")
    axes[0].set(title="Loss", xlabel="epoch")
    _curve(axes[1], volumes, "dice", "Dice")
    _curve(axes[1], volumes, "precision", "precision", alpha=0.5)
    _curve(axes[1], volumes, "recall", "recall", alpha=0.5)
    part = "Training" if training else "Validation"
    axes[1].set(title=f"{part} part, whole", xlabel="epoch", ylim=(0, 1))
    _curve(axes[2], train, "learning_rate", "learning rate")
    _curve(axes[2], train, "gradient_norm", "gradient norm")
    axes[2].set(title="Optimization", xlabel="epoch", yscale="log")
    for axis in axes:
        named = set()
        for event in events:
            kind = event["kind"] == "decision" and event["decision"]["kind"]
            if kind in DECISIONS:
                label = "" if kind in named else kind.replace("_", " ")
                axis.axvline(event["epoch"], color=DECISIONS[kind], alpha=0.6, ls=":", label=label)
                named.add(kind)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend()
    _save(figure, path)


def slices(image, label, prediction, path, title="", classes=()):
    """Three planes through the middle of a volume: image, label and prediction over it.

    Args:
      image: [D, H, W]; of [D, H, W, C] the first channel is drawn.
      label: [D, H, W], encoded as in `ops.classes`; None when there is none. Of several classes
        their numbers from 1, or MASKED.
      prediction: [D, H, W] uint8, 0 or 1; of several classes their numbers from 1.
      path: of the PNG.
      title: over the picture.
      classes: names of several classes, each of which has a colour; with one the colours tell
        what is right.
    """
    colours = [tuple(np.divide(colour, 255)) for colour in of_classes(classes)]
    image = image[..., 0] if image.ndim == 4 else image
    columns = ["image", "prediction"] if label is None else ["image", "label", "prediction"]
    depth, height, width = image.shape
    heights = np.array([height / width, depth / width, depth / height])  # of pictures one wide
    figure, axes = plt.subplots(
        3,
        len(columns),
        figsize=(4.4 * len(columns), 1.5 + 4.2 * heights.sum() + 0.4 * 3),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    low, high = np.percentile(image, (0.5, 99.5))
    for axis, axis_name in enumerate(AXES):
        middle = image.shape[axis] // 2

        def plane(volume, axis=axis, middle=middle):
            return np.take(volume, middle, axis)

        grey = np.clip((plane(image).astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)
        pictures = {"image": _paint(grey, {})}
        predicted = plane(prediction) == 1
        if classes:
            for name, volume in (("label", label), ("prediction", prediction)):
                numbers = plane(volume)
                layers = {}
                for n, colour in enumerate(colours, 1):
                    layers[colour] = layers.get(colour, False) | (numbers == n)
                pictures[name] = _paint(grey, layers | {UNLABELED: plane(label) == MASKED})
        elif label is None:
            pictures["prediction"] = _paint(grey, {FOUND: predicted})
        else:
            truth = plane(label)
            foreground, masked = truth == FOREGROUND, truth == MASKED
            pictures["label"] = _paint(grey, {FOUND: foreground, UNLABELED: masked})
            pictures["prediction"] = _paint(
                grey,
                {
                    FOUND: predicted & foreground,
                    MISSED: ~predicted & foreground,
                    WRONG: predicted & (truth == BACKGROUND),
                    UNLABELED: masked,
                },
            )
        for column, picture_name in enumerate(columns):
            axes[axis, column].imshow(pictures[picture_name], interpolation="nearest")
            axes[axis, column].set(xticks=[], yticks=[])
            axes[axis, column].set_title(f"{picture_name}, {axis_name} {middle}")
    if classes:
        shown = [Patch(color=c, label=n) for c, n in zip(colours, classes, strict=True)]
        figure.legend(handles=shown, loc="outside lower center", ncols=5)
    elif label is not None:
        title += "\ngreen: found   blue: missed   red: wrong   grey: unlabelled"
    figure.suptitle(title.strip())
    _save(figure, path)


def cases(shown, path):
    """Images with their predictions, one row each: image, error, probability.

    Args:
      shown: list of (title, image uint8 [H, W, 3], mask bool [H, W], map uint8 [H, W]).
      path: of the PNG.
    """
    figure, axes = plt.subplots(
        len(shown), 3, figsize=(10, 3.3 * len(shown)), layout="constrained", squeeze=False
    )
    for row, (title, image, mask, found) in zip(axes, shown, strict=True):
        grey, predicted = image.mean(-1) / 255, found > 127
        layers = {
            FOUND: predicted & mask,
            MISSED: ~predicted & mask,
            WRONG: predicted & ~mask,
        }
        for axis, picture in zip(row, (image, _paint(grey, layers), found), strict=True):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        row[0].set_title(title, loc="left", fontsize=10)
    figure.suptitle("green: found   blue: missed   red: wrong      right: probability")
    _save(figure, path)


def gates(events, experts, path):
    """How often each expert is used, and the entropy of the gates, against the epoch.

    Args:
      events: of `events.read_events`.
      experts: names, in the order of the gates.
      path: of the PNG.
    """
    train = [e for e in events if e["kind"] == "train"]
    levels = sum(1 for name in train[0] if name.startswith("gate_entropy_"))
    figure, axes = plt.subplots(
        1, levels + 1, figsize=(4 * levels + 4, 3.6), layout="constrained", squeeze=False
    )
    for level in range(levels):
        for number, name in enumerate(experts):
            _curve(axes[0, level], train, f"expert_use_{level}_{number}", name)
        axes[0, level].set(title=f"Expert use at level {level}", xlabel="epoch", ylim=(0, 1))
        _curve(axes[0, -1], train, f"gate_entropy_{level}", f"level {level}")
    axes[0, -1].axhline(np.log(len(experts)), color="grey", ls=":", label="no preference")
    axes[0, -1].set(title="Gate entropy, nats", xlabel="epoch")
    for axis in axes[0]:
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    _save(figure, path)


def _paint(grey, layers):
    picture = np.repeat(grey[..., None], 3, -1)
    for colour, where in layers.items():
        strength = 0.55 if colour is UNLABELED else 0.75
        picture[where] = (1 - strength) * picture[where] + strength * np.array(colour)
    return picture


def _curve(axis, events, name, label, **style):
    if events:
        epochs = [e["epoch"] for e in events]
        axis.plot(epochs, [e[name] for e in events], ".-", label=label, **style)


def _save(figure, path):
    with replacing(path) as beside:
        figure.savefig(beside, dpi=80)
    plt.close(figure)
