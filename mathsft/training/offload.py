"""AdamW in host memory: the device has the model's weights and gradient, the host the master weights and the moments.

On the device a parameter takes 6 bytes in bf16 (weight and fp32 gradient) instead of 18; on the host it takes 16. Each
gradient is copied to the host as soon as the last backward pass of a step has completed it. The update waits for the norm
of the whole gradient, by which it is clipped. Then the CPU updates one piece of the weights after the other, and a piece
travels to the device while the next one is computed. Source: Ren et al. 2021, arXiv:2101.06840.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from mathsft.training.optimizer import MasterAdamW, padded

PIECE_ELEMENTS = 2**24
"""Weights that are updated and sent at once: 32 MB in bf16, 2 to 3 ms on the way to the device.

Pieces are multiples of a cache line: in each, the CPU's vector instructions compute the same bits as in the whole."""


class OffloadedAdamW(MasterAdamW):
    """MasterAdamW with master weights and moments in host memory; on a CPU it gives the same bits.

    Parking only frees the gradient and the model's weights on the device.
    """

    @cached_property
    def _accelerator(self) -> Any:
        """Streams and synchronisation of the device: torch.cuda, or torch.cpu, where both do nothing."""
        return torch.get_device_module(self._home)

    @cached_property
    def _copies(self) -> Any:
        """The stream of the copies to the host, beside that of the backward pass."""
        return self._accelerator.Stream()

    @contextmanager
    def collecting(self, *, first: bool, last: bool) -> Iterator[None]:
        """Collect each gradient of the body's backward pass once it is complete; start its copy to the host if last."""
        without_gradient = set(self._parameters)

        def collect(name: str, parameter: Tensor) -> None:
            assert parameter.grad is not None
            gradient = self._gradients[name]
            if first:
                gradient.copy_(parameter.grad)
            else:
                gradient.add_(parameter.grad)
            parameter.grad = None
            without_gradient.remove(name)
            if last:
                self._copy_to_host(name)

        handles = [
            parameter.register_post_accumulate_grad_hook(partial(collect, name))  # type: ignore[no-untyped-call]
            for name, parameter in self._parameters.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        if last:
            for name in without_gradient:
                self._copy_to_host(name)

    def update(self, step: int, learning_rate: float, gradient_scale: float) -> None:
        """Apply step 1, 2, … with gradient_scale times the collected gradient, and consume it."""
        self._accelerator.synchronize()  # wait for the copies of the gradient
        whole = self._host_gradient
        for part in self._slices(PIECE_ELEMENTS):
            gradient = whole[part]
            if gradient_scale != 1:
                gradient.mul_(gradient_scale)
            self._update_part(part, gradient, step, learning_rate)
            self._send(part, self._computed)

    def _copy_to_host(self, name: str) -> None:
        """Start the copy of a weight's collected gradient, beside the backward pass."""
        part = padded(self._parts[name])
        self._copies.wait_stream(self._accelerator.current_stream())
        with self._accelerator.stream(self._copies):
            self._host_gradient[part].copy_(self._gradient[part], non_blocking=True)

    def _new_state(self, kind: str) -> Tensor:
        return self._buffers.get(kind, self._num_elements, self._home).zero_()

    def _moved(self, kind: str, flat: Tensor, device: torch.device) -> Tensor:
        return flat

    def _computed_weights(self) -> Tensor:
        computed = torch.empty(self._num_elements, dtype=self._dtype, device=self._home)
        self._send_all(computed)
        return computed

    @property
    def _host_gradient(self) -> Tensor:
        return self._buffers.get("gradient", self._num_elements, self._home)

    def _update_model(self) -> None:
        self._send_all(self._computed)

    def _send_all(self, computed: Tensor) -> None:
        self._accelerator.synchronize()  # an earlier copy may still read the memory that the next one is prepared in
        for part in self._slices(PIECE_ELEMENTS):
            self._send(part, computed)

    def _send(self, part: slice, computed: Tensor) -> None:
        """Start the copy of a part of the master weights, rounded in the memory of the part's consumed gradient.

        The next step replaces the whole gradient in host memory.
        """
        rounded = self._host_gradient[part].view(self._dtype)[: part.stop - part.start]
        computed[part].copy_(rounded.copy_(self._state["master"][part]), non_blocking=True)
