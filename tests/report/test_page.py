"""The page as one file: of unfinished runs, of images, without addresses or markup from outside."""

import json
import re
import shutil

from jax_seg.report import page
from jax_seg.report.__main__ import main
from jax_seg.runs import run as opened
from jax_seg.system.files import write_json
from tests.report_runs import HOSTILE, make_run


def test_bad_folders_are_reported(tmp_path, data, capsys):
    assert main([str(tmp_path)]) == 1
    assert "neither config.json nor events.jsonl" in capsys.readouterr().err
    run = make_run(tmp_path / "run", data)
    assert main([str(run), str(run)]) == 1
    assert "twice" in capsys.readouterr().err
    (run / "scores.json").write_text("{")
    assert main([str(run)]) == 1
    assert "scores.json is not valid JSON" in capsys.readouterr().err
    assert not (run / "report.html").exists()


def test_an_unfinished_run_without_its_data_still_makes_a_page(tmp_path, data):
    run = make_run(tmp_path / "run", data, change=lambda c: c.data.update(root="/nowhere"))
    (run / "scores.json").unlink()
    shutil.rmtree(run / "validation")
    assert main([str(run)]) == 0
    assert main([str(run)]) == 0  # its own page is replaced
    text = (run / "report.html").read_text()
    assert "Not finished: 6 of 6 epochs done, validation loss 0.267" in text
    assert "/nowhere does not exist" in text
    assert "No volume can be shown" in text


def test_a_page_of_images_speaks_of_images(tmp_path, data):
    run = make_run(
        tmp_path / "run", data, change=lambda c: c.data.update(name="images", root="/nowhere")
    )
    assert main([str(run)]) == 0
    text = (run / "report.html").read_text()
    for words in ("Image by image", "Images by share of foreground", "Whole held-out images"):
        assert words in text
    assert "olume by volume" not in text and "held-out volume" not in text
    assert "averaged over images" in text and "averaged over volumes" not in text


def test_nothing_from_outside_becomes_markup(tmp_path, data):
    run = make_run(tmp_path / "run", data, hostile=True)
    (run / "validation" / "probabilities" / "v0.tif").rename(
        run / "validation" / "probabilities" / "a<b>&c.tif"
    )
    judged = json.loads((run / "validation" / "scores.json").read_text())
    judged["volumes"][HOSTILE] = judged["volumes"].pop("v0")
    write_json(run / "validation" / "scores.json", judged)
    text = page.make_page(opened.read_runs([run]))
    assert "<img" not in text and text.count("</script>") == 2
    embedded = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
    names = [point[2] for point in embedded["charts"]["foreground"][1]["series"][0]["points"]]
    assert HOSTILE in names
    assert "&lt;/script&gt;&lt;img" in text


def test_page_is_one_file_without_addresses(runs):
    text = page.make_page(runs)
    without_pictures = re.sub(r'"data:image/[^"]+"', "", text)
    assert not re.search(r'(src|href)=["\']?(?!["\']?(#|data:,))', without_pictures)
    assert set(re.findall(r"https?://[^\s\"]+", without_pictures)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"url\(|@import|fetch\(|XMLHttp", without_pictures)


def test_numbers_that_are_not_finite_become_null():
    assert page.as_script({"a": [float("nan"), 1.5], "b": "<&>"}) == (
        '{"a":[null,1.5],"b":"\\u003c\\u0026\\u003e"}'
    )
