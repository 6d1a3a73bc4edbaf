"""Ready converters between tensors and the ndarrays that Zarr stores."""

from typing import TYPE_CHECKING

from flowerpress.arrays.lazy import NumpyConverter
from flowerpress.codecs.dtypes import Host, cast, dtype_name, is_extended, to_host

if TYPE_CHECKING:
    import torch


class PlainConverter(NumpyConverter[Host]):
    """ndarrays, as they are."""

    def to_numpy(self, x: Host) -> Host:
        """Return the array; bfloat16 and float8 as float32, which holds them exactly."""
        return cast(x, "float32") if is_extended(dtype_name(x)) else x

    def from_numpy(self, x: Host) -> Host:
        """Return the array."""
        return x


class TorchConverter(NumpyConverter["torch.Tensor"]):
    """Tensors on any device.

    Parameters
    ----------
    device : str or torch.device, optional
        Where tensors are put that come from ndarrays; by default the host.
    dtype : torch.dtype, optional
        What they are cast to; by default their own. bfloat16 and float8 are stored as float32: name them to get them
        back.
    """

    def __init__(self, device: "str | torch.device | None" = None, dtype: "torch.dtype | None" = None) -> None:
        self.device, self.dtype = device, dtype

    def to_numpy(self, x: "torch.Tensor") -> Host:
        """Return a tensor on the host; bfloat16 and float8 as float32, which holds them exactly."""
        return PlainConverter().to_numpy(to_host(x.detach()))

    def from_numpy(self, x: Host) -> "torch.Tensor":
        """Return an ndarray as a tensor of its own memory."""
        import torch

        return torch.tensor(x, device=self.device, dtype=self.dtype)
