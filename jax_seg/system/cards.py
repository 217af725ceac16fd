"""Published figures of graphics cards, and the description from which XLA compiles for one."""

from typing import NamedTuple


class Card(NamedTuple):
    """A card.

    Attributes:
      name: as the vendor writes it.
      capability: of CUDA, (major, minor).
      cores: streaming multiprocessors.
      gigahertz: boost clock.
      memory, bandwidth: bytes as CUDA reports them, and bytes per second.
      cache: bytes of L2.
      shared: bytes of shared memory per multiprocessor.
      threads: resident per multiprocessor.
      matrix_rate: dense bfloat16 operations per second with float32 sums, by the data sheet.
    """

    name: str
    capability: tuple
    cores: int
    gigahertz: float
    memory: int
    bandwidth: float
    cache: int
    shared: int
    threads: int
    matrix_rate: float


GIB, MIB = 2**30, 2**20
CARDS = {
    "h100": Card(
        *("NVIDIA H100 80GB HBM3", (9, 0), 132, 1.98),
        *(84929347584, 3.35232e12, 50 * MIB, 233472, 2048, 989e12),
    ),
    "h200": Card(
        *("NVIDIA H200", (9, 0), 132, 1.98),
        *(int(139.8 * GIB), 4.8e12, 50 * MIB, 233472, 2048, 989e12),
    ),
    "a100": Card(
        *("NVIDIA A100-SXM4-80GB", (8, 0), 108, 1.41),
        *(int(79.15 * GIB), 2.039e12, 40 * MIB, 167936, 2048, 312e12),
    ),
    "l4": Card(*("NVIDIA L4", (8, 9), 58, 2.04, 22 * GIB, 3e11, 48 * MIB, 102400, 1536, 121e12)),
    "rtx4090": Card(
        *("NVIDIA GeForce RTX 4090", (8, 9), 128, 2.52),
        *(int(23.6 * GIB), 1.008e12, 72 * MIB, 102400, 1536, 165e12),
    ),
}


def target_config(card):
    """The text form of XLA's GpuTargetConfigProto for a `Card`, with cuDNN 9.7 and CUDA 12.8."""
    major, minor = card.capability
    return (
        "gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 "
        f"shared_memory_per_block: 49152 shared_memory_per_core: {card.shared} "
        f"threads_per_core_limit: {card.threads} core_count: {card.cores} fpus_per_core: 128 "
        "block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 "
        f"memory_bandwidth: {int(card.bandwidth)} l2_cache_size: {card.cache} "
        f"clock_rate_ghz: {card.gigahertz} device_memory_size: {card.memory} "
        f"shared_memory_per_block_optin: {card.shared - 1024} "
        f"cuda_compute_capability {{ major: {major} minor: {minor} }} "
        "registers_per_core_limit: 65536 registers_per_block_limit: 65536 } "
        "runtime_version { major: 12 minor: 8 patch: 0 } "
        'platform_name: "CUDA" dnn_version_info { major: 9 minor: 7 } '
        f'device_description_str: "{card.name}"'
    )
