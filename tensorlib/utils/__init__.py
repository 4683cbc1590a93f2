"""`torch.utils`: so far `checkpoint` alone."""

from . import checkpoint
