"""Several networks as one: their average, what they have to agree on, the spacing of each."""

import functools

from jax_seg.data import spacing
from jax_seg.data.cache import source
from jax_seg.data.readers.spacing import completed, differ, in_words
from jax_seg.data.resample import changes_shape
from jax_seg.infer import ensemble, inspection
from jax_seg.infer.inspection import spacing_as_nnunet
from jax_seg.infer.part import Part, whole
from jax_seg.runs import held_out, members
from jax_seg.system.files import existing, read_json


def read_ensemble(path):
    """([members as texts], [weights]) of a file written by `jax_seg.fit_ensemble`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it holds something else.
    """
    content = read_json(existing(path))
    try:
        return [str(text) for text in content["members"]], [float(w) for w in content["weights"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} holds no ensemble ({type(error).__name__}: {error}): write it with "
            "python -m jax_seg.fit_ensemble."
        ) from error


def require_fitted(path, networks):
    """Raise a ValueError where an ensemble was fitted to other weights than its members have now.

    Args:
      path: the file of `read_ensemble`.
      networks: list of Network.
    """
    fitted = read_json(path).get("digests")
    for network, digest in zip(networks, fitted or [], strict=False):
        if network.facts["digest"] != digest:
            raise ValueError(
                f"{path} was fitted to other weights of {network.facts['workdir']} at step "
                f"{network.facts['step']}, which was trained again since: fit the ensemble again."
            )


def logits_held(networks, settings):
    """Logits of a voxel in memory at once: one for each class, twice that where they are averaged.

    Args:
      networks, settings: the list and the facts of `load`.
    """
    # A network of nnU-Net turns and averages each window by itself.
    whole = _convention(networks) != members.NNUNET
    averaged = len(networks) > 1 or (whole and settings.keys() & {"flips", "rotations"})
    return len(classes_of(networks).names) * (2 if averaged else 1)


def load(texts, weights=None, *, overlap=None, windows=None, flips=(), rotations=False):
    """Combine several networks into one.

    Args:
      texts: of `members.parse`, or Members; a folder of folds is all of them.
      weights: of the mean of their probabilities; None for equal weights.
      overlap, windows: of `members.load`.
      flips, rotations: of `ensemble.orientations_of`.

    Returns:
      (volume [D, H, W] -> logits [D, H, W], list of Network, dict of JSON types that records
      what was averaged, and how). The first also takes a volume's spacing, see `at_its_spacing`:
      `spacing` is one (z, y, x) for networks of nnU-Net, else a list of those of each network.

    Raises:
      FileNotFoundError, ValueError: of `members.load`, or weights or rotations that do not fit.
    """
    named = [text if isinstance(text, members.Member) else members.parse(text) for text in texts]
    named = [fold for one in named for fold in members.of_folds(one)]
    weights = ensemble.normalised(weights, len(named))
    orientations = ensemble.orientations_of(flips, rotations)
    shared = {"device": members.Device(), "programs": {}, "orientations": orientations}
    networks = [members.load(one, overlap=overlap, windows=windows, **shared) for one in named]
    facts = dict(networks[0].facts)
    if len(networks) > 1:
        pairs = zip(networks, weights, strict=True)
        facts = {"members": [network.facts | {"weight": weight} for network, weight in pairs]}
    if flips:
        facts["flips"] = [name for name in ensemble.AXES if name in flips]
    if rotations:
        facts["rotations"] = True
        for network in networks:
            _require_square_patch(network)
    if _convention(networks) != members.NNUNET:
        options = {
            "weights": weights,
            "orientations": orientations,
            "classes": classes_of(networks),
        }
        return functools.partial(_mean_logits, networks, options), networks, facts

    def segment(volume, spacing=None):  # it turns each window, which `members.load` has seen to
        each = [functools.partial(network.segment, spacing=spacing) for network in networks]
        return ensemble.mean_logits(each, volume, weights=weights, of="logits")

    return segment, networks, facts


def _convention(networks):
    """How the networks average, members.NNUNET or another; ValueError where they differ in it."""
    return agreed(
        "way of averaging",
        [network.fields.get("validate.convention", "probabilities") for network in networks],
        "combine networks of nnU-Net with others of it",
    )


def _mean_logits(networks, options, volume, spacing=()):
    """`ensemble.mean_logits` of a volume with its spacing for each network."""
    each = [
        functools.partial(network.segment, spacing=three) if three else network.segment
        for network, three in zip(networks, spacing or (None,) * len(networks), strict=True)
    ]
    oblong = [three for three in spacing if three and differ(three[1:], three[:0:-1])]
    if oblong and any(one.turns for one in options["orientations"]):
        raise ValueError(
            f"--rotations turns the plane of height and width, but the volume's spacing is "
            f"{in_words(oblong[0])}: remove --rotations."
        )
    if "data.patch" in networks[0].fields and not isinstance(volume, Part):
        volume = whole(volume)  # measured once and upright, whatever its orientation
    return ensemble.mean_logits(each, volume, **options)


def at_its_spacing(segment, networks):
    """`segment` of `load` as (volume, image) -> logits: with the volume's spacing.

    A volume of another spacing than a network was trained on is resampled to it, and the logits
    back. A run with a data.spacing of its own, which stands for what files say, takes it for every
    volume, and so does a run that knows no spacing.

    Args:
      segment, networks: of `load`.

    Returns:
      (`Volume`, [D, H, W] as read) -> logits [D, H, W]. ValueError where a run of
      data.resample='never' is given another spacing, or where the spacing is damaged.
    """
    if any("trained_spacing" in network.facts for network in networks):
        return lambda volume, image: segment(image, spacing=_as_nnunet(networks, volume.image))
    if not any("network_spacing" in network.facts for network in networks):
        return lambda _, image: segment(image)
    return lambda volume, image: segment(
        image, spacing=[other_spacing(network, volume) for network in networks]
    )


def other_spacing(network, volume):
    """The spacing of a `Volume` where it is to be resampled for a `Network`, else None.

    Raises:
      ValueError: of `spacing.to_resample`.
    """
    trained = network.facts.get("network_spacing")
    if not trained:
        return None
    of_all = network.fields.get("data.spacing")
    found = tuple(of_all) if of_all else spacing.stated(volume.image, volume.spacing)
    how = network.fields["data.resample"]
    return found if spacing.to_resample(volume.image, found, trained, how) else None


def resampling(network, volume):
    """The pair of spacings between which a `Network` resamples a `Volume`, None where it does not.

    Raises:
      ValueError: of `spacing.to_resample`.
    """
    if trained := network.facts.get("trained_spacing"):
        found = _as_nnunet([network], volume.image)
        trained = found and completed(trained, found)
        if not found or not changes_shape(source(volume.image).shape, found, trained):
            return None
        return found, trained
    found = other_spacing(network, volume)
    return (tuple(found), tuple(network.facts["network_spacing"])) if found else None


def unstated(networks, volume):
    """[a sentence] where a `Volume` states no spacing and a network knows its own, else []."""
    for network in networks:
        words = f"{volume.image} states no spacing"
        if trained := network.facts.get("trained_spacing"):
            found = spacing_as_nnunet(volume.image)
            words += " where nnU-Net reads it (docs/nnunet.md)"
        elif not network.fields.get("data.spacing") and "network_spacing" in network.facts:
            trained = network.facts["network_spacing"]
            found = spacing.stated(volume.image, volume.spacing)
        else:
            continue
        if not found:
            at = in_words(trained)
            return [f"{words} and is taken as it is; the network was trained at {at}."]
    return []


def resampled(networks, volume):
    """`inspection.resampled` of a `Volume`; {} too where its spacing is refused later."""
    try:
        pairs = [resampling(network, volume) for network in networks]
    except (ValueError, OSError):
        return {}
    return inspection.resampled(pairs)


def _as_nnunet(networks, image):
    """`spacing_as_nnunet`; ValueError where those of a volume and a network differ as units do."""
    found = spacing_as_nnunet(image)
    for network in networks:
        trained = network.facts.get("trained_spacing")
        if found and trained:
            spacing.require_one_unit(image, found, completed(trained, found))
    return found


def agreed(what, values, advice):
    """The value that all members of an ensemble share.

    Args:
      what: noun for the values.
      values: one of each member.
      advice: what to do where they differ, as 'choose with --threshold'.

    Raises:
      ValueError: they differ.
    """
    if any(value != values[0] for value in values):
        given = ", ".join(map(str, values))
        raise ValueError(f"The members differ in their {what} ({given}): {advice}.")
    return values[0]


def classes_of(networks):
    """The `Classes` of the members of an ensemble; ValueError where they differ in them."""
    found = [held_out.table_of(network.fields).classes for network in networks]
    return agreed("classes", found, "name members with the same data.classes")


def label_table(networks):
    """The `LabelTable` of the members of an ensemble; ValueError where they differ in it."""
    tables = [held_out.table_of(network.fields) for network in networks]
    advice = "name members with the same data.foreground, data.ignore and data.background"
    return agreed("meaning of label values", tables, advice)


def _require_square_patch(network):
    if "data.patch" not in network.fields:  # resized to a square
        return
    height, width = network.fields["data.patch"][-2:]
    if height != width:
        raise ValueError(
            f"--rotations turns the plane of height and width, but the patch of "
            f"{network.facts['workdir']} has {height} × {width} voxels there: remove --rotations."
        )
