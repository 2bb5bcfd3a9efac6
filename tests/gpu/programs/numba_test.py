"""A numba.cuda kernel. numba loads the driver by ctypes under its own names."""
import numpy
from numba import cuda


@cuda.jit
def scale(a, f):
    i = cuda.grid(1)
    if i < a.size:
        a[i] *= f


a = numpy.arange(100_000, dtype=numpy.float64)
d = cuda.to_device(a)
scale[(a.size + 255) // 256, 256](d, 3.0)
assert numpy.array_equal(d.copy_to_host(), a * 3)
info = cuda.current_context().get_memory_info()
print(f"numba: total {info[1]}")
