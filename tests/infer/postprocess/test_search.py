"""What the search remembers: scores of the programs as they are now, and of no others."""

import shutil

import pytest

from jax_seg.infer.postprocess import search


@pytest.mark.parametrize(
    "file", ["infer/postprocess/components.py", "metrics/competition.py", "ops/components.py"]
)
def test_other_programs_have_another_fingerprint(tmp_path, file):
    for folder in search.PROGRAMS:
        shutil.copytree(
            search.PACKAGE / folder,
            tmp_path / folder,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    before = search.code_fingerprint(tmp_path)
    assert before == search.code_fingerprint(search.PACKAGE)
    (tmp_path / "infer" / "notes.txt").write_text("no program")
    assert search.code_fingerprint(tmp_path) == before
    with (tmp_path / file).open("a") as program:
        program.write("\n# changed\n")
    assert search.code_fingerprint(tmp_path) != before
