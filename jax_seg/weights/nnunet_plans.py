"""What the plans.json and dataset.json of an nnU-Net model folder say, in this project's terms.

nnU-Net v2 stores a network as the name of a class and its arguments ('architecture'), or, before
version 2.5, as fields of the configuration. Whatever would change the result and is not known here
is refused by name.
"""

from typing import NamedTuple

import numpy as np

from jax_seg.system.files import existing, read_json

PLAIN, RESIDUAL = "PlainConvUNet", "ResidualEncoderUNet"
NETWORKS = {PLAIN: "unet", RESIDUAL: "residual_unet"}
BLOCKS = {PLAIN: "n_conv_per_stage", RESIDUAL: "n_blocks_per_stage"}
# None turns volumes. How many of this project's units of length one of theirs is: millimetres are
# micrometres here.
READERS = {"SimpleITKIO": 1000.0, "NibabelIO": 1000.0, "Tiff3DIO": 1.0, "SimpleTiffIO": 1.0}
RESAMPLED = {"is_seg": False, "order_z": 0, "force_separate_z": None}
KNOWN = {
    "preprocessor_name": "DefaultPreprocessor",
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": RESAMPLED | {"order": 3},
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities_kwargs": RESAMPLED | {"order": 1},
}
"""Entries of a configuration, with the only values that are repeated here."""
CLIPPED = "CTNormalization"
UNCLIPPED = 3e38  # float32 reaches no further
FIXED = {"NoNormalization": (0.0, 1.0), "RGBTo01Normalization": (0.0, 1 / 255)}
PER_VOLUME = {"ZScoreNormalization": "zscore", "RescaleTo01Normalization": "percentile"}


class Plan(NamedTuple):
    """A configuration of an nnU-Net model folder.

    Attributes:
      configuration: its name, as '3d_fullres'.
      network: class of the network, PLAIN or RESIDUAL.
      fields: of the model of that name in `NETWORKS`, whose axes are those of the stored volume.
      axes: for each axis of the stored volume, the axis of the network's tensors that it becomes:
        nnU-Net may transpose volumes, and its 2-D networks see slices.
      bias: whether convolutions have a bias.
      heads: number of channels of the logits: one more than classes for a softmax over them and the
        background, as many for regions, each on its own.
      patch: window in voxels of the stored volume.
      spacing: (z, y, x) of the volumes that it was trained on, in the data set's units; of a 2-D
        configuration None along the axis of its slices, which are taken as they are.
      unit: of that spacing, of `READERS`.
      intensities: `Preprocessing` as a dict, of all channels, or that of `PerVolume`.
      foreground: names of the classes.
      labels: fields of the section data, as what they are by default is not what label values mean:
        {'classes': …, 'ignore': …} of several classes, {'foreground': …, 'ignore': …} of one.
    """

    configuration: str
    network: str
    fields: dict
    axes: tuple
    bias: bool
    heads: int
    patch: tuple
    spacing: tuple | None
    unit: float
    intensities: dict
    foreground: str
    labels: dict

    @property
    def target(self):
        """Fields of the section `data` that bring new volumes to its spacing.

        {} of a 2-D network, and where the spacing is 1 along all axes, in no unit of length: TIFF
        files need one for nnU-Net, and where it is not known that is what people write.
        """
        if None in self.spacing or (self.unit == 1.0 and set(self.spacing) == {1.0}):
            return {}
        return {"target_spacing": tuple(step * self.unit for step in self.spacing)}

    @property
    def rule(self):
        """Fields of the section `preprocess` that normalise new volumes alike; {} where none do."""
        if "region" in self.intensities:
            return {"per_volume": True, **self.intensities}
        if np.min(self.intensities["low"]) == -UNCLIPPED:
            return {}
        return {"name": "zscore", "low_percentile": 0.5, "high_percentile": 99.5}


def read_plan(folder, configuration):
    """The `Plan` of a configuration.

    Args:
      folder: with plans.json and dataset.json, a Path.
      configuration: its name.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: it is damaged, or describes what this project has not.
    """
    path, dataset_path = (existing(folder / name) for name in ("plans.json", "dataset.json"))
    plans, dataset = read_json(path), read_json(dataset_path)
    try:
        channels = dataset.get("channel_names") or dataset["modality"]
        names, labels, heads = _classes(dataset, dataset_path)
        stored = _inherited(plans["configurations"], configuration, path)
        unit = _unit(plans, path)
        _require_known(stored, path)
        network, arguments = _architecture(stored, path)
        flat = len(stored["patch_size"]) == 2
        forward = plans.get("transpose_forward", (0, 1, 2))
        axes = tuple(forward.index(axis) for axis in range(3))
        fields, bias = _fields(network, arguments, axes, flat, path)
        fields |= {"out_channels": len(labels["classes"])} if "classes" in labels else {}
        fields["in_channels"] = len(channels)
        patch = _on_axes(stored["patch_size"], axes, flat)
        spacing = [None, *stored["spacing"]] if flat else stored["spacing"]
        spacing = tuple(spacing[axis] and float(spacing[axis]) for axis in axes)
        intensities = _intensities(plans, stored, channels, path)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(
            f"{path} or {dataset_path.name} beside it lacks an entry or has one of another kind "
            f"({type(error).__name__}: {error}); copy nnU-Net's model folder again."
        ) from error
    return Plan(
        configuration,
        network,
        fields,
        axes,
        bias,
        heads,
        patch,
        spacing,
        unit,
        intensities,
        names,
        labels,
    )


def _classes(dataset, path):
    """(names of the foreground, `Plan.labels`, channels of the logits)."""
    values = {
        name: [value] if isinstance(value, int) else list(value)
        for name, value in dataset["labels"].items()
        if name not in ("ignore", "background")
    }
    if not values:
        raise ValueError(f"{path} names no class beside the background, so nothing is segmented.")
    order = dataset.get("regions_class_order")
    regions = regions_in_order(values, order, path)
    if not regions:  # the logits follow the values
        values = dict(sorted(values.items(), key=lambda item: item[1]))
    elif len(values) > 1 and not _share(values.values()):
        raise ValueError(
            f"{path}: the regions {', '.join(values)} share no label value, and nnU-Net decides "
            "each by itself; here such classes exclude each other, so the network cannot be "
            "imported."
        )
    several = tuple(
        f"{name.replace('=', ' ')}={','.join(map(str, v))}" for name, v in values.items()
    )
    heads = len(values) + (not regions)
    ignored = dataset["labels"].get("ignore", ())
    ignore = (ignored,) if isinstance(ignored, int) else tuple(ignored)
    (first, *_) = values.values()
    if len(several) > 1:  # any value may be a class, so none is unlabelled by default
        labels = {"classes": several, "ignore": ignore}
    elif ignore or first != [1]:
        labels = {"foreground": tuple(first), "ignore": ignore}
    else:
        labels = {}
    return " and ".join(values), labels, heads


def _share(regions):
    """Whether any label value is in two lists of them."""
    values = [value for region in regions for value in set(region)]
    return len(set(values)) < len(values)


def regions_in_order(values, order, path):
    """Whether the labels of a dataset.json are regions, which share values.

    Args:
      values: {name of a region: list of its label values}, without background and ignore. The value
        that nnU-Net writes for it is moved to the front.
      order: the entry regions_class_order, which holds these values, or None.
      path: of dataset.json, for errors.

    Raises:
      ValueError: the order does not name a value of each region.
    """
    regions = order is not None or any(len(found) > 1 for found in values.values())
    if regions and len(values) > 1:
        for first, found in zip(order or (), values.values(), strict=False):
            found.sort(key=lambda value, first=first: value != first)
        if [found[0] for found in values.values()] != order:
            raise ValueError(
                f"{path}: regions_class_order is {order}, which has to name a value of each region "
                f"({', '.join(f'{name} {found}' for name, found in values.items())}); other orders "
                "cannot be imported."
            )
    return regions


def _inherited(configurations, name, path):
    """A configuration with what it inherits."""
    if name not in configurations:
        raise ValueError(
            f"{path} has no configuration '{name}', which the checkpoint names; it has "
            f"{', '.join(configurations)}."
        )
    found, seen = dict(configurations[name]), {name}
    while (parent := found.pop("inherits_from", None)) and parent not in seen:
        seen.add(parent)
        found = {**configurations[parent], **found}
    if found.get("previous_stage"):
        raise ValueError(
            f"{path}: configuration '{name}' is the second stage of a cascade: its network takes "
            f"the prediction of '{found['previous_stage']}' as input. Import a model folder of "
            "3d_fullres, 3d_lowres or 2d."
        )
    return found


def _unit(plans, path):
    """Of `READERS`; ValueError where files are read in another way than here."""
    reader = plans.get("image_reader_writer", "SimpleITKIO")
    if reader not in READERS:
        raise ValueError(
            f"{path}: files are read by {reader}, which may turn volumes or reads pictures; "
            f"networks of {', '.join(READERS)} can be imported, and this one if you know that it "
            "reads voxels as they are stored: set image_reader_writer there to Tiff3DIO for TIFF, "
            "to NibabelIO for NIfTI."
        )
    return READERS[reader]


def _require_known(stored, path):
    """Raise a ValueError where volumes are resampled in another way than here."""
    for entry, known in KNOWN.items():
        if (found := stored.get(entry, known)) != known:
            raise ValueError(
                f"{path}: {entry} is {found}, which cannot be imported; networks whose volumes are "
                f"prepared by {known} can."
            )


def _architecture(stored, path):
    """(class of the network, its arguments) of a configuration of either version of the format."""
    if "architecture" in stored:
        name = stored["architecture"]["network_class_name"].rpartition(".")[2]
        arguments = dict(stored["architecture"]["arch_kwargs"])
    else:
        name, depths = stored["UNet_class_name"], stored["n_conv_per_stage_encoder"]
        base, most = stored["UNet_base_num_features"], stored["unet_max_num_features"]
        arguments = {
            "n_stages": len(depths),
            "features_per_stage": [min(base * 2**stage, most) for stage in range(len(depths))],
            "kernel_sizes": stored["conv_kernel_sizes"],
            "strides": stored["pool_op_kernel_sizes"],
            BLOCKS.get(name, "n_conv_per_stage"): depths,
            "n_conv_per_stage_decoder": stored["n_conv_per_stage_decoder"],
            "conv_bias": True,
        }
    if name not in NETWORKS:
        raise ValueError(
            f"{path}: the network is a {name}, which cannot be imported; {PLAIN} and {RESIDUAL} "
            "can."
        )
    return name, arguments


def _fields(network, arguments, axes, flat, path):
    """(fields of the model, whether convolutions have a bias)."""
    left = dict(arguments)
    stages = left.pop("n_stages")
    features = _per_stage(left.pop("features_per_stage"), stages)
    kernels = _per_stage(left.pop("kernel_sizes"), stages)
    strides = _per_stage(left.pop("strides"), stages)
    blocks = _per_stage(left.pop(BLOCKS[network]), stages)
    decoder = _per_stage(left.pop("n_conv_per_stage_decoder"), stages - 1)
    bias = left.pop("conv_bias", False)
    slope = (left.pop("nonlin_kwargs", None) or {}).get("negative_slope", 0.01)
    known = {
        "conv_op": (f"torch.nn.modules.conv.Conv{2 if flat else 3}d",),
        "norm_op": tuple(f"torch.nn.modules.instancenorm.InstanceNorm{n}d" for n in (2, 3)),
        "norm_op_kwargs": ({"eps": 1e-5, "affine": True},),
        "nonlin": ("torch.nn.LeakyReLU", "torch.nn.modules.activation.LeakyReLU"),
        "deep_supervision": (True, False),
        "stem_channels": (None, features[0]),
    }
    for name, value in left.items():
        if value and value not in known.get(name, ()):
            raise ValueError(
                f"{path}: the {network} has {name} = {value}, which cannot be imported; networks "
                "as nnU-Net plans them can."
            )
    poolings = stages - 1
    return {
        "filters": features[0],
        "poolings": poolings,
        "features": tuple(features),
        "kernels": tuple(_on_axes(kernel, axes, flat) for kernel in kernels),
        "strides": tuple(_on_axes(stride, axes, flat) for stride in strides),
        "convolutions": tuple(blocks),
        "decoder_convolutions": tuple(reversed(decoder)),
        "downsample": "stride",
        "affine": True,
        "slope": slope,
        # nnU-Net weighs its levels by 1, 1/2, 1/4, … and the coarsest by 0, so its head is unused.
        "deep_supervision": max(poolings - 2, 0),
    }, bias


def _per_stage(value, count):
    """One value for each stage, of a list or of one for all."""
    values = list(value) if isinstance(value, list | tuple) else [value] * count
    if len(values) != count:
        raise TypeError(f"{len(values)} entries for {count} stages")
    return values


def _on_axes(sizes, axes, flat):
    """Sizes along the network's axes as sizes along the stored volume's axes."""
    if not isinstance(sizes, list | tuple):
        sizes = [sizes] * (2 if flat else 3)
    sizes = [1, *sizes] if flat else sizes
    return tuple(int(sizes[axis]) for axis in axes)


def _intensities(plans, stored, channels, path):
    """The fields of `Preprocessing` or of `PerVolume` for all channels."""
    schemes = stored["normalization_schemes"]
    each = [
        _of_scheme(plans, scheme, masked, str(number), path)
        for number, (scheme, masked) in enumerate(
            zip(schemes, stored["use_mask_for_norm"], strict=True)
        )
    ]
    if len(each) != len(channels):
        raise ValueError(
            f"{path} normalises {len(each)} channels, but dataset.json names {len(channels)}; copy "
            "nnU-Net's model folder again."
        )
    if all(one == each[0] for one in each):
        return each[0]
    if all("low" in one for one in each):
        return {name: tuple(one[name] for one in each) for name in each[0]}
    raise ValueError(
        f"{path}: channels are normalised in different ways ({', '.join(schemes)}; within a mask: "
        f"{', '.join(map(str, stored['use_mask_for_norm']))}), which cannot be imported; networks "
        f"with one way for all channels, or with {CLIPPED} for each, can."
    )


def _of_scheme(plans, scheme, masked, channel, path):
    """The fields of `Preprocessing` or of `PerVolume` for one channel."""
    if scheme in PER_VOLUME:
        return {
            "name": PER_VOLUME[scheme],
            "low_percentile": 0.0,
            "high_percentile": 100.0,
            "region": "nonzero" if masked and scheme == "ZScoreNormalization" else "box",
        }
    if scheme == CLIPPED:
        facts = plans["foreground_intensity_properties_per_channel"][channel]
        return {
            "low": facts["percentile_00_5"],
            "high": facts["percentile_99_5"],
            "shift": facts["mean"],
            "scale": 1 / max(facts["std"], 1e-8),
        }
    if scheme in FIXED:
        shift, scale = FIXED[scheme]
        return {"low": -UNCLIPPED, "high": UNCLIPPED, "shift": shift, "scale": scale}
    raise ValueError(
        f"{path}: intensities are normalised by {scheme}, which cannot be imported; "
        f"{', '.join([*PER_VOLUME, CLIPPED, *FIXED])} can."
    )
