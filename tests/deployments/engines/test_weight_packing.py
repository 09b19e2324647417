import platform
from typing import Any

import pytest

x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="weights are prepacked on x86 only")


@x86
@pytest.mark.parametrize("name", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(3, 24), (2, 5, 24), (40, 300, 24)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_prepacked_linear_computes_the_same(
    name: str, shape: tuple[int, ...], has_bias: bool
) -> None:
    import torch

    from deployments.engines.weight_packing import prepack_weights

    if name == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("the CPU does not compute in bfloat16")
    dtype = getattr(torch, name)
    model = torch.nn.Sequential(torch.nn.Linear(24, 32, bias=has_bias, dtype=dtype))
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)

    with torch.inference_mode():
        expected = model(inputs)
        assert prepack_weights(model) == 1
        outputs = model(inputs)

    assert outputs.dtype == dtype
    torch.testing.assert_close(outputs, expected)


@x86
@pytest.mark.parametrize("name", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": 1, "bias": False},
        {"kernel_size": (3, 1), "dilation": (2, 1), "groups": 2},
        {"kernel_size": 3, "padding": "same"},
        {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    ],
)
def test_prepacked_convolution_computes_the_same(name: str, options: dict[str, Any]) -> None:
    import torch

    from deployments.engines.weight_packing import prepack_weights

    if name == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("the CPU does not compute in bfloat16")
    dtype = getattr(torch, name)
    model = torch.nn.Sequential(torch.nn.Conv2d(8, 16, dtype=dtype, **options))
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn((3, 8, 11, 14), generator=generator).to(dtype)

    with torch.inference_mode():
        expected = model(inputs)
        prepack_weights(model)
        outputs = model(inputs)

    torch.testing.assert_close(outputs, expected)


@x86
def test_plain_weights_are_freed() -> None:
    import torch

    from deployments.engines.weight_packing import prepack_weights

    model = torch.nn.Sequential(torch.nn.Linear(24, 32))
    prepack_weights(model)

    assert sum(each.numel() for each in model.parameters()) == 32  # the bias


@x86
def test_subclasses_and_float64_layers_are_left_alone() -> None:
    import torch

    from deployments.engines.weight_packing import prepack_weights

    class Scaled(torch.nn.Linear):
        pass

    model = torch.nn.Sequential(Scaled(4, 4), torch.nn.Linear(4, 4, dtype=torch.float64))

    assert prepack_weights(model) == 0
