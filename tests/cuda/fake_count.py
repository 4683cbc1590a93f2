"""What passed between the host and the device that `fake_cupy` plays."""

from collections import Counter
from contextlib import contextmanager


class Count:
    """How often the host waited for the device, copies to the device, and launches by name."""

    def __init__(self):
        self.launches = Counter()
        self.synchronisations = self.uploads = 0
        self.forbidden = False

    @contextmanager
    def no_synchronisation(self):
        """Inside, an AssertionError for whatever would make the host wait for the device."""
        self.forbidden = True
        try:
            yield
        finally:
            self.forbidden = False

    def synchronisation(self, what):
        self.synchronisations += 1
        assert not self.forbidden, f"{what} makes the host wait for the device"


count = Count()
