"""What the page says of tuned steps."""

import re

from jax_seg.report import tuning
from tests.report_runs import altered, rows_of


def test_tuning_says_what_it_was_searched_on(runs):
    row = {"step": "threshold:value=0.5", "score": 0.5, "gain": 0.0}
    found = {
        "metric": "dice",
        "volumes": ["v0", "v1"],
        "judged_on": {"volumes": "training", "chose": ["checkpoint", "steps"]},
        "ablation": [row],
    }
    tuned = altered(runs[0], tuned=found)
    assert "The steps were chosen on 2 training volumes by" in tuning.steps([tuned])
    drawn = {"thresholds": []}
    assert "The curves of a are measured on 2 training volumes." in tuning.thresholds(
        [tuned], drawn
    )
    first = {"volume": "v0", "baseline": 0.5, "score": 0.6, "steps": []}
    found["held_out"] = [first | {"volumes": "held out", "chose": ["checkpoint"]}]
    text = tuning.steps([altered(runs[0], tuned=found)])
    assert "chosen on the others; all of them were used to choose the checkpoint." in text


def test_the_gain_of_tuned_steps_is_shown_for_volumes_held_out_of_the_search(runs):
    steps = ["hysteresis:low=0.2", "close"]
    tuned = {
        "metric": "competition",
        "volumes": ["v0", "v1"],
        "ablation": [
            {"step": "threshold:value=0.5", "score": 0.5, "gain": 0.0},
            {"step": steps[0], "score": 0.75, "gain": 0.25},
            {"step": steps[1], "score": 0.8, "gain": 0.05},
        ],
        "guard": [{"step": "open", "cost": 0.5, "refused": True}],
        "held_out": [
            {"volume": "v0", "baseline": 0.5, "score": 0.75, "steps": steps},
            {"volume": "v1", "baseline": 0.5, "score": 0.25, "steps": steps[:1]},
        ],
    }
    text = tuning.steps([altered(runs[0], tuned=tuned)])
    rows = rows_of(text)
    assert [row[1:3] for row in rows[:3]] == [
        ["0.5000", "+0.0000"],
        ["0.7500", "+0.2500"],
        ["0.8000", "+0.0500"],
    ]
    assert re.findall(r"width:([\d.]+)%", text) == ["0.0", "100.0", "20.0"]  # of the largest gain
    assert rows[3][1:4] == ["0.5000", "0.7500", "+0.2500"]
    assert rows[4][1:4] == ["0.5000", "0.2500", "−0.2500"]
    assert rows[5] == ["mean", "0.5000", "0.5000", "+0.0000", ""]
    assert "Rejected because they degrade a perfect prediction: 1" in text
