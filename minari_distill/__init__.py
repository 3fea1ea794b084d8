"""Offline behaviour distillation for Minari datasets."""

__version__ = "0.1.0"
