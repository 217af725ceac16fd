"""Import networks from an nnU-Net v2 model folder; no code in its checkpoints is executed.

A model folder is what nnU-Net's training writes: plans.json, dataset.json, and a checkpoint in
fold_0, fold_1, … or fold_all. The state dict names most tensors two to four times: a block lists
its layers twice, and the decoder holds the encoder. Every tensor is used once,
is one of these copies, or is named in `Fold.unused`.
"""

import re
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_seg import models
from jax_seg.system.files import existing
from jax_seg.weights.nnunet_plans import NETWORKS, RESIDUAL, Plan, read_plan
from jax_seg.weights.tensors import fit
from jax_seg.weights.torch_checkpoint import read_checkpoint
from jax_seg.weights.unet import channels_last

CHECKPOINTS = ("final", "best")
USUAL = tuple(f"fold_{number}" for number in range(5))  # that nnU-Net trains and predicts with


class Fold(NamedTuple):
    """A network of a model folder.

    Attributes:
      name: of its folder, as 'fold_0'.
      plan: `Plan`.
      params: float32 parameters of the plan's model, which has a logit for each class.
      head: the last layer with all logits of nnU-Net's network: 'kernel' [C, K] and 'bias' [K].
      trainer: class that trained it.
      epoch: number of epochs that it was trained for.
      mirrored: axes of the stored volume along which nnU-Net averages over flips.
      unused: names of the tensors that are left out.
    """

    name: str
    plan: Plan
    params: dict
    head: dict
    trainer: str
    epoch: int
    mirrored: tuple
    unused: list


def is_model_folder(path):
    """Whether a path is a folder with nnU-Net's plans."""
    return (Path(path) / "plans.json").is_file()


def find_folds(folder, folds=(), checkpoint="final"):
    """The checkpoint of each fold: {name of the fold: path}.

    Args:
      folder: nnU-Net's model folder.
      folds: names without 'fold_', as '0' or 'all'; () for all that there are.
      checkpoint: of CHECKPOINTS.

    Raises:
      FileNotFoundError: there is no fold, or one has no such checkpoint.
      ValueError: there is a fold_all beside others, so one has to be chosen.
    """
    folder, file = Path(folder), f"checkpoint_{checkpoint}.pth"
    there = sorted(path.name for path in folder.glob("fold_*") if path.is_dir())
    wanted = [f"fold_{name}" for name in folds] or there
    if missing := [name for name in wanted if name not in there]:
        raise FileNotFoundError(
            f"{folder} has no {', '.join(missing)}; it has {', '.join(there) or 'no fold'}: choose "
            "with --folds."
        )
    if not wanted:
        raise FileNotFoundError(
            f"{folder} has no folder fold_0, …, fold_4 or fold_all with a checkpoint; name the "
            "folder that holds plans.json, dataset.json and these."
        )
    if "fold_all" in wanted and len(wanted) > 1:
        raise ValueError(
            f"{folder} has {', '.join(wanted)}: fold_all was trained on all volumes, the others "
            "hold some out; choose with --folds."
        )
    paths = {name: folder / name / file for name in wanted}
    if absent := [name for name, path in paths.items() if not path.is_file()]:
        held = sorted(path.name for path in (folder / absent[0]).glob("checkpoint_*.pth"))
        raise FileNotFoundError(
            f"{folder / absent[0]} has no {file}; it has {', '.join(held) or 'no checkpoint'}: "
            "finish its training, or choose with --checkpoint or --folds."
        )
    return paths


def read_fold(path):
    """The `Fold` of a checkpoint.

    Args:
      path: MODEL_FOLDER/fold_X/checkpoint_Y.pth.

    Raises:
      FileNotFoundError, ValueError: a file is missing, damaged, or of a network that this project
        has not; the sentence names it.
    """
    path = existing(path)
    arrays, beside = read_checkpoint(path)
    trainer = str(beside.get("trainer_name", "unknown trainer"))
    arguments = beside.get("init_args") or {}
    plan = read_plan(path.parent.parent, arguments.get("configuration", "3d_fullres"))
    arrays, unused = _canonical(path, arrays)
    head = _head(path, arrays, plan)
    arrays, more = _folded(path, arrays, plan)
    model = models.build(NETWORKS[plan.network], **plan.fields)
    x = jnp.zeros((1, *model.smallest_input(), model.in_channels))
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    poolings, strides = plan.fields["poolings"], plan.fields["strides"]
    if not plan.bias:
        arrays |= _zero_biases(arrays)
    params = fit(
        path,
        arrays,
        shapes,
        name_of=lambda leaf: _torch_name(leaf, poolings, strides, plan.network == RESIDUAL),
        channels_last=lambda name, array, axes: _on_axes(name, array, axes, plan.axes),
        what=f"the {plan.network} of plans.json (trained by {trainer}, configuration "
        f"{plan.configuration})",
    )
    allowed = beside.get("inference_allowed_mirroring_axes") or ()
    flat = any(".conv." in name and array.ndim == 4 for name, array in arrays.items())
    return Fold(
        path.parent.name,
        plan,
        params,
        head,
        trainer,
        int(beside.get("current_epoch") or 0),
        tuple(sorted(plan.axes.index(axis + flat) for axis in allowed)),
        sorted([*unused, *more]),
    )


def _canonical(path, arrays):
    """({name: array} without the copies, names of the copies); ValueError where a copy differs."""
    kept, copies = {}, []
    for name, array in arrays.items():
        first = re.sub(r"^decoder\.encoder\.", "encoder.", name)
        first = re.sub(r"\.all_modules\.0\.", ".conv.", first)
        first = re.sub(r"\.all_modules\.\d\.", ".norm.", first)
        if first == name or first not in arrays:
            kept[name] = array
        elif not np.array_equal(arrays[first], array):
            raise ValueError(
                f"{path}: tensors '{first}' and '{name}' should be one and differ; save the "
                "checkpoint again with nnU-Net."
            )
        else:
            copies.append(name)
    return kept, copies


def _head(path, arrays, plan):
    """The last layer as it is; ValueError where there is none."""
    name = f"decoder.seg_layers.{plan.fields['poolings'] - 1}"
    try:
        kernel, bias = arrays[f"{name}.weight"], arrays[f"{name}.bias"]
    except KeyError as error:
        raise ValueError(
            f"{path} has no tensor {error}, so it does not fit the {plan.network} of plans.json."
        ) from error
    return {
        "kernel": np.asarray(kernel, np.float32).reshape(kernel.shape[:2]).T,
        "bias": np.asarray(bias, np.float32),
    }


def _folded(path, arrays, plan):
    """Logits less that of the background, whose softmax is the same; and the heads without weight.

    Returns:
      ({name: array}, names of the tensors that are left out).
    """
    poolings = plan.fields["poolings"]
    used = {poolings - 1 - level for level in range(plan.fields["deep_supervision"] + 1)}
    result, unused = {}, []
    for name, array in arrays.items():
        head = re.fullmatch(r"decoder\.seg_layers\.(\d+)\.(?:weight|bias)", name)
        if head and int(head[1]) not in used and int(head[1]) < poolings:
            unused.append(name)
            continue
        if head:
            if len(array) != plan.heads:
                raise ValueError(
                    f"{path}: tensor '{name}' has {len(array)} classes, but dataset.json describes "
                    f"{plan.heads}: copy the file that belongs to this network."
                )
            array = np.asarray(array, np.float32)
            array = (
                array[1:] - array[:1]
                if plan.heads > max(len(plan.labels.get("classes", ())), 1)
                else array
            )
        result[name] = array
    return result, unused


def _zero_biases(arrays):
    """Biases of zero for the convolutions of a network without any."""
    return {
        name.removesuffix("weight") + "bias": np.zeros(
            array.shape[1 if ".transpconvs." in name else 0], np.float32
        )
        for name, array in arrays.items()
        if re.search(r"(\.conv|\.transpconvs\.\d+)\.weight$", name) and ".skip." not in name
    }


def _torch_name(tree_path, poolings, strides, residual):
    """The name in nnU-Net's state dict of a leaf of the parameters."""
    name = jax.tree_util.keystr(tree_path, simple=True, separator=".")
    name = name.replace("bottleneck.", f"encoder_{poolings}.")
    name = re.sub(r"\.gain$", ".norm.weight", name)
    name = re.sub(r"\.offset$", ".norm.bias", name)
    layer = r"(?<!norm)\.(kernel|bias)$"
    leaf = {"kernel": "weight", "bias": "bias"}
    if re.match(r"(up|output|head)", name):
        name = re.sub(r"^up_(\d+)", r"decoder.transpconvs.\1", name)
        name = re.sub(r"^output", f"decoder.seg_layers.{poolings - 1}", name)
        name = re.sub(
            r"^head_(\d+)", lambda m: f"decoder.seg_layers.{poolings - 1 - int(m[1])}", name
        )
        return re.sub(layer, lambda m: f".{leaf[m[1]]}", name)
    name = re.sub(layer, lambda m: f".conv.{leaf[m[1]]}", name)
    name = re.sub(r"^stem", "encoder.stem.convs.0", name)
    name = re.sub(r"^decoder_(\d+)\.conv_(\d+)", r"decoder.stages.\1.convs.\2", name)
    if not residual:
        return re.sub(r"^encoder_(\d+)\.conv_(\d+)", r"encoder.stages.\1.0.convs.\2", name)
    name = re.sub(
        r"^encoder_(\d+)\.block_(\d+)\.conv_(\d)",
        lambda m: f"encoder.stages.{m[1]}.blocks.{m[2]}.conv{int(m[3]) + 1}",
        name,
    )

    def skip(m):  # the mean over windows, which only a strided block has, comes first
        strided = m[2] == "0" and max(strides[int(m[1])]) > 1
        return f"encoder.stages.{m[1]}.blocks.{m[2]}.skip.{int(strided)}"

    return re.sub(r"^encoder_(\d+)\.block_(\d+)\.skip", skip, name)


def _on_axes(name, array, wanted_axes, axes):
    """A tensor with its axes in this project's order: the stored volume's, channels last."""
    if array.ndim < 2:
        return array
    if array.ndim == 4:  # of a 2-D network, which sees one slice
        array = array[:, :, None]
    array = array.transpose(0, 1, *(2 + axis for axis in axes))
    return channels_last(array, transposed=".transpconvs." in name, pointwise=wanted_axes == 2)
