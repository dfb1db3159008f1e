"""The memory that a process really takes: what stands now, and the peak since a moment.

    gauge = of(device);  gauge.start();  ...;  gauge.peak() - before

On CPU this is resident memory (RSS), everything included: libraries, allocators' reserves, workspaces that no
tensor holds. Pages that are only reserved do not count, and a page of a mapped file counts once it is touched.
On CUDA it is what torch's allocator has handed out, which leaves out CUDA's own context and cached free blocks.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
from pathlib import Path
from typing import Protocol

import torch

SELF = Path("/proc/self")
EVERY = 0.002  # seconds between samples, where sampling must do


class Gauge(Protocol):
    """Something that knows how many bytes are taken; `by` says how it knows, `key` what the number is called in MB."""

    by: str
    key: str

    def now(self) -> int:
        """Bytes taken now."""
        ...

    def start(self) -> None:
        """Forget the peak so far."""
        ...

    def peak(self) -> int:
        """The most bytes taken at once since `start`."""
        ...


class HighWater:
    """The kernel's own high-water mark of resident memory (Linux): misses nothing, costs nothing between the calls.

    `start` resets the mark of the whole process, which `getrusage` and VmHWM read too; `ever` is the highest mark of
    the process's life. Exact to a fraction of a MB.
    """

    by = "resident memory, the kernel's high-water mark"
    key = "rss_mb"
    before = 0  # the highest mark that a `start` has reset

    def __init__(self) -> None:
        self.start()
        self.peak()

    def now(self) -> int:
        """VmRSS."""
        return status("VmRSS")

    def start(self) -> None:
        """Reset the mark. Raises: OSError where the process may not."""
        HighWater.before = self.ever()
        (SELF / "clear_refs").write_text("5")

    def peak(self) -> int:
        """VmHWM."""
        return status("VmHWM")

    def ever(self) -> int:
        """The most since the process began."""
        return max(HighWater.before, status("VmHWM"))


def status(key: str) -> int:
    """A line of /proc/self/status in bytes."""
    lines = (SELF / "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


class Sampled:
    """Resident memory read by a thread every 2 ms: may miss a peak that is shorter. Keeps a thread while it measures."""

    by = "resident memory, sampled every 2 ms"
    key = "rss_mb"

    def __init__(self) -> None:
        import psutil

        self.process = psutil.Process()
        self.most, self.stop = 0, threading.Event()
        self.thread: threading.Thread | None = None

    def now(self) -> int:
        """RSS."""
        return int(self.process.memory_info().rss)

    def start(self) -> None:
        """Begin to sample (anew)."""
        self.end()
        self.most, self.stop = self.now(), threading.Event()
        self.thread = threading.Thread(target=self.watch, name="zofo-memory", daemon=True)
        self.thread.start()

    def watch(self) -> None:
        """Read until told to stop."""
        while not self.stop.wait(EVERY):
            self.most = max(self.most, self.now())

    def peak(self) -> int:
        """The largest sample; ends the sampling."""
        self.end()
        self.most = max(self.most, self.now())
        return self.most

    def end(self) -> None:
        """Stop the thread, if there is one."""
        self.stop.set()
        if self.thread is not None:
            self.thread.join()
            self.thread = None


class Cuda:
    """Bytes that torch's CUDA allocator has handed out, at their highest: exact, blocks rounded up to 512 bytes."""

    by = "torch.cuda.max_memory_allocated"
    key = "cuda_mb"

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def now(self) -> int:
        """Allocated now."""
        return int(torch.cuda.memory_allocated(self.device))

    def start(self) -> None:
        """Reset the allocator's peak."""
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int:
        """Allocated at the highest."""
        return int(torch.cuda.max_memory_allocated(self.device))


def of(device: torch.device | str = "cpu") -> Gauge:
    """The best gauge there is for a device."""
    device = torch.device(device)
    if device.type == "cuda":
        return Cuda(device)
    try:
        return HighWater()
    except (OSError, StopIteration):  # not Linux, or /proc is not ours to write
        return Sampled()


def settle() -> None:
    """Give back what nobody holds: Python's cycles, and (glibc) free memory that malloc keeps."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
