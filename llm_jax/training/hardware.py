"""What the machine can do, measured: the matmul peak that MFU is a share of, and memory."""

import os
import resource
import time
from pathlib import Path

import jax
import jax.numpy as jnp


def matmul_peak(dtype: jnp.dtype, devices: int = 1, repeats: int = 4) -> float:
    """Returns the measured matmul rate in FLOP/s of `devices` devices like the first one.

    It is the best of `repeats` square matmuls of `dtype`: 2048 wide on a CPU, 8192 elsewhere.
    The emulated devices of a CPU share its cores, so there the rate is one machine's.
    """
    device = jax.local_devices()[0]
    on_cpu = device.platform == "cpu"
    size = 2048 if on_cpu else 8192
    a = jax.device_put(jax.random.normal(jax.random.key(0), (size, size), dtype), device)
    multiply = jax.jit(jnp.matmul)
    multiply(a, a).block_until_ready()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        multiply(a, a).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best * (jax.process_count() if on_cpu else devices)


# Devices with units for eight-bit products, by what their names begin with. TPU: Google's pages of
# system architecture; GPU: NVIDIA's CUDA C++ Programming Guide, by compute capability.
_TPU_UNITS = {"fp8": ("TPU7",), "int8": ("TPU v5", "TPU v6")}
_CUDA_UNITS = {"fp8": 8.9, "int8": 7.5}


def has_units(quantization: str) -> bool:
    """Returns whether the first device multiplies "fp8" or "int8" as such, without widening."""
    device = jax.local_devices()[0]
    if device.platform == "tpu":
        return device.device_kind.startswith(_TPU_UNITS[quantization])
    if "NVIDIA" not in device.device_kind:
        return False
    return float(device.compute_capability) >= _CUDA_UNITS[quantization]


def process_age() -> float:
    """Returns the seconds since this process began; 0 off Linux, where nothing cheap tells."""
    stat = Path("/proc/self/stat")
    if not stat.exists():
        return 0.0
    began = int(stat.read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return max(time.clock_gettime(time.CLOCK_BOOTTIME) - began, 0.0)


def peak_bytes() -> int:
    """Returns the most memory used so far: of device 0, or of this process on a CPU."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    return resident_peak()


def resident_peak() -> int:
    """Returns the most bytes of memory that this process has held.

    `ru_maxrss` is not it: a child begins with its parent's, so it serves off Linux only.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
