"""Faults of the network: of its configuration, and of the weights that a run has left."""

import shutil

import jax
import numpy as np
import tifffile

from benchmarks.doctor.setups import Fault, changed, names, read, scrolls, write
from jax_seg.diagnosis.evidence import of_run
from jax_seg.runs import checkpoints


def rewrite(change, of="params"):
    """(workdir) -> None: a run whose best checkpoint alone remains, changed.

    Args:
      change: changes in place the parameters, a nested dict of numpy arrays, or with `of` 'loop'
        the dict that is stored beside them.
    """

    def after(workdir):
        evidence = of_run(workdir)
        saved = checkpoints.open_for_reading(workdir)
        one = saved.whole("best")
        abstract = jax.eval_shape(evidence.programs.fresh_state)
        state, loop = checkpoints.restore(saved, abstract, one.step)
        params = jax.tree.map(np.array, state.params)
        change({"params": params, "loop": loop}[of])
        shutil.rmtree(workdir / "checkpoints")
        shutil.rmtree(workdir / "validation")
        kept = checkpoints.open_checkpoints(workdir, metric=evidence.settings.metric)
        checkpoints.save(kept, state._replace(params=params), loop, one.metrics)
        checkpoints.wait(kept)
        kept.close()

    return after


def deaf(setup, _):
    """The first convolution is zero."""

    def silence(params):
        params["encoder_0"]["conv_0"]["kernel"][:] = 0

    return setup._replace(after=(rewrite(silence),))


def loud(setup, generator):
    """The output layer is amplified."""
    factor = generator.uniform(15, 50)

    def amplify(params):
        for array in params["output"].values():
            array *= factor

    return setup._replace(after=(rewrite(amplify),))


def lost_channels(setup, generator):
    """Half of the channels of two decoders are zero."""

    def lose(params):
        for level in ("decoder_0", "decoder_1"):
            kernel = params[level]["conv_1"]["kernel"]
            lost = generator.permutation(kernel.shape[-1])[: kernel.shape[-1] // 2]
            kernel[..., lost] = 0

    return setup._replace(after=(rewrite(lose),))


def lost_level(setup, _):
    """What the bottom level passes up is zero."""

    def lose(params):
        params["up_0"]["kernel"][:] = 0

    return setup._replace(after=(rewrite(lose),))


def twice(setup, _):
    """The stored probabilities have passed a second sigmoid."""

    def squash(workdir):
        for path in (workdir / "validation" / "probabilities").glob("*.tif"):
            probability = tifffile.imread(path).astype(np.float32)
            again = (1 / (1 + np.exp(-probability))).astype(np.float16)
            tifffile.imwrite(path, again, compression="zlib")

    return setup._replace(after=(squash,))


def rare_at_first(setup, generator):
    """The first logits expect hardly any foreground."""
    prior = 10.0 ** -generator.uniform(5, 8)
    return changed(setup, **{"model.foreground_prior": prior})


def frozen_at_random(setup, generator):
    """All but the bias and kernel of the output, or all but the last decoder and the output."""
    pattern = generator.choice(["^(encoder|bottleneck|up|decoder)", "conv_"])
    config = setup.config.copy_and_resolve_references()
    with config.unlocked():
        config.parts = {
            "body": {"pattern": str(pattern), "rate": 0.0},
            "rest": {"pattern": "", "rate": 1.0},
        }
    return setup._replace(config=config)


def cells(folder, seed=0):
    """Balls of which an image shows the outline alone, in place of scrolls."""
    setup = scrolls(folder, seed)
    for number, name in enumerate(names(setup)):
        generator = np.random.default_rng((seed, number))
        shape = read(setup, name)[0].shape
        depth = np.full(shape, -np.inf, np.float32)
        for _ in range(9):
            center, radius = generator.uniform(6, np.array(shape) - 6), generator.uniform(6, 10)
            offsets = np.indices(shape) - center[:, None, None, None]
            depth = np.maximum(depth, radius - np.sqrt((offsets**2).sum(axis=0)))
        image = generator.normal(90, 15, shape) + 80 * (np.abs(depth) < 1)
        write(
            setup,
            name,
            image=np.clip(image, 0, 255).astype(np.uint8),
            label=(depth > 0).astype(np.uint8),
        )
    return changed(setup, **{"data.ignore": ()})


def no_poolings(setup, _):
    """The network sees as far as its convolutions at full resolution."""
    return changed(setup, **{"model.poolings": 0})


def one_filter(setup, _):
    """One filter at full resolution."""
    return changed(setup, **{"model.poolings": 0, "model.filters": 1})


def too_deep(setup, _):
    """Four poolings leave one voxel of a patch of 16."""
    return changed(setup, **{"model.poolings": 4, "data.patch": (16, 16, 16)})


def overgrown(setup, generator):
    """Both kernels of the first level, whose size the norms behind them hide from the output."""
    factor = 10 ** generator.uniform(2, 3)

    def grow(params):
        for name in ("conv_0", "conv_1"):
            params["encoder_0"][name]["kernel"] *= factor

    return setup._replace(after=(rewrite(grow),))


def shrivelled(setup, generator):
    """A kernel of the last level."""
    factor = 10 ** generator.uniform(2, 2.5)

    def shrink(params):
        params["decoder_1"]["conv_1"]["kernel"] /= factor

    return setup._replace(after=(rewrite(shrink),))


FAULTS = (
    Fault("model.ignores_input", "the first convolution is zero", deaf, trains=True),
    Fault("model.saturated", "the output layer is amplified", loud, trains=True),
    Fault("model.saturated", "stored probabilities passed a second sigmoid", twice, trains=True),
    Fault("model.saturated", "the first weights expect hardly any foreground", rare_at_first),
    Fault("model.dead", "half of the decoder's channels are zero", lost_channels, trains=True),
    Fault("model.dead", "what the bottom level passes up is zero", lost_level, trains=True),
    Fault("model.cannot_overfit", "random weights are frozen", frozen_at_random),
    Fault("model.cannot_overfit", "one filter and no pooling", one_filter, start=cells),
    Fault(
        "model.receptive_field", "no pooling, objects that show outlines", no_poolings, start=cells
    ),
    Fault("model.receptive_field", "four poolings of patches of 16", too_deep),
    Fault("model.dead", "kernels so large that gradients vanish", overgrown, trains=True),
    Fault("model.dead", "a kernel so small that its gradient explodes", shrivelled, trains=True),
)
