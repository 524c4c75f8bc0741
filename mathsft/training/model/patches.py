"""The registry of model patches: every change that training makes to the code of a loaded model.

A patch gives some modules another forward method, which computes the same values in less time. It covers a module only if a
comparison on random inputs shows the same values. It replaces the class of a module by a subclass and does not change the
library's class: other models of the process are not patched, and copies of the patched model are.
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
    """A faster forward method for the modules that it covers."""

    name: str
    covers: Callable[[nn.Module], bool]
    """Returns whether the patch computes the same values as this module, which must be in fp32 on the host."""
    patched_class: Callable[[Any], type[nn.Module]]
    """Returns a subclass of a covered module's class, with the faster forward method."""


RMS_NORM = ModelPatch("RMS norm in blocks of tokens (CPU)", norms.covers, norms.patched_class)
ROTARY = ModelPatch("rotary positions without a copy (CPU)", rotary.covers, rotary.patched_class)
PATCHES = (RMS_NORM, ROTARY)


def apply_patches(model: nn.Module) -> None:
    """Apply every patch of the registry to the model, which must be in fp32 on the host."""
    for patch in PATCHES:
        logger.info("%s: %d modules patched: %s", type(model).__name__, apply_patch(patch, model), patch.name)


def apply_patch(patch: ModelPatch, model: nn.Module) -> int:
    """Apply one patch; return the number of modules that it covers."""
    covered = [module for module in model.modules() if patch.covers(module)]
    for module in covered:
        module.__class__ = patch.patched_class(type(module))
    return len(covered)
