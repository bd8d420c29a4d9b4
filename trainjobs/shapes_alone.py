"""Networks that have shapes and no values, to look at before a run has ranks."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Weights of networks built here lie on torch's meta device, and take no memory.

    Inside `torch.device("meta")` a RegNet cannot be built: it computes its widths with tensors.
    """

    def drop_weight(_: nn.Module, __: str, weight: nn.Parameter) -> nn.Parameter:
        return nn.Parameter(weight.to("meta"), weight.requires_grad)

    def drop_buffer(_: nn.Module, __: str, buffer: Tensor | None) -> Tensor | None:
        return None if buffer is None else buffer.to("meta")

    # torch's stubs want hooks that return nothing; what they return takes the tensor's place.
    hooks = (
        register_module_parameter_registration_hook(drop_weight),  # type: ignore[arg-type]  # see above
        register_module_buffer_registration_hook(drop_buffer),  # type: ignore[arg-type]  # see above
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
