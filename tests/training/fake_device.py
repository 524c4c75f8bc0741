"""A device that exists in tests only: its tensors are on the CPU, and its memory ends at a number of bytes.

`ByteBudget` alone makes the CPU such a device. `FakeCuda` in addition keeps the device apart from the host: a tensor is on
either, says so by `device`, and is copied when it moves.
"""

import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self
from unittest import mock

import torch
from torch import Tensor
from torch.autograd import Variable
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class ByteBudget(TorchDispatchMode):
    """Counts the bytes of the storages that operations make, and raises torch.OutOfMemoryError where they exceed a number.

    It also raises once at the allocation number `failing` (1, 2, …), whatever is free then.
    """

    def __init__(self, num_bytes: float = math.inf, failing: int = 0) -> None:
        super().__init__()
        self.num_bytes, self.failing = num_bytes, failing
        self.held = self.peak = self.num_allocations = 0
        self.takes_all = True
        """Whether every new storage is on the device, or only one that is made from a tensor of the device."""
        self._is_paused = False
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def holds(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._storages

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take nothing while the body runs: what it makes is on the host."""
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [tensor for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)]
        # torch.tensor makes its tensor before any mode sees it, and then passes it through this operation.
        is_new = function is torch.ops.aten.lift_fresh.default
        inputs = [] if is_new else [tensor.untyped_storage()._cdata for tensor in tensors]
        result = function(*args, **kwargs)
        if not self._is_paused and (self.takes_all or any(storage in self._storages for storage in inputs)):
            for tensor in tree_leaves(result):
                if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in inputs:
                    self.take(tensor)
        return result

    def take(self, tensor: Tensor) -> None:
        """Count the tensor's memory as the device's."""
        storage = tensor.untyped_storage()
        key, num_bytes = storage._cdata, storage.nbytes()
        if key in self._storages or num_bytes == 0:
            return
        self.num_allocations += 1
        if self.num_allocations == self.failing or self.held + num_bytes > self.num_bytes:
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {num_bytes} bytes.\nOf the allocated memory"
            )

        def free(_: object) -> None:
            del self._storages[key]
            self.held -= num_bytes

        self._storages[key] = weakref.ref(storage, free)
        self.held += num_bytes
        self.peak = max(self.peak, self.held)


class FakeCuda(TorchFunctionMode):
    """Makes the budget's tensors say that they are on CUDA, and everything that is asked for on CUDA one of them.

    Host memory is not pinned, and streams are those of torch.cpu, which copy at once.
    """

    def __init__(self, budget: ByteBudget) -> None:
        super().__init__()
        self._budget = budget
        budget.takes_all = False
        self._patches = [
            mock.patch("torch.get_device_module", return_value=torch.cpu),
            mock.patch("torch.cuda.reset_peak_memory_stats"),
            # Checkpointing compares the devices of saved and recomputed tensors, but looks at the saved ones without a mode.
            mock.patch.dict("torch.utils.checkpoint._allowed_determinism_checks_to_fns", {"default": lambda tensor: None}),
        ]

    def __enter__(self) -> Self:
        for patch in self._patches:
            patch.start()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for patch in self._patches:
            patch.stop()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        kwargs.pop("pin_memory", None)
        if function == Tensor.backward:
            # The mode is off in here, but holds for the functions of the backward pass, too.
            TorchFunctionMode.__enter__(self)  # type: ignore[no-untyped-call]
            try:
                # torch.autograd.backward would come in here once more.
                return Variable._execution_engine.run_backward(
                    (args[0],), (torch.ones_like(args[0]),), False, False, (), allow_unreachable=True, accumulate_grad=True
                )
            finally:
                TorchFunctionMode.__exit__(self, None, None, None)  # type: ignore[no-untyped-call]
        if function == Tensor.device.__get__:
            return CUDA if self._budget.holds(args[0]) else CPU
        if function == Tensor.to:
            return self._to(*args, **kwargs)
        if "device" in kwargs and kwargs["device"] is not None and torch.device(kwargs["device"]).type == "cuda":
            result: Tensor = function(*args, **(kwargs | {"device": CPU}))
            self._budget.take(result)
            return result
        return function(*args, **kwargs)

    def _to(self, tensor: Tensor, *args: Any, device: Any = None, dtype: Any = None, **kwargs: Any) -> Tensor:
        for arg in args:
            if isinstance(arg, torch.device | str):
                device = torch.device(arg)
            elif isinstance(arg, torch.dtype):
                dtype = arg
        dtype = dtype or tensor.dtype
        is_to_device = device is not None and torch.device(device).type == "cuda"
        if device is None or is_to_device == self._budget.holds(tensor):
            return tensor.to(dtype, copy=kwargs.get("copy", False))
        with self._budget.paused():
            moved = tensor.to(dtype, copy=True)
        if is_to_device:
            self._budget.take(moved)
        return moved
