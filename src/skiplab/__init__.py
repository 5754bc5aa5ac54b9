"""Skiplab: train residual and skip-connection networks on small images."""

__version__ = "0.2.0"
