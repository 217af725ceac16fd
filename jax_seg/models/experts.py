"""A mixture of experts on a feature map: one decision per image, static shapes.

A gate looks at the image's mean features, chooses `active` of the experts and weighs their results.
Every expert computes every image, and a weight of zero drops the others: shapes do not depend
on the choice, a batch compiles once and stays sharded over devices. The cost is the experts that
are computed but not used.

Each expert is x + f(x), and the weights of an image sum to 1, so the mixture is x + Σ w_e f_e(x).
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jax_seg.models.edgenext import Depthwise, gelu, layer_norm
from jax_seg.ops.depthwise import depthwise


class Mixture(nn.Module):
    """x [B, H, W, C] -> (y [B, H, W, C], gate): the experts' results, and the gate's statistics.

    `gate` is a dict: 'losses' of `gate_losses`, 'expert_use' [experts], the share of the batch's
    choices that fell on each expert, and 'gate_entropy', the mean over the batch of the entropy in
    nats of softmax over all experts: log(experts) when the gate prefers none.

    Attributes:
      experts: names in `EXPERTS`, one for each expert.
      active: experts that are chosen for an image.
      dtype: compute type, 'float32' or 'bfloat16'; the gate, attention and norms are float32.
      dropout: of the attention expert.
    """

    experts: tuple[str, ...]
    active: int = 3
    dtype: str = "float32"
    dropout: float = 0.1

    @nn.compact
    def __call__(self, x_BHWC, train=False):
        """(y, gate); ValueError for unknown experts or an impossible number of active ones."""
        if unknown := sorted(set(self.experts) - EXPERTS.keys()):
            raise ValueError(
                f"model.experts names {', '.join(unknown)}; choose from {', '.join(EXPERTS)}."
            )
        if not 1 <= self.active <= len(self.experts):
            raise ValueError(
                f"model.active is {self.active}, but there are {len(self.experts)} experts; set it "
                "from 1 to their number."
            )
        pooled_BC = x_BHWC.astype(jnp.float32).mean((1, 2))
        gate_BE = nn.Dense(len(self.experts), dtype=jnp.float32, name="gate")(pooled_BC)
        weights_BE, chosen_BE = choose(gate_BE, self.active)
        y_BHWC = x_BHWC
        for index, kind in enumerate(self.experts):
            options = {"dropout": self.dropout, "train": train} if kind == "attention" else {}
            expert = EXPERTS[kind](self.dtype, name=f"{kind}_{index}", **options)
            weight_B111 = weights_BE[:, index, None, None, None].astype(self.dtype)
            y_BHWC += weight_B111 * expert(x_BHWC)
        return y_BHWC, {
            "losses": gate_losses(gate_BE, weights_BE, chosen_BE),
            "expert_use": chosen_BE.mean(0) / self.active,
            "gate_entropy": _entropy(gate_BE).mean(),
        }


def choose(gate_BE, active):
    """Top-k gating (Shazeer et al. 2017, eq. 3-5, without noise).

    Args:
      gate_BE: [B, experts] float32, the gate's logits.
      active: k, experts chosen for each image.

    Returns:
      (weights, chosen): float32 [B, experts], softmax over the k largest logits, 0 elsewhere; and 1
      where an expert is chosen. The weights carry a gradient.
    """
    _, indices_Bk = jax.lax.top_k(gate_BE, active)
    chosen_BE = jax.nn.one_hot(indices_Bk, gate_BE.shape[-1]).sum(1)
    weights_BE = jax.nn.softmax(jnp.where(chosen_BE > 0, gate_BE, -jnp.inf))
    return weights_BE, chosen_BE


def gate_losses(gate_BE, weights_BE, chosen_BE):
    """Losses that keep the gate from always choosing the same experts.

    Args:
      gate_BE: [B, experts] float32, the gate's logits.
      weights_BE, chosen_BE: of `choose`.

    Returns:
      dict of float32 scalars:
      load_balance: experts · Σ_e f_e P_e (Fedus et al. 2021, eq. 4), f_e the share of the choices
        that fell on e, without a gradient, P_e the mean probability of e; 1 when all are even.
      gate_importance: squared coefficient of variation of the experts' summed weights (Shazeer et
        al. 2017, eq. 6-7); 0 when all are even.
      gate_z: mean of log²(Σ_e exp gate_e) (Zoph et al. 2022, eq. 5), which keeps the logits small.
    """
    share_E = jax.lax.stop_gradient(chosen_BE.mean(0) / chosen_BE.sum(1).mean())
    probability_E = jax.nn.softmax(gate_BE).mean(0)
    importance_E = weights_BE.sum(0)
    return {
        "load_balance": gate_BE.shape[-1] * (share_E * probability_E).sum(),
        "gate_importance": importance_E.var() / jnp.square(importance_E.mean()),
        "gate_z": jnp.square(jax.nn.logsumexp(gate_BE, axis=-1)).mean(),
    }


def _entropy(gate_BE):
    logs = jax.nn.log_softmax(gate_BE)
    return -(jnp.exp(logs) * logs).sum(-1)


class Texture(nn.Module):
    """Grain at four scales: 3×3 convolutions of dilation 1 to 4 on a quarter of the channels."""

    dtype: str

    @nn.compact
    def __call__(self, x_BHWC):
        C = x_BHWC.shape[-1]
        branches = []
        for index in range(4):
            y = _pointwise(C // 4, self.dtype, f"reduce_{index}")(x_BHWC)
            y = nn.Conv(
                C // 4,
                (3, 3),
                kernel_dilation=index + 1,
                dtype=self.dtype,
                name=f"conv_{index}",
            )(y)
            branches.append(_norm_gelu(y, self.dtype, f"norm_{index}"))
        return _fuse(branches, C, self.dtype)


class Attention(nn.Module):
    """Linear attention with its normaliser (Katharopoulos et al. 2020, eq. 5), in float32.

    Per head φ(q) Σ φ(k)ᵀ v / (φ(q) · Σ φ(k)), φ = elu + 1: a weighted mean of the values, which
    does not grow with the number of pixels. Eight heads.
    """

    dtype: str
    dropout: float
    train: bool
    heads: int = 8

    @nn.compact
    def __call__(self, x_BHWC):
        B, H, W, C = x_BHWC.shape
        if C % self.heads:
            raise ValueError(
                f"The attention expert has {self.heads} heads, which do not divide {C} channels; "
                "make each of model.dims a multiple of 8."
            )
        qkv = _pointwise(3 * C, self.dtype, "qkv", use_bias=False)(x_BHWC).astype(jnp.float32)
        q, k, v = jnp.moveaxis(qkv.reshape(B, H * W, 3, self.heads, C // self.heads), 2, 0)
        attended = linear_attention(q, k, v).reshape(B, H, W, C)
        y_BHWC = _pointwise(C, self.dtype, "proj")(attended)
        return nn.Dropout(self.dropout, deterministic=not self.train)(y_BHWC)


def linear_attention(q_BNhd, k_BNhd, v_BNhd):
    """Normalised linear attention, see `Attention`; float32 [B, tokens, heads, channels]."""
    q, k = jax.nn.elu(q_BNhd) + 1, jax.nn.elu(k_BNhd) + 1
    # Means in place of sums: their ratio is the same, and neither grows with the image.
    values = jnp.einsum("bnhd,bnhe->bhde", k, v_BNhd) / k.shape[1]
    total = jnp.einsum("bnhd,bhd->bnh", q, k.mean(1))
    return jnp.einsum("bnhd,bhde->bnhe", q, values) / (total[..., None] + 1e-6)


class Hybrid(nn.Module):
    """A depthwise convolution, each channel then scaled by squeeze and excitation."""

    dtype: str

    @nn.compact
    def __call__(self, x_BHWC):
        C = x_BHWC.shape[-1]
        y = Depthwise(5, self.dtype, name="conv_dw")(x_BHWC)
        y = _pointwise(C, self.dtype, "expand")(layer_norm("norm")(y))
        y = gelu(y)
        y *= SqueezeExcite(C // 4, name="excite")(y).astype(self.dtype)
        return _pointwise(C, self.dtype, "project")(y)


class Frequency(nn.Module):
    """Bands of spatial frequency: smooth, the band between two means, fine, and the whole."""

    dtype: str

    @nn.compact
    def __call__(self, x_BHWC):
        mean3, mean5 = box_mean(x_BHWC, 3), box_mean(x_BHWC, 5)
        inputs = (mean3, mean3 - mean5, x_BHWC - mean3, x_BHWC)
        return _four_branches(inputs, self.dtype)


class Edge(nn.Module):
    """Sobel magnitude, |Laplacian|, their norm, and the features themselves."""

    dtype: str

    @nn.compact
    def __call__(self, x_BHWC):
        sobel, laplacian = sobel_magnitude(x_BHWC), jnp.abs(correlate(x_BHWC, LAPLACIAN))
        both = jnp.sqrt(jnp.square(sobel) + jnp.square(laplacian))
        inputs = (sobel, laplacian, both, x_BHWC)
        return _four_branches([y.astype(self.dtype) for y in inputs], self.dtype)


class Context(nn.Module):
    """Means over 8², 4², 2² parts of the image and over the whole (Zhao et al. 2017, "PSPNet")."""

    dtype: str

    @nn.compact
    def __call__(self, x_BHWC):
        B, H, W, C = x_BHWC.shape
        branches = []
        for parts in (8, 4, 2, 1):
            pooled = adaptive_mean(x_BHWC, parts)
            branch = _branch(pooled, C // 4, self.dtype, f"{parts}")
            shape = (B, H, W, C // 4)
            branches.append(jax.image.resize(branch, shape, "bilinear", antialias=False))
        return _fuse(branches, C, self.dtype)


class Contrast(nn.Module):
    """A depthwise convolution and two 1×1 convolutions, each normalised."""

    dtype: str

    @nn.compact
    def __call__(self, x_BHWC):
        C = x_BHWC.shape[-1]
        y = Depthwise(3, self.dtype, name="conv_dw")(x_BHWC)
        y = _pointwise(C, self.dtype, "pointwise_0")(_norm_gelu(y, self.dtype, "norm_0"))
        y = _pointwise(C, self.dtype, "pointwise_1")(layer_norm("norm_1")(y))
        return _norm_gelu(y, self.dtype, "norm_2")


EXPERTS = {
    "texture": Texture,
    "attention": Attention,
    "hybrid": Hybrid,
    "frequency": Frequency,
    "edge": Edge,
    "context": Context,
    "contrast": Contrast,
}
"""f of the experts x + f(x), by name."""


class SqueezeExcite(nn.Module):
    """A factor in (0, 1) per channel, from the image's mean features (Hu et al. 2018); float32."""

    hidden: int

    @nn.compact
    def __call__(self, x_BHWC):
        y_B11C = x_BHWC.astype(jnp.float32).mean((1, 2), keepdims=True)
        y_B11C = jax.nn.relu(_pointwise(self.hidden, jnp.float32, "squeeze")(y_B11C))
        return jax.nn.sigmoid(_pointwise(x_BHWC.shape[-1], jnp.float32, "excite")(y_B11C))


SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], np.float32)
LAPLACIAN = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], np.float32)


def sobel_magnitude(x_BHWC):
    """√(gx² + gy² + 1e-6) of each channel in float32; the constant keeps the gradient below 1."""
    squares = (jnp.square(correlate(x_BHWC, kernel)) for kernel in (SOBEL, SOBEL.T))
    return jnp.sqrt(sum(squares) + 1e-6)


def correlate(x_BHWC, kernel):
    """One 3×3 kernel over each channel, float32; the border is repeated, so it shows no edge."""
    x_BHWC = jnp.pad(x_BHWC.astype(jnp.float32), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    kernels = jnp.broadcast_to(kernel[..., None], (3, 3, x_BHWC.shape[-1]))
    return depthwise(x_BHWC, kernels)[:, 1:-1, 1:-1]


def box_mean(x_BHWC, size):
    """Mean over a window of `size`² pixels, of those inside the image."""
    _, H, W, C = x_BHWC.shape
    ones = jnp.ones((size, size, C), x_BHWC.dtype)
    half = size // 2
    places = [np.arange(length) for length in (H, W)]
    counts = [np.minimum(i + half + 1, len(i)) - np.maximum(i - half, 0) for i in places]
    return depthwise(x_BHWC, ones) / np.outer(*counts)[..., None].astype(x_BHWC.dtype)


def adaptive_mean(x_BHWC, parts):
    """Mean over parts × parts cells that cover the image; cell i is ⌊iH/n⌋ to ⌈(i+1)H/n⌉.

    Neighbouring cells overlap where the side is not divisible, and repeat where it is shorter.
    """

    def cells(length):
        index = np.arange(parts)[:, None]
        position = np.arange(length)
        inside = (position >= index * length // parts) & (
            position < -(-(index + 1) * length // parts)
        )
        return (inside / inside.sum(1, keepdims=True)).astype(x_BHWC.dtype)

    rows, columns = (cells(length) for length in x_BHWC.shape[1:3])
    return jnp.einsum("ih,bhwc,jw->bijc", rows, x_BHWC, columns)


def _four_branches(inputs, dtype):
    C = inputs[0].shape[-1]
    branches = [_branch(x, C // 4, dtype, f"{index}") for index, x in enumerate(inputs)]
    return _fuse(branches, C, dtype)


def _branch(x, features, dtype, name):
    y = _pointwise(features, dtype, f"reduce_{name}")(x)
    return _norm_gelu(y, dtype, f"norm_{name}")


def _fuse(branches, features, dtype):
    y = _pointwise(features, dtype, "fuse")(jnp.concatenate(branches, axis=-1))
    return _norm_gelu(y, dtype, "norm_fuse")


def _norm_gelu(x, dtype, name):
    return gelu(layer_norm(name)(x)).astype(dtype)


def _pointwise(features, dtype, name, use_bias=True):
    return nn.Dense(features, use_bias, dtype=dtype, name=name)
