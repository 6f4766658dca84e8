"""What the figures were taken on: a figure without its machine says nothing."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil


def described() -> dict[str, Any]:
    """Processor, cores, memory, system and how busy it was."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_after": [round(value, 2) for value in os.getloadavg()],
    }


def in_words(told: Mapping[str, Any]) -> str:
    """One line for people."""
    return (
        f"{told['cores']} cores of {told['processor']}, {told['memory_gb']} GB,"
        f" {told['system']}, Python {told['python']}"
    )
