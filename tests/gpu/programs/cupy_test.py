"""CuPy: its pool, a raw kernel, and its own out-of-memory error."""
import cupy

x = cupy.arange(1 << 20, dtype=cupy.float32)
assert float(x.sum(dtype=cupy.float64)) == (1 << 20) * ((1 << 20) - 1) / 2
double = cupy.RawKernel('extern "C" __global__ void f(float* p) { p[blockIdx.x * blockDim.x + threadIdx.x] *= 2; }', "f")
double((4096,), (256,), (x,))
assert float(x[-1]) == 2 * ((1 << 20) - 1)
total = cupy.cuda.runtime.memGetInfo()[1]
try:
    cupy.empty(total, dtype=cupy.uint8)
except cupy.cuda.memory.OutOfMemoryError:
    pass
else:
    raise AssertionError("got as much as the whole slice beside a context")
cupy.empty(total // 2, dtype=cupy.uint8)
print(f"pool, raw kernel and OutOfMemoryError; total {total // 2**20} MiB")
