"""The registry of model patches: every change that training makes to the code of a loaded model.

A patch gives some modules another forward method, which computes the same values in less time. It covers a module only if a
comparison on random inputs shows the same values. It replaces the class of a module by a subclass and does not change the
library's class: other models of the process are not patched, and copies of the patched model are.
"""

import logging
from types import ModuleType

from torch import nn

from mathsft.training.cpu import norms, products, rotary

logger = logging.getLogger(__name__)


_PATCHES = {"RMS norm in blocks of tokens (CPU)": norms, "rotary positions without a copy (CPU)": rotary}
"""Name -> module of the patch. `covers` returns whether the patch computes the same values as a layer, which must be in fp32
on the host. `patched_class` returns a subclass of a covered layer's class, with the faster forward method."""


_NUMPY_PRODUCTS = {"products in fp32 by numpy's BLAS (CPU)": products}
"""The patch for processors on which torch's matrix products are slow. Source of that choice: placement."""


def apply_patches(model: nn.Module, *, numpy_products: bool = False) -> None:
    """Apply every patch of the registry to the model, which must be in fp32 on the host."""
    for name, patch in (_PATCHES | (_NUMPY_PRODUCTS if numpy_products else {})).items():
        logger.info("%s: %d modules patched: %s", type(model).__name__, apply_patch(patch, model), name)


def apply_patch(patch: ModuleType, model: nn.Module) -> int:
    """Apply one patch; return the number of layers that it covers."""
    covered = [layer for layer in model.modules() if patch.covers(layer)]
    for layer in covered:
        layer.__class__ = patch.patched_class(type(layer))
    return len(covered)
