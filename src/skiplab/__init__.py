"""Skiplab: train residual and skip-connection networks on small images, config-driven, exact and fast."""

__version__ = "0.2.0"
