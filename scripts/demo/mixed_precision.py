"""Mixed-precision training on a CPU: bfloat16 compute, float32 master weights, AdamW, EMA."""

import math

import torch
from torch import Tensor, nn

WARM_UP_SHARE = 0.01  # of the steps


class Mixed:
    """Float32 master weights of modules that compute in bfloat16, with AdamW and an EMA.

    The learning rate warms up, then decays to zero as a cosine. Updates too small for bfloat16
    accumulate in float32.
    """

    def __init__(self, groups: list[tuple[nn.Module, float]], steps: int, ema: float) -> None:
        """Convert the modules to bfloat16.

        Args:
            groups: modules with their peak learning rates.
            steps: length of the schedule.
            ema: decay of the moving average, per step.
        """
        self._steps, self._step, self._ema_decay = steps, 0, ema
        self._master: list[Tensor] = []
        settings = []
        for module, rate in groups:
            master = [parameter.detach().float().clone() for parameter in module.parameters()]
            self._master += master
            settings.append({"params": master, "lr": rate, "peak": rate})
            module.to(torch.bfloat16)
        self._working = [parameter for module, _ in groups for parameter in module.parameters()]
        self._ema = [parameter.clone() for parameter in self._master]
        self._optimizer = torch.optim.AdamW(settings, weight_decay=0.01, betas=(0.9, 0.98))

    def step(self, loss: Tensor) -> None:
        """Make one optimizer step on `loss`."""
        loss.backward()
        share = self._step / self._steps
        warm_up = min(1.0, share / WARM_UP_SHARE + 0.01)
        scale = warm_up * 0.5 * (1 + math.cos(math.pi * share))
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * scale
        for master, working in zip(self._master, self._working, strict=True):
            master.grad = None if working.grad is None else working.grad.float()
            working.grad = None
        torch.nn.utils.clip_grad_norm_(self._master, 1.0)
        self._optimizer.step()
        self._step += 1
        torch._foreach_copy_(self._working_data(), self._master)
        decay = min(self._ema_decay, (1 + self._step) / (10 + self._step))
        torch._foreach_lerp_(self._ema, self._master, 1 - decay)

    def use_average(self) -> None:
        """Load the moving average into the modules."""
        torch._foreach_copy_(self._working_data(), self._ema)

    def use_latest(self) -> None:
        """Load the parameters being trained back into the modules."""
        torch._foreach_copy_(self._working_data(), self._master)

    def _working_data(self) -> list[Tensor]:
        return [parameter.data for parameter in self._working]
