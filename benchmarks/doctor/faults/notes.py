"""Faults of the original program that its notes tell of, as they were.

Its other faults are planted beside their kind: unlabelled voxels as foreground and folds that split
scrolls (`labels`, `volumes`), the variance term of v5 and class weights the wrong way round
(`loss`), a second sigmoid (`network`), interventions without a limit (`optimization`), an opening
that erases sheets (`judging`).
"""

from benchmarks.doctor.faults.network import rewrite
from benchmarks.doctor.setups import Fault, changed
from jax_seg.replay import WIRING


def computed_regardless(setup, _):
    """What it computed whatever its configuration said; its labels are planted elsewhere."""
    fields = {k: v for k, v in WIRING.items() if not k.startswith("data.")}
    fields |= {"loss.weights.dice": 0.4, "loss.weights.focal": 0.25}
    return changed(setup, **fields, **{"loss.weights.cross_entropy": 0.0})


def one_patch_decides(setup, _):
    """A random patch per volume was validated; three worse epochs led to an intervention."""
    fields = {"plateau.worse_epochs": 3, "plateau.rule": "escape", "plateau.noise_factor": 0.0}
    return changed(setup, **fields, **{"validate.patches_per_volume": 1})


def divided_by_255(setup, _):
    """Trained on percentiles scaled to [0, 1], predicted from intensities divided by 255."""

    def change(loop):
        loop["preprocessing"] = {"low": 0.0, "high": 255.0, "shift": 0.0, "scale": 1 / 255}

    return setup._replace(after=(rewrite(change, of="loop"),))


FAULTS = (
    Fault("loss.floor", "what the original computed regardless", computed_regardless),
    Fault("control.acts_on_noise", "one patch of each volume decides", one_patch_decides),
    Fault("preprocess.skew", "prediction divides by 255", divided_by_255, trains=True),
)
