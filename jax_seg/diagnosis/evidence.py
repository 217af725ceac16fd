"""What checks look at: gathered when it is first asked for, once, and shared by all of them."""

import contextlib
import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jax_seg import models
from jax_seg.data.labels import class_names, label_table
from jax_seg.data.preprocess import stored as stored_preprocessing
from jax_seg.data.readers.spacing import differ
from jax_seg.data.spacing import stated
from jax_seg.diagnosis import crops
from jax_seg.diagnosis.finding import Skipped
from jax_seg.ops.classes import BACKGROUND, FOREGROUND
from jax_seg.runs import checkpoints, held_out
from jax_seg.runs import run as opened
from jax_seg.system import configuration
from jax_seg.tasks import judged
from jax_seg.training import programs, stages
from jax_seg.training.resuming import at_stored_spacing
from jax_seg.training.settings import read_settings
from jax_seg.training.step import normalised

MOST_VOLUMES = {True: 8, False: 24}  # examined of each part, quick or not
LARGEST = {True: 96**3, False: 160**3}  # voxels; a larger volume is cropped to its middle
SAMPLES = {True: 16, False: 64}  # training samples drawn
AUGMENTED = 2**21  # voxels of those of them that are augmented, which are at least 8 samples


class Example(NamedTuple):
    """A labelled volume, or its middle where it is large; an image is one slice.

    Attributes:
      id: of the volume or image.
      part: 'training' or 'validation'.
      group: of the scroll that it belongs to, '' if unknown.
      image: [D, H, W] as stored; the mean over channels of an image, or of a volume of several
        (`intensities.blended`).
      label: [D, H, W] uint8, encoded as in `ops.classes`.
      start: [3] first voxel of the crop.
      shape: [3] of the whole volume.
      image_file, label_file: paths.
    """

    id: str
    part: str
    group: str
    image: np.ndarray
    label: np.ndarray
    start: tuple
    shape: tuple
    image_file: Path
    label_file: Path


class Trained(NamedTuple):
    """The weights of a checkpoint.

    Attributes:
      variables: 'params' and 'batch_stats'.
      step: updates that made them.
      epoch: of the checkpoint.
    """

    variables: dict
    step: int
    epoch: int


@dataclasses.dataclass(frozen=True)
class Evidence:
    """A configuration with its data, and what its run has left, if there is one.

    Attributes:
      config: ConfigDict.
      workdir: folder of its run; None before it.
      quick: gather less.
      given: {name: value} of properties that the caller has already, as 'settings' and 'task'.
      of_classes: the field data.classes of a configuration of several, see `of_config`.
    """

    config: object
    workdir: Path | None = None
    quick: bool = False
    given: dict = dataclasses.field(default_factory=dict)
    of_classes: tuple = ()

    @property
    def reservation(self):
        """A sentence on what is not examined; '' where everything is."""
        if not self.of_classes:
            return ""
        first, *others = class_names(self.of_classes)
        return (
            f"Of several classes {first} is examined, and {', '.join(others)} counts as unlabelled."
        )

    # The configuration

    @functools.cached_property
    def settings(self):
        """`Settings`; ValueError for a configuration that cannot be trained."""
        return self.given.get("settings") or read_settings(self.config)

    @functools.cached_property
    def fields(self):
        """Every field of the configuration by its dotted path."""
        return configuration.flat(configuration.as_dict(self.config))

    def field(self, path, default=None):
        """A field of the configuration by its dotted path."""
        return self.fields.get(path, default)

    @functools.cached_property
    def stage(self):
        """The `Stage` that the run starts with; of a run, that of its last epoch."""
        done = by_epoch(self.run.events) if self.workdir else []
        epoch = done[-1]["epoch"] if done else 0
        return stages.at(self.settings.plan, epoch)

    # The data

    @functools.cached_property
    def _folder(self):
        """Where decoded volumes are cached: the workdir, or a folder that ends with the process."""
        if self.workdir:
            return str(self.workdir)
        folder = tempfile.TemporaryDirectory(prefix="jax_seg_doctor_")
        object.__setattr__(self, "_kept", folder)
        return folder.name

    @functools.cached_property
    def task(self):
        """`Task` of the data, prepared as for training."""
        if "task" in self.given:
            return self.given["task"]
        stored = None
        with contextlib.suppress(Skipped):  # the data can be judged without the run's checkpoints
            stored = self.stored
        task = at_stored_spacing(self.settings.task, stored)
        return self.settings.kind.prepare(self._folder, stored and stored["preprocessing"], **task)

    @functools.cached_property
    def stored(self):
        """What the last checkpoint keeps beside the state; None without a checkpoint.

        `Skipped` where none can be read: what the run was trained with is then unknown.
        """
        if not self.workdir or not (self.workdir / "checkpoints").is_dir():
            return None
        try:
            saved = checkpoints.open_for_reading(self.workdir)
            if saved.latest_step() is not None:
                return saved.whole("latest").loop
            saved.require_whole()
        except (OSError, ValueError) as error:
            raise Skipped(f"no checkpoint can be read: {error}") from error
        return None

    @functools.cached_property
    def preprocessing(self):
        """`Preprocessing`: of the run where there is one, else as fitted to the training part."""
        if self.stored:
            return stored_preprocessing(self.stored["preprocessing"])
        return self.task.preprocessing

    @functools.cached_property
    def examples(self):
        """List of `Example`: those of the training part first."""
        return [
            self._example(one, part)
            for part, sampler in (
                ("training", self.task.train),
                ("validation", self.task.validation),
            )
            for one in _spread(_items(sampler), MOST_VOLUMES[self.quick])
        ]

    def part(self, name):
        """The `examples` of 'training' or 'validation'."""
        return [example for example in self.examples if example.part == name]

    def _example(self, item, part):
        def middle(shape):
            size = _cropped(shape, LARGEST[self.quick])
            return tuple(one.start for one in crops.middle(shape, size)), size

        image, label, *rest = self.settings.kind.read_middle(item, self.task.train, middle)
        start, shape, group = rest
        _, *files = item[:3]
        return Example(item.id, part, group, image, label, start, shape, *files)

    @functools.cached_property
    def samples(self):
        """The first training samples: {'image' [N, *shape], 'label' [N, *spatial, 1], 'volume'}."""
        count = min(SAMPLES[self.quick], 4 * len(self.task.train))
        return stacked([self.task.train[number] for number in range(count)])

    def batch(self, number=0):
        """A batch of the run without augmentation, normalised: 'image', 'label' and 'mask'."""
        size = self.settings.batch
        drawn = [self.task.train[number * size + index] for index in range(size)]
        return jax.device_get(normalised(stacked(drawn), self.preprocessing))

    @functools.cached_property
    def augmented(self):
        """(plain, changed): the first `samples` before and after augmentation, normalised.

        Either is {'image', 'label', 'mask'}, as in `batch`.
        """
        count = max(8, AUGMENTED // int(np.prod(self.task.shape[:-1])))
        drawn = {name: values[:count] for name, values in self.samples.items()}
        plain = jax.device_get(normalised(drawn, self.preprocessing))
        return plain, jax.device_get(once(self.task.augment)(jax.random.key(0), plain))

    # The network and its loss

    @functools.cached_property
    def model(self):
        """The network, see `models`."""
        fields = self.settings.programs["model"]
        return models.build(**models.with_channels(fields, self.task.shape))

    @functools.cached_property
    def loss(self):
        """(logits, label, mask, weights, gates=None) -> (total, terms) of the run."""
        arguments = self.settings.programs
        return programs.weighted_losses(arguments["terms"], **arguments["loss"])

    @property
    def loss_weights(self):
        """{term: weight} of `stage`."""
        return self.stage.loss_weights

    @functools.cached_property
    def programs(self):
        """`programs.Programs` of the run."""
        return self.given.get("programs") or programs.build(
            **self.settings.programs,
            shape=self.task.shape,
            preprocessing=self.preprocessing,
            augment=self.task.augment,
        )

    @functools.cached_property
    def fresh(self):
        """`TrainState` before the first update."""
        return self.programs.fresh_state()

    def trained(self, which="best"):
        """`Trained` weights of the 'best' or 'latest' checkpoint; `Skipped` without one."""
        if not self.workdir:
            raise Skipped("there is no run yet")
        if self.of_classes:
            raise Skipped("the network tells several classes apart, and this check knows one")
        try:
            variables, stored, step = checkpoints.read_variables(self.workdir, which)
        except (OSError, ValueError) as error:
            raise Skipped(f"no checkpoint can be read: {error}") from error
        return Trained(variables, step, stored["epoch"])

    @functools.cached_property
    def best(self):
        """`Trained` weights of the best checkpoint."""
        return self.trained("best")

    @functools.cached_property
    def latest(self):
        """`Trained` weights of the latest checkpoint."""
        return self.trained("latest")

    # What the run has left

    @functools.cached_property
    def run(self):
        """`runs.run.Run`; `Skipped` before it."""
        if not self.workdir:
            raise Skipped("there is no run yet")
        return opened.open_run(self.workdir)

    @functools.cached_property
    def epochs(self):
        """The run's events `by_epoch`; `Skipped` without any."""
        found = by_epoch(self.run.events)
        if not found:
            raise Skipped("events.jsonl holds no epoch")
        return found

    @functools.cached_property
    def predictions(self):
        """[(id, probability [D, H, W], encoded label, image)] of the validation volumes.

        Of the best raw weights, as the run stored them at its end; computed from the best
        checkpoint where the run has not ended. `Skipped` where neither is possible.
        """
        if self.of_classes:
            raise Skipped("the network tells several classes apart, and this check knows one")
        if self.run.probabilities:
            found = []
            for name in _spread(sorted(self.run.probabilities), MOST_VOLUMES[self.quick]):
                image, label, probability = opened.read_volume(self.run, name)
                if label is not None:
                    found.append((name, np.asarray(probability, np.float32), label, image))
            if found:
                return found
        network, kind, found = self.programs.network, self.settings.kind, []
        table = held_out.table_of(self.fields)
        for one, _, result in self.task.segment(network, self.best.variables):
            image, label = kind.read_pair(one, table)
            found.append((one.id, kind.probability_of(result), label, image))
            if len(found) >= MOST_VOLUMES[True]:
                break
        return found

    @functools.cached_property
    def resampled(self):
        """Ids of the volumes of another spacing than the run's; a network sees them resampled."""
        trained = self.task.spacing
        if not trained:
            return set()
        of_all, volumes = tuple(self.field("data.spacing", ())), self.run.labelled.items()
        spacings = {name: of_all or stated(v.image, v.spacing) for name, v in volumes}
        return {name for name, found in spacings.items() if found and differ(found, trained)}

    @property
    def judged_on(self):
        """`JudgedOn` of the validation part."""
        return self.run.judged_on if self.workdir else None

    @functools.cached_property
    def holds_out(self):
        """Whether the validation part was held out from training."""
        if self.workdir:
            return self.judged_on.volumes != judged.TRAINING
        return not set(self.task.train_ids) & set(self.task.validation_ids)


def of_config(config, workdir=None, quick=False, given=None):
    """`Evidence` of a configuration.

    Of several classes the first is examined: its voxels against the background, those of the others
    unlabelled. What they look like together would be a mixture that no network is asked to find.
    Arguments are the attributes of `Evidence`.
    """
    classes = config.data.get("classes", ())
    if len(class_names(classes)) < 2:
        return Evidence(config, workdir, quick, given or {})
    config = config.copy_and_resolve_references()
    every, first = (
        label_table(ignore=(), background=config.data.background, classes=some).foreground
        for some in (classes, classes[:1])
    )
    others = tuple(value for value in every if value not in first)
    ignore = [v for v in dict.fromkeys((*config.data.ignore, *others)) if v not in first]
    config.data.update(foreground=first, classes=(), ignore=tuple(ignore))
    config.model.out_channels = 1
    return Evidence(config, workdir, quick, of_classes=classes)


def of_run(workdir, quick=False):
    """`Evidence` of a run: finished, stopped or under way.

    Raises:
      FileNotFoundError, ValueError: the folder holds no run, or its config.json is damaged.
    """
    run = opened.open_run(workdir)
    if not run.config:
        raise FileNotFoundError(
            f"{run.workdir / 'config.json'} does not exist: restore it from a copy, or start the "
            "run again."
        )
    return of_config(configuration.from_dict(run.config), run.workdir, quick)


def by_epoch(events):
    """One dict per epoch: its number as 'epoch', and its events by kind.

    Keys are 'train', 'validation', 'volumes', 'validation swa', …, each {metric: value}, and
    'decisions', a list of dicts. Epochs without training metrics are omitted.
    """
    found = {}
    for event in events:
        one = found.setdefault(event["epoch"], {"epoch": event["epoch"], "decisions": []})
        if event["kind"] == "decision":
            one["decisions"].append(event["decision"])
        elif event["kind"] not in ("update", "finding"):
            one[event["kind"]] = event
    return [found[epoch] for epoch in sorted(found) if "train" in found[epoch]]


def once(function):
    """A function that is called once: compiling it takes much longer than running it."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def stacked(samples):
    """{name: array, the samples' axis first} of a list of samples as drawn."""
    return {name: np.stack([one[name] for one in samples]) for name in samples[0]}


def finest(output):
    """Logits [B, *spatial, 1] of the finest level of what a network returns."""
    while isinstance(output, tuple):
        output = output[0]
    return output


def has_both(label):
    """Whether an encoded label holds foreground and background."""
    return bool((label == FOREGROUND).any() and (label == BACKGROUND).any())


def _cropped(shape, most):
    """`shape`, or a part of at most `most` voxels: its longest axis is halved until it fits."""
    size = list(shape)
    while np.prod(size) > most:
        longest = int(np.argmax(size))
        size[longest] = (size[longest] + 1) // 2
    return tuple(size)


def _items(sampler):
    return sampler.volumes if hasattr(sampler, "volumes") else sampler.examples


def _spread(items, most):
    """At most `most` of a list, evenly."""
    if len(items) <= most:
        return list(items)
    return [items[int(number)] for number in np.linspace(0, len(items) - 1, most)]
