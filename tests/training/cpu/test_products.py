"""Linear layers multiplied by numpy, against torch's in fp64."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from mathsft.training.cpu import products
from mathsft.training.cpu.products import numpy_mm
from mathsft.training.model.patches import apply_patch

WIDTH = products._FROM_WIDTH


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def values_and_gradients(layer: nn.Module, inputs: Tensor, gradient: Tensor) -> list[Tensor]:
    """Return the outputs of the layer, and the gradients of its input and its parameters."""
    inputs = inputs.clone().requires_grad_()
    outputs = layer(inputs)
    return [outputs.detach(), *torch.autograd.grad(outputs, [inputs, *layer.parameters()], gradient)]


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("is_strided", [True, False])
def test_values_and_gradients_are_those_of_fp64(has_bias: bool, is_strided: bool) -> None:
    layer = nn.Linear(WIDTH, 40, bias=has_bias)
    exact = deepcopy(layer).double()
    assert apply_patch(products, layer) == 1
    inputs, gradient = drawn(2, 7, WIDTH), drawn(2, 7, 40)
    if is_strided:  # BLAS reads neither directly
        inputs, gradient = drawn(2, 7, 2 * WIDTH)[..., ::2], drawn(1, 1, 1).expand(2, 7, 40)
    actual = values_and_gradients(layer, inputs, gradient)
    expected = values_and_gradients(exact, inputs.double(), gradient.double())
    for mine, value in zip(actual, expected, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - value).norm() < 1e-6 * value.norm()


def test_a_product_is_written_where_it_is_wanted() -> None:
    out = torch.zeros(3, 5)
    numpy_mm(drawn(2, 4), drawn(5, 4).t(), out=out[:2])
    torch.testing.assert_close(out[:2], drawn(2, 4) @ drawn(5, 4).t())
    assert not out[2].any()


def test_other_precisions_stay_with_torch() -> None:
    layer = nn.Linear(WIDTH, 8).double()
    expected = layer(drawn(3, WIDTH).double())
    apply_patch(products, layer)
    assert torch.equal(layer(drawn(3, WIDTH).double()), expected)
    assert products.products_of(layer, expected).mm is torch.mm


def test_narrow_layers_and_other_kinds_of_layers_are_left_alone() -> None:
    class Other(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(WIDTH - 1, 8), Other(WIDTH, 8), nn.Linear(WIDTH, 8))
    assert apply_patch(products, model) == 1
    assert [type(layer) for layer in model] == [nn.Linear, Other, products._NumpyLinear]


def test_a_copy_computes_with_its_own_weight() -> None:
    layer = nn.Linear(WIDTH, 8, bias=False)
    apply_patch(products, layer)
    copy = deepcopy(layer)
    copy.weight.data.zero_()
    assert not copy(drawn(3, WIDTH)).any()
    assert layer(drawn(3, WIDTH)).any()
