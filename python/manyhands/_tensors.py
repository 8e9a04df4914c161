"""How PyTorch's tensors on the CPU are pickled: so that their memory can travel apart.

By itself PyTorch writes the memory behind a tensor into the pickle of its storage, as a file within. Called by the
engine for storages, so that whatever consists of them is served: parameters, parts of tensors, models.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def reduce_storage(storage: Any) -> tuple[Callable[..., Any], tuple[Any, ...]] | tuple[Any, ...]:
    """What a ``torch.storage.TypedStorage`` is pickled as.

    Parameters
    ----------
    storage : torch.storage.TypedStorage
        Of any device.

    Returns
    -------
    tuple
        A function and its arguments, the memory among them as an array of bytes; PyTorch's own choice for memory
        that is not the processor's.
    """
    import torch

    # Before PyTorch 2 it has none. Its public face warns that it is about to go.
    untyped = getattr(storage, "_untyped_storage", None)
    if untyped is None or untyped.device.type != "cpu":
        own: tuple[Any, ...] = storage.__reduce__()
        return own
    memory = torch.empty(0, dtype=torch.uint8).set_(untyped).numpy()
    return _rebuild_storage, (memory, storage.dtype)


def _rebuild_storage(memory: Any, dtype: Any) -> Any:
    """A storage over the memory that has arrived, which it keeps."""
    import torch

    untyped = torch.from_numpy(memory).untyped_storage()
    return torch.storage.TypedStorage(wrap_storage=untyped, dtype=dtype, _internal=True)
