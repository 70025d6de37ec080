"""The host around kernels: launching, recording, devices, settings, and what torch's compiler must not read."""
