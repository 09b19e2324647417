"""Linear layers whose weights lie as oneDNN wants them.

PyTorch's own hand theirs over as they are, and oneDNN reorders them in every pass. Done once, a
short text takes two thirds of the time (MiniLM in bfloat16), and float32 in batches half of it.
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
        # Some models ask for its dtype.
        self.weight = torch.nn.Parameter(linear.weight.new_empty(0), requires_grad=False)
        weight = linear.weight.detach()
        # What torch.compile does with `freezing`; there is no public function for it.
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(…, in_features) → (…, out_features)."""
        outputs: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            input, self._packed, self.bias, "none", [], ""
        )
        return outputs


def pack_linears(model: torch.nn.Module) -> int:
    """Replace the linear layers of a model; returns how many, which is 0 where oneDNN is not used.

    Only those of PyTorch's own class: others compute otherwise.
    """
    if platform.machine() != "x86_64" or not torch.backends.mkldnn.is_available():
        return 0
    count = 0
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is torch.nn.Linear and _can_pack(child):
                setattr(module, name, PackedLinear(child))
                count += 1
    return count


def _can_pack(linear: torch.nn.Linear) -> bool:
    weight = linear.weight
    if weight.device.type != "cpu":
        return False
    return weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )
