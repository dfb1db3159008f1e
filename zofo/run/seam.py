"""The one place that writes to disk.

Everything durable goes through the operations of `Disk`; tests put another one in `disk` to make
the n-th operation fail, to kill the process there, or to record what a power cut could leave.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zofo.errors import ZofoError

if TYPE_CHECKING:
    import torch

RESUME = "go on with `zofo resume`"
TEMPORARY = re.compile(r"\.tmp-(\d+)$")
FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than the system allows",
}


class Parts(NamedTuple):
    """A file that comes in parts: about how many bytes, and a function that gives them in order, made as they are asked for."""

    nbytes: int
    make: Callable[[], Iterable[bytes | memoryview]]


class Disk:
    """The operations that change a disk. None of them calls another."""

    def create(self, path: Path) -> int:
        """Open a new or emptied file for writing; a symbolic link is refused."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)

    def extend(self, path: Path) -> int:
        """Open a file for writing at its end, making it if need be; a symbolic link is refused."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)

    def write(self, file: int, data: bytes | memoryview) -> None:
        """Write all of `data`."""
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]

    def save(self, path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write a safetensors file from the tensors' own memory (no copy), with the folder's read permissions."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        try:
            save_file(dict(tensors), path)
        except SafetensorError as error:
            known = of_system(error)
            if known is None:
                raise
            raise known from error
        os.chmod(path, os.stat(path.parent).st_mode & 0o666)

    def truncate(self, file: int, length: int) -> None:
        """Cut an open file to `length` bytes."""
        os.ftruncate(file, length)

    def fsync(self, file: int) -> None:
        """Wait until an open file's bytes are on the disk."""
        os.fsync(file)

    def close(self, file: int) -> None:
        """Close an open file."""
        os.close(file)

    def fsync_dir(self, folder: Path) -> None:
        """Wait until a folder's names are on the disk (where its file system can: EINVAL is passed over)."""
        file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(file)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        finally:
            os.close(file)

    def rename(self, old: Path, new: Path) -> None:
        """Give a file or folder another name; a file of that name is replaced."""
        os.rename(old, new)

    def chmod(self, path: Path, mode: int) -> None:
        """Say who may read and write a file."""
        os.chmod(path, mode)

    def unlink(self, path: Path) -> None:
        """Delete a file or a symbolic link."""
        os.unlink(path)

    def mkdir(self, path: Path) -> None:
        """Make a folder."""
        os.mkdir(path)

    def rmdir(self, path: Path) -> None:
        """Delete an empty folder."""
        os.rmdir(path)


disk = Disk()


def free(path: Path) -> int:
    """Bytes free where `path` is or will be (0 if that cannot be asked)."""
    for place in (path, *path.absolute().parents):
        with suppress(OSError):
            return shutil.disk_usage(place).free
    return 0


def failure(path: Path, need: int, error: OSError, then: str = RESUME) -> ZofoError:
    """Turn a failed operation into an error that says bytes needed (0: not known) and free, or the system's reason, and what to do `then`."""
    asked = f"write {path}"
    if error.errno in FULL:
        needed = f"{need} bytes needed, " if need else ""
        return ZofoError(asked, f"{FULL[error.errno]} ({needed}{free(path.parent)} free)", f"make room, then {then}")
    return ZofoError(asked, (error.strerror or str(error)).lower(), f"check the disk, then {then}")


def of_system(error: Exception) -> OSError | None:
    """The system's refusal that a library in Rust (safetensors, tokenizers) tells in an exception of its own, else None."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else None


@contextmanager
def told(path: Path, need: int = 0, then: str = RESUME) -> Iterator[None]:
    """Run a block that writes `path` (`need` bytes); an `OSError` in it, or what `of_system` finds to be one, becomes a `ZofoError`."""
    try:
        yield
    except OSError as error:
        raise failure(path, need, error, then) from error
    except ZofoError:
        raise
    except Exception as error:
        known = of_system(error)
        if known is None:
            raise
        raise failure(path, need, known, then) from error


def room(folder: Path, need: int) -> None:
    """Refuse to begin a write of `need` bytes that cannot fit. Raises `OSError` (ENOSPC), for `told`."""
    if free(folder) < need:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def beside(path: Path) -> Path:
    """The temporary name for `path`, in the same folder: `NAME.tmp-PID`."""
    return path.with_name(f"{path.name}.tmp-{os.getpid()}")


def settle(file: int) -> None:
    """Fsync and close an open file. A failed fsync is never tried again: the file is to be dropped."""
    try:
        disk.fsync(file)
    finally:
        disk.close(file)


def settle_folder(path: Path) -> None:
    """Fsync what others wrote into a folder and below, files and names, and let those read it who may read the folder (safetensors says 0600)."""
    mode = path.stat().st_mode & 0o666
    for entry in sorted(path.iterdir()):
        if entry.is_dir():
            settle_folder(entry)
        else:
            disk.chmod(entry, mode)
            settle(disk.extend(entry))
    disk.fsync_dir(path)


def put(path: Path, data: bytes) -> None:
    """Write a file under the name given, fsynced. Not atomic: for names that no reader looks at."""
    put_parts(path, [data])


def put_parts(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write a file under the name given part by part, fsynced. Not atomic, as `put`. Raises: what making a part raises."""
    file = disk.create(path)
    try:
        for part in parts:
            disk.write(file, part)
    except BaseException:
        disk.close(file)
        raise
    settle(file)


def put_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a safetensors file under the name given, fsynced. Tensors: dense, sharing no storage."""
    disk.save(path, tensors)
    settle(disk.extend(path))


def write_file(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all, and stays after a power cut.

    Writes beside, fsyncs, renames, fsyncs the folder. Raises `ZofoError` (old content kept, or, when
    only the last fsync failed, the new one in place). Cost: two fsyncs.
    """
    spare = beside(path)
    with told(path, len(data)):
        try:
            put(spare, data)
            disk.rename(spare, path)
        except BaseException:
            discard(spare)
            raise
        disk.fsync_dir(path.parent)


def cut_file(path: Path, length: int) -> None:
    """Cut a file to `length` bytes, durably. Raises `ZofoError` when the disk refuses."""
    with told(path):
        file = disk.extend(path)
        try:
            disk.truncate(file, length)
        except BaseException:
            disk.close(file)
            raise
        settle(file)


def make_folder(path: Path) -> None:
    """Make a folder that stays after a power cut; its parents too. One that exists is left alone."""
    if path.is_dir():
        return
    make_folder(path.parent)
    with told(path), suppress(FileExistsError):
        disk.mkdir(path)
    with told(path):
        disk.fsync_dir(path.parent)


def remove(path: Path) -> None:
    """Delete a file or a folder under a name that no reader looks at. Symbolic links are not followed."""
    if path.is_symlink() or not path.is_dir():
        disk.unlink(path)
        return
    for entry in sorted(path.iterdir()):
        remove(entry)
    disk.rmdir(path)


def discard(path: Path) -> None:
    """`remove` as far as it goes: what is left over is swept by a later run."""
    with suppress(OSError):
        remove(path)


def retire(path: Path) -> None:
    """Delete a file or folder that readers know: first out of their sight, durably, then away."""
    spare = beside(path)
    with told(path):
        disk.rename(path, spare)
        disk.fsync_dir(path.parent)
    discard(spare)


def alive(pid: int) -> bool:
    """Whether another process of this machine has the number `pid`."""
    try:
        with suppress(PermissionError):
            os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    return pid not in (0, os.getpid())


def sweep(folder: Path, left: re.Pattern[str] = TEMPORARY) -> list[str]:
    """Delete what dead writers left in a folder (`*.tmp-PID`; this process's own too) and name it. Args: left, names that are meant, the writer's number their group."""
    swept = []
    for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
        writer = left.search(entry.name)
        if writer and not alive(int(writer[1])):
            discard(entry)
            swept.append(entry.name)
    return swept
