"""The registry of model patches: every change that training makes to the code of a loaded model.

A patch gives some modules another forward method, which computes the same values in less time. It covers a module only if a
comparison on random inputs shows the same values. It changes the class of the module, not the class in the library: other
models of the process keep theirs, and copies of the patched model keep the patch.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from mathsft.training.cpu import norms, rotary

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelPatch:
    """Another forward method for the modules that it covers."""

    name: str
    covers: Callable[[nn.Module], bool]
    """Tells whether the patch computes what this module computes; the module is in fp32 on the host."""
    patched_class: Callable[[Any], type[nn.Module]]
    """Returns the subclass, with the other forward method, of a covered module's class."""


RMS_NORM = ModelPatch("RMS norm in blocks of tokens (CPU)", norms.covers, norms.patched_class)
ROTARY = ModelPatch("rotary positions without a copy (CPU)", rotary.covers, rotary.patched_class)
PATCHES = (RMS_NORM, ROTARY)


def apply_patches(model: nn.Module) -> None:
    """Apply every patch of the registry to the model, which is in fp32 on the host."""
    for patch in PATCHES:
        logger.info("%s: %d modules patched: %s", type(model).__name__, apply_patch(patch, model), patch.name)


def apply_patch(patch: ModelPatch, model: nn.Module) -> int:
    """Apply one patch; return the number of modules that it covers."""
    covered = [module for module in model.modules() if patch.covers(module)]
    for module in covered:
        module.__class__ = patch.patched_class(type(module))
    return len(covered)
