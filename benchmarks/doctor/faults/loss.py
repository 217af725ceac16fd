"""Faults of the loss: weights and options, on healthy data."""

from benchmarks.doctor.setups import Fault, changed


def _loss(setup, options=None, **weights):
    """`setup` with these terms alone, and options of the loss."""
    plain = dict.fromkeys(setup.config.loss.weights, 0.0) | weights
    fields = {f"loss.weights.{name}": weight for name, weight in plain.items()}
    return changed(setup, **fields, **{f"loss.{n}": v for n, v in (options or {}).items()})


def variance_as_in_v5(setup, generator):
    """The loss of v5 of the notes, whose variance term had weight 0.5."""
    options = {"focal_alpha": 0.4, "background_weight": 1.0, "foreground_weight": 2.0}
    variance = generator.uniform(0.4, 0.6)
    return _loss(setup, options, dice=0.3, focal=0.15, variance=variance, boundary=0.05)


def entropy_near_its_maximum(setup, generator):
    """A penalty on certainty up to nearly the entropy of a coin, log 2."""
    options = {"entropy_target_entropy": generator.uniform(0.64, 0.69)}
    return _loss(
        setup, options, dice=0.5, cross_entropy=0.5, entropy=float(generator.uniform(1.5, 3))
    )


def foreground_above_all(setup, generator):
    """Focal alpha 0.95 and class weights 12:1, both in favour of foreground."""
    options = {"focal_alpha": 0.95, "foreground_weight": generator.uniform(8, 16)}
    return _loss(setup, options, dice=0.1, focal=1.0)


def weights_the_wrong_way_round(setup, generator):
    """The class weights of January 7, which are those of data with much foreground."""
    options = {
        "focal_alpha": generator.uniform(0.25, 0.35),
        "background_weight": 1.94,
        "foreground_weight": 0.52,
    }
    return _loss(setup, options, focal=1.0)


def recall_alone_matters(setup, generator):
    """A term that never penalises foreground has nearly all of the weight."""
    return _loss(setup, cross_entropy=0.1, skeleton_recall=float(generator.uniform(1, 3)))


def skeletons_alone_matter(setup, generator):
    """Skeletons drown the overlap that was meant to be learned with them."""
    return _loss(setup, dice=0.5, cldice=float(generator.uniform(2, 4)))


def focal_without_effect(setup, generator):
    """An exponent that leaves nothing of the focal term from the first step on."""
    return _loss(setup, {"focal_gamma": generator.uniform(7, 10)}, dice=0.5, focal=0.5)


def penalties_against_the_label(setup, generator):
    """Two penalties on certainty beside half as much for the label."""
    options = {"entropy_target_entropy": 0.6}
    weight = float(generator.uniform(0.4, 0.8))
    return _loss(setup, options, dice=0.3, focal=0.2, variance=weight, entropy=weight)


def border_alone(setup, generator):
    """Voxels more than five from a border are not in the loss at all."""
    return _loss(setup, boundary=float(generator.uniform(0.5, 1)))


def within_a_voxel(setup, generator):
    """A term that cannot tell a sheet from dots on it, both dilated by a voxel."""
    return _loss(setup, connectivity=float(generator.uniform(0.5, 1)))


FAULTS = (
    Fault("loss.floor", "half of the loss is the variance term of v5", variance_as_in_v5),
    Fault("loss.floor", "a penalty on all certainty", entropy_near_its_maximum),
    Fault("loss.biased", "alpha 0.95 and 12:1 for foreground", foreground_above_all),
    Fault("loss.biased", "class weights the wrong way round", weights_the_wrong_way_round),
    Fault("loss.biased", "little but the skeleton's recall", recall_alone_matters),
    Fault("loss.dominated", "clDice holds the gradient", skeletons_alone_matter),
    Fault("loss.dominated", "a focal exponent beyond use", focal_without_effect),
    Fault("loss.conflict", "two penalties on certainty", penalties_against_the_label),
    Fault("loss.prefers_wrong", "the boundary term alone", border_alone),
    Fault("loss.prefers_wrong", "the connectivity term alone", within_a_voxel),
)
