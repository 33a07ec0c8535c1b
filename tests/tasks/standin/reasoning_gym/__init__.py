"""A stand-in for the library, with its interface and its faults, for tests/tasks."""

from reasoning_gym.factory import create_dataset

__all__ = ["create_dataset"]
