"""The layouts that users have, and every way in which they do not fit together."""

import re
import unicodedata
import warnings

import numpy as np
import pytest
import tifffile
import zarr

from jax_seg.data.folder import Volume, find_images, find_volumes
from tests.conftest import SHARED

MEMBRANE = SHARED / "data/membrane3d"


def touch(root, *names):
    """Finding looks at names only, so empty files do."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def competition(root, ids=("b", "a", "c")):
    touch(root, *(f"train_{kind}/{id}.tif" for kind in ("images", "labels") for id in ids))


def ids(volumes):
    return [volume.id for volume in volumes]


def test_competition_layout_with_table(tmp_path):
    competition(tmp_path)
    (tmp_path / "train.csv").write_text("\ufeffid, scroll_id\nc, 2\na, 1\nb, 2\n", "utf-8")
    images, labels = tmp_path / "train_images", tmp_path / "train_labels"
    assert find_volumes(str(tmp_path)) == [
        Volume("a", images / "a.tif", labels / "a.tif", "1"),
        Volume("b", images / "b.tif", labels / "b.tif", "2"),
        Volume("c", images / "c.tif", labels / "c.tif", "2"),
    ]


def test_without_table_a_volume_is_its_own_scroll(tmp_path):
    competition(tmp_path)
    assert [v.scroll_id for v in find_volumes(tmp_path)] == ["a", "b", "c"]


def test_every_extension_and_no_hidden_files(tmp_path):
    names = ["a.tif", "b.TIFF", "c.zarr", "d.ome.zarr", "e.ome.tif"]
    touch(tmp_path, "images/._a.tif", "images/Thumbs.db", "labels/._a.tif", "labels/desktop.ini")
    touch(tmp_path, *(f"images/{name}" for name in names))
    touch(tmp_path, *(f"labels/{name[0]}.tif" for name in names))
    found = find_volumes(tmp_path)
    assert ids(found) == ["a", "b", "c", "d", "e"]
    assert found[3].image.name == "d.ome.zarr"
    assert found[3].label.name == "d.tif"


def test_nnunet_layout(tmp_path):
    touch(tmp_path, "imagesTr/la_003_0000.tif", "labelsTr/la_003.tif", "imagesTs/x_0000.tif")
    assert ids(find_volumes(tmp_path)) == ["la_003"]
    assert ids(find_images(tmp_path / "imagesTs")) == ["x"]
    # Of a network of nnU-Net every folder is like these; numbered volumes stay what they are.
    touch(tmp_path, "val/y_0000.tif", "slabs/s_0001.tif", "slabs/s_0002.tif")
    assert ids(find_images(tmp_path / "val", nnunet=True)) == ["y"]
    assert ids(find_images(tmp_path / "slabs", nnunet=True)) == ["s_0001", "s_0002"]


def test_suffix_0000_stays_elsewhere(tmp_path):
    touch(tmp_path, "images/x_0000.tif", "labels/x_0000.tif")
    assert ids(find_volumes(tmp_path)) == ["x_0000"]


def test_folders_and_table_by_name(tmp_path):
    competition(tmp_path / "other")
    touch(tmp_path, "scans/a.tif", "masks/a.tif")
    (tmp_path / "scrolls.csv").write_text("scroll_id,extra,id\n7,x,a\n")
    found = find_volumes(tmp_path, "scans", tmp_path / "masks", "scrolls.csv")
    assert found == [Volume("a", tmp_path / "scans/a.tif", tmp_path / "masks/a.tif", "7")]


@pytest.mark.skipif(not MEMBRANE.exists(), reason="the example volumes are not here")
def test_example_volumes():
    found = find_volumes(MEMBRANE)
    assert len(found) == 12
    assert found[3][0::3] == ("700548", "vnc1")


def test_missing_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        find_volumes(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"none of the folder pairs .*images\+labels"):
        find_volumes(tmp_path)
    with pytest.raises(FileNotFoundError, match="scans does not exist"):
        find_volumes(tmp_path, "scans", "masks")
    with pytest.raises(ValueError, match="set both, or neither"):
        find_volumes(tmp_path, images="scans")


def test_two_layouts(tmp_path):
    competition(tmp_path)
    touch(tmp_path, "images/a.tif", "labels/a.tif")
    message = r"several folder pairs, train_images\+train_labels, images\+labels"
    with pytest.raises(ValueError, match=message):
        find_volumes(tmp_path)
    assert len(find_volumes(tmp_path, "images", "labels")) == 1


def test_empty_folder(tmp_path):
    touch(tmp_path, "images/notes.txt", "labels/a.tif")
    with pytest.raises(FileNotFoundError, match=r"images holds no volume: put \.tif"):
        find_volumes(tmp_path)


def test_image_without_label(tmp_path):
    competition(tmp_path)
    touch(tmp_path, *(f"train_images/{n}.tif" for n in range(7)))
    message = r"train_images has 7 ids \(0, 1, 2, 3, 4, …\) without a label in .*train_labels"
    with pytest.raises(ValueError, match=message):
        find_volumes(tmp_path)


def test_label_without_image(tmp_path):
    competition(tmp_path)
    touch(tmp_path, "train_labels/d.tif")
    with pytest.raises(ValueError, match=r"train_labels has 1 id \(d\) without an image"):
        find_volumes(tmp_path)


def test_duplicate_id(tmp_path):
    competition(tmp_path)
    touch(tmp_path, "train_images/a.zarr")
    with pytest.raises(ValueError, match=r"train_images has 1 id \(a\) more than once"):
        find_volumes(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,scroll\na,1\n", "train.csv has no column scroll_id:"),
        ("", "train.csv has no column id and no column scroll_id:"),
        ("id,scroll_id\na,1\nb,1\nc,1\nd,1\n", "train.csv has 1 id (d) without an image"),
        ("id,scroll_id\na,1\nb,1\n", "train.csv has no row for 1 id (c)"),
        ("id,scroll_id\na,1\nb,1\nc,1\nc,2\n", "train.csv has 1 id (c) in several rows"),
        ("id,scroll_id\na,1\nb,\nc,1\n", "train.csv has a row ('b', '') without id or scroll_id"),
        ("id,scroll_id\na,1\nb\nc,1\n", "train.csv has a row ('b', '') without id or scroll_id"),
    ],
)
def test_table_that_does_not_fit(tmp_path, text, message):
    competition(tmp_path)
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        find_volumes(tmp_path)


def test_table_by_name_is_missing(tmp_path):
    competition(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"scrolls\.csv does not exist"):
        find_volumes(tmp_path, table="scrolls.csv")


def test_find_images(tmp_path):
    touch(tmp_path, "scans/b.tif", "scans/a.tif")
    zarr.create_array(tmp_path / "whole.zarr/level0", data=np.zeros((2, 3, 4), np.uint8))
    tifffile.imwrite(tmp_path / "c.tif", np.zeros((2, 3, 4), np.uint8))
    a = Volume("a", tmp_path / "scans/a.tif", None, "a")
    b = Volume("b", tmp_path / "scans/b.tif", None, "b")
    c = Volume("c", tmp_path / "c.tif", None, "c")
    level0 = Volume("level0", tmp_path / "whole.zarr/level0", None, "level0")
    assert find_images(tmp_path / "scans") == [a, b]
    assert find_images(str(tmp_path / "c.tif")) == [c]
    assert find_images(level0.image) == [level0]
    assert find_images([tmp_path / "c.tif", tmp_path / "scans", str(level0.image)]) == [
        a,
        b,
        c,
        level0,
    ]


def test_find_images_errors(tmp_path):
    touch(tmp_path, "one/a.tif", "two/a.tif", "none/notes.txt")
    with pytest.raises(FileNotFoundError, match=r"b\.tif does not exist"):
        find_images([tmp_path / "one/a.tif", tmp_path / "b.tif"])
    with pytest.raises(FileNotFoundError, match="none holds no volume"):
        find_images(tmp_path / "none")
    with pytest.raises(ValueError, match="list of images is empty"):
        find_images([])
    both = re.escape(f"{tmp_path / 'one/a.tif'} and {tmp_path / 'two/a.tif'}")
    with pytest.raises(ValueError, match=rf"1 id \(a\) more than once, as {both}: keep"):
        find_images([tmp_path / "one", tmp_path / "two"])


@pytest.fixture(autouse=True)
def no_warnings():
    """What is clear is found without a word."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def test_what_is_not_read_is_counted_and_named(tmp_path):
    touch(tmp_path, "images/a.tif", "labels/a.tif", "images/.DS_Store", "images/a.json")
    find_volumes(tmp_path)  # a.json says how predict made a.tif
    touch(tmp_path, "images/b.mha", "images/c.npy", "images/d.zarr.zip", "images/b.json")
    touch(tmp_path, *(f"images/scroll/{number:05}.tif" for number in range(3)))
    names = r"images holds 5 entries that are not read as volumes"
    with pytest.warns(UserWarning, match=rf"{names} \(b.json, b.mha, c.npy, d.zarr.zip, scroll\)"):
        assert ids(find_volumes(tmp_path)) == ["a"]
    with pytest.warns(UserWarning, match=names):
        assert ids(find_images(tmp_path / "images")) == ["a"]
    touch(tmp_path, "images/e.txt", "labels/b.npy")
    with pytest.warns(UserWarning) as caught:
        find_volumes(tmp_path)
    assert "holds 6 entries" in str(caught[0].message) and "…)" in str(caught[0].message)
    assert "labels holds 1 entry that is not read as volumes (b.npy)" in str(caught[1].message)


def test_an_empty_folder_names_what_it_holds(tmp_path):
    touch(tmp_path, "images/a.mha", "labels/a.tif")
    with pytest.raises(FileNotFoundError, match=r"volumes there in place of a\.mha, or name"):
        find_volumes(tmp_path)


def test_a_zarr_array_needs_no_zarr_in_its_name(tmp_path):
    touch(tmp_path, "images/a.tif", "labels/a.tif", "labels/b.tif")
    zarr.create_array(tmp_path / "images/b", data=np.zeros((2, 3, 4), np.uint8), zarr_format=2)
    assert ids(find_volumes(tmp_path)) == ["a", "b"]


def test_inside_a_zarr_volume_a_dot_is_the_volume(tmp_path, monkeypatch):
    zarr.create_array(tmp_path / "scroll.zarr", data=np.zeros((2, 3, 4), np.uint8))
    monkeypatch.chdir(tmp_path / "scroll.zarr")
    assert ids(find_images(".")) == ["scroll"]
    (tmp_path / "scroll.zarr/c").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "scroll.zarr/c")
    assert ids(find_images("..")) == ["scroll"]


def test_nnunets_suffix_goes_by_the_folder_however_it_is_named(tmp_path, monkeypatch):
    touch(tmp_path, "imagesTs/x_0000.tif")
    monkeypatch.chdir(tmp_path / "imagesTs")
    assert ids(find_images(".")) == ids(find_images("x_0000.tif")) == ["x"]


def test_one_folder_for_images_and_labels(tmp_path):
    competition(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "train_images")
    for labels in ("train_images", "train_images/../train_images", "link"):
        with pytest.raises(
            ValueError, match="is given for the images and for the labels: name two"
        ):
            find_volumes(tmp_path, "train_images", labels)


def test_letters_with_accents_are_one_name_however_they_are_composed(tmp_path):
    """macOS takes them apart, most other programs do not."""
    composed, decomposed = (unicodedata.normalize(form, "rouleau é") for form in ("NFC", "NFD"))
    assert composed != decomposed
    touch(tmp_path, f"images/{decomposed}.tif", f"labels/{composed}.tif", "images/b .tif")
    touch(tmp_path, "labels/b.tif")
    (tmp_path / "train.csv").write_text(f"id,scroll_id\n{decomposed} ,{composed}\nb,{decomposed}\n")
    found = find_volumes(tmp_path)
    assert [(volume.id, volume.scroll_id) for volume in found] == [
        ("b", composed),
        (composed, composed),
    ]
    assert find_images(tmp_path / "images")[1].id == composed


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("7.tif", "0007.tif"),
        ("scroll 1.tif", "Scroll_01.tif"),
        ("a_0000.tif", "a.tif"),
        ("a.nii.gz.tif", "a.tif"),
    ],
)
def test_ids_that_are_nearly_alike_are_shown_side_by_side(tmp_path, image, label):
    touch(tmp_path, f"images/{image}", f"labels/{label}")
    pair = f"spell ids differently, '{image[:-4]}' and '{label[:-4]}': give each image"
    with pytest.raises(ValueError, match=pair):
        find_volumes(tmp_path)


def ome_tiff(folder, names=("a.ome.tif", "b.ome.tif"), attribute="FileName"):
    """An OME-TIFF of two slices in each of its files; every file's metadata names all."""
    places = "".join(
        f'<TiffData IFD="{z % 2}" FirstZ="{z}" PlaneCount="1">'
        f'<UUID {attribute}="{names[z // 2]}">urn:uuid:{z // 2}</UUID></TiffData>'
        for z in range(2 * len(names))
    )
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        description = (
            '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:uuid:{number}"><Image ID="Image:0"><Pixels ID="Pixels:0" '
            f'DimensionOrder="XYZCT" Type="uint8" SizeX="8" SizeY="6" SizeZ="{2 * len(names)}" '
            f'SizeC="1" SizeT="1"><Channel ID="Channel:0"/>{places}</Pixels></Image></OME>'
        )
        with tifffile.TiffWriter(folder / name) as writer:
            for text in (description, None):
                page = np.full((6, 8), number, np.uint8)
                writer.write(page, description=text, metadata=None, photometric="minisblack")


def test_an_ome_tiff_in_several_files_is_not_several_volumes(tmp_path):
    ome_tiff(tmp_path / "images")
    assert tifffile.imread(tmp_path / "images/a.ome.tif").shape == (4, 6, 8)  # the whole, from each
    touch(tmp_path, "labels/a.tif", "labels/b.tif")
    message = r"a\.ome\.tif and .*b\.ome\.tif are parts of one OME-TIFF of 2 files"
    for find in (
        lambda: find_volumes(tmp_path),
        lambda: find_images(tmp_path / "images"),
        lambda: find_images([tmp_path / "images/b.ome.tif", tmp_path / "images/a.ome.tif"]),
    ):
        with pytest.raises(
            ValueError, match=message.replace("a\\", "[ab]\\").replace("b\\", "[ab]\\")
        ):
            find()
    assert ids(find_images(tmp_path / "images/a.ome.tif")) == ["a"]
    ome_tiff(tmp_path / "alone", names=("c.ome.tif",))  # names itself alone
    ome_tiff(tmp_path / "alone", names=("d.ome.tif",))
    assert ids(find_images(tmp_path / "alone")) == ["c", "d"]
