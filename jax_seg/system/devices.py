"""The devices of a run as a mesh of two axes: samples are divided over one, depth over the other.

A compiled step is the same on any mesh, and its results are those of one device up to the order of
summation: the compiler divides the arrays and adds what crosses the devices. One device is left to
the plain program.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

SAMPLES, DEPTH = "data", "space"  # the axes of the mesh


class Devices(NamedTuple):
    """Where a run computes.

    Attributes:
      mesh: of the axes SAMPLES and DEPTH, over the devices of all processes; None is one device,
        JAX's default.
      process, processes: number of this process, and how many there are.
    """

    mesh: Mesh | None = None
    process: int = 0
    processes: int = 1

    @property
    def single(self):
        """Whether there is one device alone."""
        return self.mesh is None or self.mesh.size == 1

    @property
    def size(self):
        """Devices that share the samples of a batch."""
        return 1 if self.mesh is None else self.mesh.shape[SAMPLES]

    @property
    def leads(self):
        """Whether this process writes what belongs to the whole run."""
        return self.process == 0

    @property
    def depth(self):
        """Devices that share the depth of a patch."""
        return 1 if self.mesh is None else self.mesh.shape[DEPTH]

    @property
    def replicated(self):
        """The sharding of what every device holds whole."""
        if self.mesh is None:
            return SingleDeviceSharding(jax.local_devices()[0])
        if self.single:
            return SingleDeviceSharding(self.mesh.devices.item())
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def samples(self):
        """The sharding of a batch, whose first axis counts its samples."""
        if self.single:
            return self.replicated
        return NamedSharding(self.mesh, PartitionSpec(SAMPLES))

    @property
    def local(self):
        """The `Devices` of this process alone."""
        if self.processes == 1:
            return self
        own = [one for one in self.mesh.devices.flat if one.process_index == self.process]
        return Devices(_mesh(own, self.depth))

    def words(self, kind):
        """'gpu (H100)', or '8 × gpu (H100) in 2 processes, 2 sharing each patch'."""
        used, here = 1 if self.mesh is None else self.mesh.size, len(jax.devices())
        if here == 1:
            return kind
        return "".join(
            [
                f"{used} × {kind}" if used == here else f"{used} of {here} × {kind}",
                f" in {self.processes} processes" if self.processes > 1 else "",
                f", {self.depth} sharing each patch" if self.depth > 1 else "",
            ]
        )

    def place(self, batch):
        """A tree of numpy arrays on the devices: of a batch, the samples that this process read."""
        if self.single:
            return jax.device_put(batch)
        return jax.tree.map(
            functools.partial(jax.make_array_from_process_local_data, self.samples), batch
        )

    def replicate(self, tree):
        """A tree of arrays, equal in every process, whole on every device."""
        if self.processes == 1:
            return jax.device_put(tree, self.replicated)

        def everywhere(leaf):
            values = np.asarray(leaf)
            return jax.make_array_from_callback(values.shape, self.replicated, values.__getitem__)

        return jax.tree.map(everywhere, tree)

    def abstract(self, tree, sharding):
        """The shapes and types of a tree whose arrays lie as `sharding` says."""
        if self.single:
            return tree
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
        )

    def here(self, tree):
        """A tree that every device holds whole, as arrays of this process's devices alone."""
        if self.processes == 1:
            return tree
        return self.local.replicate(jax.tree.map(lambda leaf: leaf.addressable_data(0), tree))


ONE = Devices()


def arrange(count=0, space=1, batches=()):
    """The `Devices` of a run.

    Args:
      count: devices of each process to use, the first of them; 0 for as many as divide every batch.
      space: devices that share the depth of a patch.
      batches: samples of every batch that the run will take.

    Raises:
      ValueError: there are fewer devices, or `space` does not divide them.
    """
    here = jax.local_devices()
    if not 0 <= count <= len(here):
        raise ValueError(
            f"devices.count is {count}, but this process has {len(here)} "
            f"{'device' if len(here) == 1 else 'devices'}: set it from 1 to {len(here)}, or to 0 "
            "for as many as divide the batch."
        )
    count = count or _most(len(here), space, batches)
    if space < 1 or count % space:
        raise ValueError(
            f"devices.space is {space}, but it has to divide the {count} devices of a process: "
            f"set it to {_divisors(count)}."
        )
    chosen = [
        one
        for process in range(jax.process_count())
        for one in [d for d in jax.devices() if d.process_index == process][:count]
    ]
    return Devices(_mesh(chosen, space), jax.process_index(), jax.process_count())


def require_divisible(devices, batches, depth=None):
    """Refuse batches that the devices do not divide, and patches that `space` does not divide.

    Args:
      devices: `Devices`.
      batches: list of (field, samples of a batch).
      depth: of a patch in voxels; None without one.

    Raises:
      ValueError: naming the field, and what divides it.
    """
    data, space = devices.size, devices.depth
    for field, batch in batches:
        if batch % data:
            raise ValueError(
                f"{field} is {batch}, which cannot be divided over {data} devices: set it to a "
                f"multiple of {data}, or devices.count so that {_divisors(batch)} of them share "
                "the samples."
            )
    if space > 1 and (depth is None or depth % space):
        what = f"data.patch is {depth} voxels deep" if depth else "these data have no depth"
        raise ValueError(
            f"devices.space is {space}, but {what}, which cannot be divided over them: set it to "
            f"{_divisors(depth or 1)}."
        )


def compiled(function, devices, donate=(), static=()):
    """A jitted function whose results every device holds whole; unchanged for one device."""
    if devices.single:
        return function

    @functools.wraps(function)
    def over_the_mesh(*arguments, **options):
        with jax.sharding.use_abstract_mesh(devices.mesh.abstract_mesh):
            return function(*arguments, **options)

    return jax.jit(
        over_the_mesh,
        donate_argnums=donate,
        static_argnames=static,
        out_shardings=devices.replicated,
    )


def shared(network, devices):
    """(variables, image [B, …]) -> result [B, …] of a jitted network, by this process's devices.

    A batch that they do not divide is filled up with its last sample. A further argument `own`, of
    `infer.network.make_network`, every device gets whole.
    """
    if devices.single:
        return network
    local = devices.local
    if local.single:
        return network

    divided_network = compiled(
        lambda variables, image, **own: network(variables, divided(image, local), **own), local
    )

    def call(variables, image, **own):
        missing = -len(image) % local.size
        image = jnp.concatenate([image, *[image[-1:]] * missing]) if missing else image
        image = jax.device_put(image, local.samples)
        return divided_network(variables, image, **own)[: len(image) - missing]

    return call


def divided(batch, devices, first_axis=0):
    """Under jit: a tree of [..., B, D, ...] whose samples, and depth, lie on the devices."""
    if devices.single:
        return batch
    axes = [None] * first_axis + [SAMPLES]
    if devices.depth > 1:
        axes.append(DEPTH)
    sharding = NamedSharding(devices.mesh, PartitionSpec(*axes))
    return jax.lax.with_sharding_constraint(batch, sharding)


def each_on_its_own(transform, devices):
    """(key, batch) -> batch: `transform` of the samples that a device holds, without the others."""
    if devices.single:
        return transform
    by_sample, everywhere = PartitionSpec(SAMPLES), PartitionSpec()
    return jax.shard_map(
        transform,
        mesh=devices.mesh,
        in_specs=(everywhere, by_sample),
        out_specs=by_sample,
        check_vma=False,
    )


def depth_is_divided():
    """Whether what is being traced is for devices that share the depth of a patch."""
    return jax.sharding.get_abstract_mesh().shape.get(DEPTH, 1) > 1


def sample_keys(key, count):
    """[count] random keys, one per sample of a batch; where it is divided, of a device's own.

    So what a sample draws depends on its number in the whole batch, not on the devices.
    """
    if SAMPLES not in jax.sharding.get_abstract_mesh().manual_axes:
        return jax.random.split(key, count)
    keys = jax.random.split(key, count * jax.lax.axis_size(SAMPLES))
    return jax.lax.dynamic_slice_in_dim(keys, count * jax.lax.axis_index(SAMPLES), count)


def _most(available, space, batches):
    """The most devices of a process that divide every batch; all where none do."""
    for count in range(available, 0, -1):
        sharing = count * jax.process_count() // space
        if count % space == 0 and not any(batch % sharing for batch in batches):
            return count
    return available


def _mesh(chosen, space):
    shape = (len(chosen) // space, space)
    return Mesh(np.array(chosen).reshape(shape), (SAMPLES, DEPTH), axis_types=(AxisType.Auto,) * 2)


def _divisors(number):
    """'1, 2 or 4': the divisors of a number."""
    found = [str(n) for n in range(1, number + 1) if number % n == 0]
    return " or ".join(filter(None, (", ".join(found[:-1]), found[-1])))
