"""o1jax: policy initialization, reward design, search and learning, in one loop."""

__version__ = "0.1.0"
