"""Checks on resuming: what may change between starts of a run, and what is refused."""

from jax_seg.data.readers.spacing import differ, in_words
from jax_seg.system import configuration, processes
from jax_seg.tasks import sources

# A resumed run may differ in these: they change how long or where it runs, not what it computes.
MAY_DIFFER = (
    "train.epochs",
    "train.minutes",
    "data.root",
    "data.threads",
    "data.cache",
    "data.cache_gb",
    "checkpoint",
    "devices",
)


def stored_run(checkpoints, config, workdir, defaults=None):
    """What the last checkpoint stores beside the state; None for a new run.

    Args:
      checkpoints: of `open_checkpoints`.
      config: current ConfigDict.
      workdir: folder of the run.
      defaults: ConfigDict of defaults, which fields added since the run began take.

    Raises:
      ValueError: the run there has another configuration.
    """
    step = checkpoints.latest_step()
    if step is None:
        return None
    stored = checkpoints.found()[step].loop
    ignore = MAY_DIFFER
    if config.model.get("in_channels") == 0:  # as the images have: see `check_channels`
        ignore += ("model.in_channels",)
    changed = configuration.differences(config, stored["config"], ignore=ignore, defaults=defaults)
    if changed:
        raise ValueError(
            f"{workdir} holds a run of another configuration ({'; '.join(changed)}); choose "
            "another --workdir, or undo the change to resume that run."
        )
    return stored


def require_same_start(config, workdir):
    """Refuse processes of one run that were started differently; one process passes.

    Raises:
      ValueError: they have another configuration, workdir or code.
    """
    fields = configuration.flat(configuration.as_dict(config))
    of_the_machine = {name for name in MAY_DIFFER if name.startswith("data.")}
    facts = {name: value for name, value in fields.items() if name not in of_the_machine}
    facts |= {"--workdir": str(workdir), "code": processes.code()}
    processes.require_same(facts, "start the same command of the same version everywhere")


def prolonged(before, now):
    """A warning that a new train.epochs changes the learning rate of a resumed run, or ''.

    Args:
      before, now: configurations as `configuration.as_dict` gives them.
    """
    name, epochs = now["schedule"]["name"], now["train"]["epochs"]
    if before["train"]["epochs"] == epochs or name not in ("cosine", "polynomial"):
        return ""
    return (
        f"train.epochs was {before['train']['epochs']} and is {epochs}: the {name} schedule now "
        f"runs over {epochs} epochs, so every epoch's learning rate differs from the original plan."
    )


def changed_data(stored, data):
    """What has changed in a run's images and labels since its last checkpoint; '' for nothing.

    Args:
      stored: what the last checkpoint keeps beside the state.
      data: `Task` of now.
    """
    before, changed = stored.get("data", {}), {}
    for name, now in data.checksums.items():
        if parts := sources.differing(before.get(name, now), now):
            changed[name] = parts
    if not changed:
        return ""
    sentence = (
        f"{sources.in_words(changed)} changed since the last checkpoint: training continues on the "
        "new data"
    )
    if changed.keys() & set(data.validation_ids):
        sentence += (
            ", validation losses before and after do not compare, and scores are computed again"
        )
    return f"{sentence}; choose another --workdir to train from the beginning."


def at_stored_spacing(task, stored):
    """Arguments of a task's `prepare`, so that a run keeps the spacing at which it has begun.

    From before there was data.target_spacing, that is the median of what it trains on.

    Args:
      task: {section: dict}, of `Settings`.
      stored: what the last checkpoint stores beside the state, or None.
    """
    if not is_before_target(stored):
        return task
    return task | {"data": task["data"] | {"target_spacing": tuple(stored["spacing"])}}


def is_before_target(stored):
    """Whether a run has a spacing, and is from before there was data.target_spacing.

    It stays so: its checkpoints lack the field also after it was resumed.
    """
    return bool(stored and stored.get("spacing")) and (
        "target_spacing" not in stored["config"].get("data", {})
    )


def check_spacing(stored, spacing, workdir):
    """Refuse to resume where the volumes are now of another spacing than when the run began.

    Args:
      stored: what the last checkpoint stores beside the state.
      spacing: of the `Task` now, (z, y, x) or None.
      workdir: folder of the run.

    Raises:
      ValueError: it differs from the stored one. A run from before there was one is resumed.
    """
    before = stored.get("spacing")
    if before and (not spacing or differ(spacing, before)):
        now = in_words(spacing) if spacing else "none"
        raise ValueError(
            f"{workdir} holds a run at a spacing of {in_words(before)}, and the volumes now state "
            f"{now}: restore what states their spacing, or choose another --workdir."
        )


def check_channels(stored, channels, workdir):
    """Refuse to resume where the images now have more or fewer channels than when the run began.

    Args:
      stored: what the last checkpoint stores beside the state.
      channels: of a sample now.
      workdir: folder of the run.

    Raises:
      ValueError: naming both numbers.
    """
    before = stored["config"]["model"].get("in_channels") or channels
    if before != channels:
        raise ValueError(
            f"{workdir} holds a run on images of {before} channel{'s' * (before > 1)}, and those "
            f"of data.root now have {channels}: restore the data or choose another --workdir."
        )


def check_split(stored, split, root, workdir):
    """Refuse to resume if the data are now split differently than when the run began.

    Adding or removing a volume can move others between the parts, and the run would then be judged
    on volumes that it was trained on.

    Args:
      stored: what the last checkpoint stores beside the state.
      split: {'training': ids, 'validation': ids} now.
      root: data.root.
      workdir: folder of the run.

    Raises:
      ValueError: naming a volume or image that was added, removed or moved between parts.
    """
    for part, names in stored.get("split", {}).items():
        if moved := sorted(set(names) ^ set(split[part])):
            raise ValueError(
                f"{workdir} holds a run on other data: {moved[0]} "
                f"{'was' if moved[0] in names else 'was not'} in its {part} part, but in "
                f"data.root={root} it {'is not' if moved[0] in names else 'is'}; restore the data "
                "or choose another --workdir."
            )
