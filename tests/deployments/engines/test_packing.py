import platform

import pytest

x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="weights are packed on x86 only")


@x86
@pytest.mark.parametrize("name", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(3, 24), (2, 5, 24), (40, 300, 24)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_packed_layer_computes_the_same(name: str, shape: tuple[int, ...], has_bias: bool) -> None:
    import torch

    from deployments.engines.packing import pack_linears

    if name == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("no bfloat16 here")
    dtype = getattr(torch, name)
    model = torch.nn.Sequential(torch.nn.Linear(24, 32, bias=has_bias, dtype=dtype))
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)

    with torch.inference_mode():
        expected = model(inputs)
        assert pack_linears(model) == 1
        outputs = model(inputs)

    assert outputs.dtype == dtype
    torch.testing.assert_close(outputs, expected)


@x86
def test_weights_are_not_kept_twice() -> None:
    import torch

    from deployments.engines.packing import pack_linears

    model = torch.nn.Sequential(torch.nn.Linear(24, 32))
    pack_linears(model)

    assert sum(each.numel() for each in model.parameters()) == 32  # the bias


@x86
def test_layers_that_compute_otherwise_are_left_alone() -> None:
    import torch

    from deployments.engines.packing import pack_linears

    class Scaled(torch.nn.Linear):
        pass

    model = torch.nn.Sequential(Scaled(4, 4), torch.nn.Linear(4, 4, dtype=torch.float64))

    assert pack_linears(model) == 0
