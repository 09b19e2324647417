"""Layers whose weights lie as oneDNN wants them.

PyTorch's own hand theirs over as they are, and oneDNN reorders them in every pass. Done once, a
short text takes two thirds of the time (MiniLM in bfloat16), float32 in batches half of it, and a
step of the demo's image model three quarters.
"""

import platform

import torch  # noqa: TID253  # only engines import this module, in functions of theirs


class PackedLinear(torch.nn.Linear):
    """`torch.nn.Linear` for inference on a CPU."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        """Take over the weights of a layer, which should be thrown away then."""
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self.weight = _leave_dtype(linear.weight)
        # What torch.compile does with `freezing`; there is no public function for it.
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(…, in_features) → (…, out_features)."""
        outputs: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            input, self._packed, self.bias, "none", [], ""
        )
        return outputs


class PackedConv2d(torch.nn.Conv2d):
    """`torch.nn.Conv2d` for inference on a CPU."""

    def __init__(self, conv: torch.nn.Conv2d) -> None:
        """Take over the weights of a layer, which should be thrown away then."""
        torch.nn.Module.__init__(self)
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.kernel_size, self.padding_mode = conv.kernel_size, conv.padding_mode
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation
        self.groups = conv.groups
        self.bias = conv.bias
        self.weight = _leave_dtype(conv.weight)
        self._geometry = conv.padding, conv.stride, conv.dilation, conv.groups
        self._packed = torch.ops.mkldnn._reorder_convolution_weight(
            conv.weight.detach(), *self._geometry, None
        )

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) → (N, out_channels, h, w)."""
        outputs: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            input, self._packed, self.bias, *self._geometry, "none", [], ""
        )
        return outputs


def _leave_dtype(weight: torch.Tensor) -> torch.nn.Parameter:
    """An empty one, for models that ask for its dtype."""
    return torch.nn.Parameter(weight.new_empty(0), requires_grad=False)


def pack_weights(model: torch.nn.Module) -> int:
    """Replace the linear and convolution layers of a model, where oneDNN is used at all.

    Only those of PyTorch's own classes: others compute otherwise. Returns how many.
    """
    if platform.machine() != "x86_64" or not torch.backends.mkldnn.is_available():
        return 0
    count = 0
    for module in list(model.modules()):
        for name, child in module.named_children():
            if (packed := _pack(child)) is not None:
                setattr(module, name, packed)
                count += 1
    return count


def _pack(layer: torch.nn.Module) -> torch.nn.Module | None:
    if type(layer) is torch.nn.Linear and _can_pack(layer.weight):
        return PackedLinear(layer)
    if type(layer) is torch.nn.Conv2d and _can_pack(layer.weight):
        is_plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        return PackedConv2d(layer) if is_plain else None
    return None


def _can_pack(weight: torch.Tensor) -> bool:
    if weight.device.type != "cpu":
        return False
    return weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )
