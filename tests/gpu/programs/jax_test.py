"""JAX with its defaults: it takes 75 % of what it believes the card to have."""
import json

import jax
import jax.numpy as jnp

x = jnp.ones((2048, 2048))
y = jax.jit(lambda a: (a @ a).sum())(x)
assert float(y) == 2048.0**3, y
grad = jax.grad(lambda a: (a**2).sum())(x)
assert float(grad[0, 0]) == 2.0
device = jax.devices()[0]
assert device.platform == "gpu", device
print(json.dumps({"pool": device.memory_stats()["bytes_limit"]}))
