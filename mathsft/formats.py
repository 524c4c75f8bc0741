"""Writes values of settings, durations and sizes as text."""


def value(setting: float | str, float_format: str = ".3g") -> str:
    """Return a setting's value, floats to three digits by default; ".2e" gives all floats the same width."""
    return format(setting, float_format) if isinstance(setting, float) else str(setting)


def seconds(given: float) -> str:
    """Return "12.3 s", "11.0 min" or "2.5 h"."""
    if given < 600:
        return f"{given:.1f} s"
    return f"{given / 60:.1f} min" if given < 7200 else f"{given / 3600:.1f} h"


def rough_seconds(given: float, minutes: str = "min", hours: str = "h") -> str:
    """Return "12 s", "11 min" or "2.5 h", for durations that are predicted."""
    if given < 90:
        return f"{given:.0f} s"
    return f"{given / 60:.0f} {minutes}" if given < 5400 else f"{given / 3600:.1f} {hours}"


def running_seconds(given: float) -> str:
    """Return "12 s" or "2 min 44 s", for durations that are shown while they grow."""
    whole_minutes, rest = divmod(int(given), 60)
    return f"{whole_minutes} min {rest:02} s" if whole_minutes >= 2 else f"{given:.0f} s"


def size(num_bytes: float) -> str:
    """Return "1.25 GiB", or "12.5 MiB" below that."""
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"


def rough_size(num_bytes: float) -> str:
    """Return "1.3 GB", or "13 MB" below that, for sizes that are predicted."""
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.0f} MB"
