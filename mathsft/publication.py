"""The file in which a trainer tells the driver that a checkpoint is on disk, and stamps by which its weights are recognised.

With a stamp a process on the same machine can trust weights that were hashed a moment ago, without reading them again.
"""

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from mathsft.errors import ErrorKind

ADAPTER_CONFIG = "adapter_config.json"
"""The file of an adapter's settings, by the name of peft. They belong to its weights: another scaling is another model."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""A name of this machine since its last start. Source: Linux, random(4)."""


@dataclass(frozen=True)
class FileStamp:
    """One file of weights as the kernel knew it before the file was hashed.

    Linux sets the time of change, which a program cannot set, whenever contents, size or links of a file change. A copy has
    another inode, and after a restart, when what was not yet on disk may be lost, the machine has another name.
    """

    name: str
    machine: str
    device: int
    inode: int
    num_bytes: int
    changed_ns: int
    """Nanoseconds of the time of change (st_ctime_ns)."""


@dataclass(frozen=True)
class Publication:
    """The outcome of saving one checkpoint: its fingerprint and stamps, or an error."""

    fingerprint: str = ""
    stamps: tuple[FileStamp, ...] = ()
    error: str = ""
    error_kind: ErrorKind = ErrorKind.CODE


_ADAPTER = TypeAdapter(Publication)


def machine_id() -> str:
    """Return the name of this machine since its last start."""
    return BOOT_ID.read_text(encoding="ascii").strip()


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold a folder's weights: its *.safetensors in the order of names, and an adapter's settings."""
    config = folder / ADAPTER_CONFIG
    return [*sorted(folder.glob("*.safetensors")), *([config] if config.is_file() else [])]


def stamps_of(folder: Path) -> tuple[FileStamp, ...]:
    """Return the stamps of the files that hold a folder's weights, in the order of `weight_files`."""
    machine, stamps = machine_id(), []
    for path in weight_files(folder):
        status = path.stat()
        stamp = FileStamp(path.name, machine, status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns)
        stamps.append(stamp)
    return tuple(stamps)


def tell(publication: Publication, path: Path) -> None:
    """Write the publication, by atomic rename."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(_ADAPTER.dump_json(publication))
    partial.replace(path)


def heard(path: Path) -> Publication | None:
    """Return the publication in the file and delete the file; None if there is none yet."""
    if not path.exists():
        return None
    publication = _ADAPTER.validate_json(path.read_bytes())
    path.unlink()
    return publication
