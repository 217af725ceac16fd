"""Folders of nnU-Net: what is read of them, and which are refused."""

import json
import shutil

import jax
import numpy as np
import pytest

from jax_seg import convert
from jax_seg.runs import together
from jax_seg.weights import nnunet, nnunet_plans
from jax_seg.weights.nnunet_plans import read_plan
from tests.nnunet_folders import FOLDERS, edited, fold_of
from tests.torch_files import state_dict, torch_save


def test_every_tensor_is_used_or_named():
    """Parameters and the tensors left out are all that the file holds."""
    folder = FOLDERS / "turned"
    fold = fold_of(folder)
    arrays, _ = nnunet.read_checkpoint(folder / "fold_0" / "checkpoint_final.pth")
    used = arrays.keys() - set(fold.unused)
    own = sum(arrays[name].size for name in used)
    folded = 4 + 1  # two logits of 4 channels became one; convolutions without bias have zeros
    biases = sum(
        a.size
        for path, a in jax.tree_util.tree_leaves_with_path(fold.params)
        if path[-1].key == "bias" and not np.asarray(a).any()
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(fold.params)) == own - folded + biases
    assert "decoder.seg_layers.0.weight" in fold.unused
    assert "decoder.encoder.stem.convs.0.conv.weight" in fold.unused


@pytest.mark.parametrize(
    ("labels", "order", "stored"),
    [
        ({"background": 0, "sheet": 1}, None, {}),
        ({"background": 0, "sheet": [1, 2]}, [1], {"foreground": (1, 2), "ignore": ()}),
        ({"background": 0, "a": 1, "ignore": 3}, None, {"foreground": (1,), "ignore": (3,)}),
        (
            {"background": 0, "b": 2, "a": 1, "ignore": 3},
            None,
            {"classes": ("a=1", "b=2"), "ignore": (3,)},
        ),
    ],
)
def test_what_label_values_mean_is_kept(labels, order, stored):
    dataset = {"labels": labels} | ({"regions_class_order": order} if order else {})
    assert nnunet_plans._classes(dataset, "dataset.json")[1] == stored


def refused(folder, tmp_path, capsys, *flags):
    """The sentence with which the command refuses a folder; nothing is left."""
    assert convert.main([str(folder), str(tmp_path / "run"), *flags]) == 1
    told = capsys.readouterr().err
    assert told.startswith("Error: ") and told.count("\n") == 1
    assert not (tmp_path / "run").exists()
    return told


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"dataset": {"labels": {"background": 0, "a": 1, "b": 2}}}, "2 classes, but .* 3"),
        ({"dataset": {"labels": {"background": 0}}}, "names no class beside the background"),
        (
            {"dataset": {"labels": {"a": [1, 2], "b": [3, 4]}, "regions_class_order": [1, 3]}},
            "the regions a, b share no label value",
        ),
        (
            {"dataset": {"labels": {"all": [1, 2], "b": 2}, "regions_class_order": [3, 2]}},
            "regions_class_order is [3, 2], which has to name a value of each region (all [1, 2]",
        ),
        (
            {"dataset": {"channel_names": {"0": "T1", "1": "T2"}}},
            "normalises 1 channels, but dataset.json names 2",
        ),
        (
            {
                "dataset": {"channel_names": {"0": "CT", "1": "MRI"}},
                "configuration": {
                    "normalization_schemes": ["NoNormalization", "ZScoreNormalization"],
                    "use_mask_for_norm": [False, True],
                },
            },
            "in different ways (NoNormalization, ZScoreNormalization; within a mask: False, True)",
        ),
        (
            {"architecture": {"network_class_name": "mamba.UMambaBot"}},
            "the network is a UMambaBot, which cannot be imported",
        ),
        ({"plans": {"configurations": {}}}, "no configuration '2d'"),
        (
            {"plans": {"image_reader_writer": "NibabelIOWithReorient"}},
            "files are read by NibabelIOWithReorient, which may turn volumes",
        ),
        (
            {"plans": {"image_reader_writer": "NaturalImage2DIO"}},
            "files are read by NaturalImage2DIO, which may turn volumes or reads pictures",
        ),
        (
            {"configuration": {"resampling_fn_data": "resample_torch_fornnunet"}},
            "resampling_fn_data is resample_torch_fornnunet, which cannot be imported",
        ),
        (
            {"plans": {"configurations": {"2d": {"previous_stage": "3d_lowres"}}}},
            "second stage of a cascade",
        ),
        ({"plans": {"configurations": {"2d": {"patch_size": [16, 24]}}}}, "lacks an entry"),
    ],
)
def test_folders_that_are_refused(tmp_path, capsys, change, named):
    told = refused(edited("flat", tmp_path, **change), tmp_path, capsys)
    first, _, second = named.partition(" .* ")
    assert first in told and second in told


def test_a_network_that_the_plans_do_not_describe_is_refused(tmp_path, capsys):
    folder = edited("flat", tmp_path)
    arrays, beside = nnunet.read_checkpoint(folder / "fold_0" / "checkpoint_final.pth")
    arrays["mamba.A_log"] = np.ones(3, np.float32)
    beside = {"init_args": {"configuration": "2d"}, "trainer_name": "nnUNetTrainerUMamba"}
    torch_save(
        folder / "fold_0" / "checkpoint_final.pth",
        {"network_weights": state_dict(arrays), **beside},
    )
    told = refused(folder, tmp_path, capsys)
    assert "nnUNetTrainerUMamba" in told and "unexpected mamba.A_log" in told


def test_half_precision_weights_are_read_and_copies_must_agree(tmp_path, capsys):
    folder = edited("flat", tmp_path)
    path = folder / "fold_0" / "checkpoint_final.pth"
    exact = fold_of(folder).params
    arrays, _ = nnunet.read_checkpoint(path)
    halved = {name: array.astype(np.float16) for name, array in arrays.items()}
    content = {"network_weights": state_dict(halved), "init_args": {"configuration": "2d"}}
    torch_save(path, content)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-3),
        fold_of(folder).params,
        exact,
    )
    halved["decoder.encoder.stages.0.0.convs.0.conv.bias"] += 1
    torch_save(path, content | {"network_weights": state_dict(halved)})
    assert "should be one and differ" in refused(folder, tmp_path, capsys)


def test_folds(tmp_path, capsys):
    folder = edited("flat", tmp_path)
    shutil.copytree(folder / "fold_0", folder / "fold_3")
    assert convert.main([str(folder), str(tmp_path / "both")]) == 0
    told = capsys.readouterr().out
    assert f"--workdir {tmp_path / 'both'} --" in told
    assert "has no fold_1, fold_2, fold_4" in told
    # Its patches are slices, which are not turned out of their plane.
    assert "--config.augment.in_plane_only=True --config.data.root=FOLDER" in told
    _, networks, _ = together.load([str(tmp_path / "both" / f"fold_{number}") for number in (0, 3)])
    assert [network.facts["patch"] for network in networks] == [[1, 16, 24]] * 2
    assert "no fold_1" in refused(folder, tmp_path, capsys, "--folds", "1")
    assert "has no checkpoint_best.pth" in refused(folder, tmp_path, capsys, "--checkpoint", "best")
    (folder / "fold_3").rename(folder / "fold_all")
    assert "choose with --folds" in refused(folder, tmp_path, capsys)
    shutil.rmtree(folder / "fold_0")
    shutil.rmtree(folder / "fold_all")
    assert "no folder fold_0" in refused(folder, tmp_path, capsys)
    assert "--patch is for weights files" in refused(
        folder, tmp_path, capsys, "--patch", "1", "16", "16"
    )
    (folder / "plans.json").unlink()
    assert "holds no plans.json" in refused(folder, tmp_path, capsys)


def test_plans_of_older_versions_mean_the_same(tmp_path):
    """Before version 2.5 the network was described by fields of the configuration."""
    folder = edited("turned", tmp_path)
    content = json.loads((folder / "plans.json").read_text())
    new = content["configurations"]["3d_fullres"]
    arguments = new.pop("architecture")["arch_kwargs"]
    old = {
        "UNet_class_name": "ResidualEncoderUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 8,
        "conv_kernel_sizes": arguments["kernel_sizes"],
        "pool_op_kernel_sizes": arguments["strides"],
        "n_conv_per_stage_encoder": arguments["n_blocks_per_stage"],
        "n_conv_per_stage_decoder": arguments["n_conv_per_stage_decoder"],
    }
    content["configurations"] = {"base": new | old, "3d_fullres": {"inherits_from": "base"}}
    (folder / "plans.json").write_text(json.dumps(content))
    before, now = (read_plan(f, "3d_fullres") for f in (FOLDERS / "turned", folder))
    same = {"filters": 4, "features": (4, 8, 8)}
    assert now == before._replace(fields=before.fields | same, bias=True)


def test_a_region_has_one_logit_already(tmp_path):
    """A network of one region, trained with a sigmoid: its logit is used as it is."""
    regions = {"labels": {"background": 0, "sheet": [1, 2]}, "regions_class_order": [1]}
    folder = edited("flat", tmp_path, dataset=regions)
    path = folder / "fold_0" / "checkpoint_final.pth"
    arrays, _ = nnunet.read_checkpoint(path)
    for name in [name for name in arrays if ".seg_layers." in name]:
        arrays[name] = arrays[name][1:] - arrays[name][:1]
    content = {"network_weights": state_dict(arrays), "init_args": {"configuration": "2d"}}
    torch_save(path, content)
    fold = fold_of(folder)
    assert fold.plan.heads == 1 and fold.head["kernel"].shape == (4, 1)
    jax.tree.map(np.testing.assert_array_equal, fold.params, fold_of(FOLDERS / "flat").params)
