"""Predictions and labels of two folders, matched by their names."""

import pytest

from jax_seg.data.images import find_images
from jax_seg.tasks.folders import score_folders


def write(folder, names):
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    return folder


def test_every_file_of_either_folder_is_scored_or_named(tmp_path):
    maps = write(tmp_path / "maps", ["a.png", "b.png", "d.jpg"])
    masks = write(tmp_path / "masks", ["a.png", "c.png", "d.png"])

    def score(prediction, label):
        if prediction.stem == "d":
            raise ValueError("d has another size.")
        return prediction.parent.name, label.parent.name

    found = list(score_folders(maps, masks, find_images, ("map", "mask"), score))
    assert [one.id for one, _ in found] == ["a", "b", "c", "d"]
    a, b, c, d = (result for _, result in found)
    assert a == ("maps", "masks") and str(d) == "d has another size."
    assert str(b) == f"{maps / 'b.png'} has no mask in {masks}: add it, or move this file away."
    assert str(c) == f"{masks / 'c.png'} has no map in {maps}: predict it too."
    with pytest.raises(ValueError, match="is given for the maps and for the masks"):
        next(score_folders(maps, maps, find_images, ("map", "mask"), score))
