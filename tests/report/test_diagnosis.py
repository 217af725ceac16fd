"""What the page says of an examination."""

import types

import pytest

from jax_seg.report import diagnosis

FOUND = {
    "name": "loss.floor",
    "severity": "note",
    "says": "The floor is 0.2.",
    "advice": "Omit it.",
    "field": "loss",
}


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ([], "2 causes were looked for and not found."),
        ([FOUND], "1 other cause was looked for and not found."),
    ],
)
def test_what_was_ruled_out(found, sentence):
    run = types.SimpleNamespace(
        name="run",
        examined={"findings": found, "checked": ["loss.floor", "loss.biased"], "skipped": {}},
        of_kind=lambda kind: [],
    )
    assert sentence in diagnosis.section([run], {"diagnosis": []})
