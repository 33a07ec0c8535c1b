"""Tree search over states that only a network understands: the third part of o1jax."""
