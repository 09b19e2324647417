"""Weight prepacking: linear and convolution layers whose weights are stored in oneDNN's layout.

PyTorch's own layers pass plain weights, and oneDNN reorders them in every forward pass. Reordering
once cuts a short text to two thirds of its time (MiniLM in bfloat16), float32 batches to half, and
a step of the demo's image model to three quarters.
"""

import platform

import torch  # noqa: TID253  # only engines import this module, inside functions


class PrepackedLinear(torch.nn.Linear):
    """`torch.nn.Linear` for inference on a CPU."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        """Take over the weights of a layer, which is unusable afterwards."""
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self.weight = _empty_like(linear.weight)
        # As torch.compile does with `freezing`; there is no public function for it.
        self._prepacked = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(…, in_features) → (…, out_features)."""
        outputs: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            input, self._prepacked, self.bias, "none", [], ""
        )
        return outputs


class PrepackedConv2d(torch.nn.Conv2d):
    """`torch.nn.Conv2d` for inference on a CPU."""

    def __init__(self, conv: torch.nn.Conv2d) -> None:
        """Take over the weights of a layer, which is unusable afterwards."""
        torch.nn.Module.__init__(self)
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.kernel_size, self.padding_mode = conv.kernel_size, conv.padding_mode
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation
        self.groups = conv.groups
        self.bias = conv.bias
        self.weight = _empty_like(conv.weight)
        self._geometry = conv.padding, conv.stride, conv.dilation, conv.groups
        self._prepacked = torch.ops.mkldnn._reorder_convolution_weight(
            conv.weight.detach(), *self._geometry, None
        )

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) → (N, out_channels, h, w)."""
        outputs: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            input, self._prepacked, self.bias, *self._geometry, "none", [], ""
        )
        return outputs


def _empty_like(weight: torch.Tensor) -> torch.nn.Parameter:
    """An empty parameter: some models read the dtype of a layer's weight."""
    return torch.nn.Parameter(weight.new_empty(0), requires_grad=False)


def prepack_weights(model: torch.nn.Module) -> int:
    """Replace a model's linear and convolution layers in place, where oneDNN computes them.

    Subclasses of PyTorch's layers are left alone, because they may compute something else.

    Returns:
        The number of replaced layers.
    """
    if platform.machine() != "x86_64" or not torch.backends.mkldnn.is_available():
        return 0
    count = 0
    for module in list(model.modules()):
        for name, child in module.named_children():
            if (prepacked := _prepack(child)) is not None:
                setattr(module, name, prepacked)
                count += 1
    return count


def _prepack(layer: torch.nn.Module) -> torch.nn.Module | None:
    if type(layer) is torch.nn.Linear and _can_prepack(layer.weight):
        return PrepackedLinear(layer)
    if type(layer) is torch.nn.Conv2d and _can_prepack(layer.weight):
        is_plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        return PrepackedConv2d(layer) if is_plain else None
    return None


def _can_prepack(weight: torch.Tensor) -> bool:
    if weight.device.type != "cpu":
        return False
    return weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )
