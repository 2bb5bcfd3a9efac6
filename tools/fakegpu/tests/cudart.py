#!/usr/bin/env python3
"""Runs an unmodified CUDA runtime on the simulated driver.

usage: LD_LIBRARY_PATH=<dir> python3 tests/cudart.py <path of libcudart.so.12 or .13>
where <dir> was made by `fakegpu::install` with a spec whose first device is an H100.

Exit status 77 means that this runtime does not start on a simulated driver: NVIDIA's runtimes from 12 on ask the
driver for a keyed answer (the private export table d4082055...) that shows it to be NVIDIA's own, and the simulated
driver does not pretend to be. Everything before that question is answered.
"""
import ctypes as c
import sys

rt = c.CDLL(sys.argv[1])
rt.cudaGetErrorString.restype = c.c_char_p


def ok(name, *args):
    code = getattr(rt, name)(*args)
    assert code == 0, f"{name}: {code} {rt.cudaGetErrorString(code).decode()}"


def main():
    count, version = c.c_int(), c.c_int()
    code = rt.cudaGetDeviceCount(c.byref(count))
    if code in (103, 500):
        print(f"not started: the runtime wants NVIDIA's own driver ({code} {rt.cudaGetErrorString(code).decode()})")
        sys.exit(77)
    ok("cudaGetDeviceCount", c.byref(count))
    ok("cudaDriverGetVersion", c.byref(version))
    assert count.value >= 1 and version.value == 13000, (count, version)

    properties = c.create_string_buffer(4096)
    ok("cudaGetDeviceProperties" if hasattr(rt, "cudaGetDeviceProperties") else "cudaGetDeviceProperties_v2", properties, 0)
    name = properties.value.decode()
    # The prefix is stable: name[256], uuid[16], luid[8], luidDeviceNodeMask, totalGlobalMem.
    assert name == "NVIDIA H100 80GB HBM3", name

    free0, total = c.c_size_t(), c.c_size_t()
    ok("cudaMemGetInfo", c.byref(free0), c.byref(total))
    assert total.value == 85017493504, total
    assert free0.value <= total.value - 543162368, free0

    # A round trip through device memory, synchronous and on a stream.
    size = 3 << 20
    device = c.c_void_p()
    ok("cudaMalloc", c.byref(device), c.c_size_t(size))
    free1 = c.c_size_t()
    ok("cudaMemGetInfo", c.byref(free1), c.byref(total))
    assert free0.value - free1.value == 4 << 20, (free0, free1)
    source = c.create_string_buffer(bytes(i % 251 for i in range(size)), size)
    back = c.create_string_buffer(size)
    ok("cudaMemcpy", device, source, c.c_size_t(size), 1)
    ok("cudaMemcpy", back, device, c.c_size_t(size), 2)
    assert back.raw == source.raw

    stream = c.c_void_p()
    ok("cudaStreamCreate", c.byref(stream))
    ok("cudaMemsetAsync", device, 0x5A, c.c_size_t(size), stream)
    ok("cudaMemcpyAsync", back, device, c.c_size_t(size), 2, stream)
    ok("cudaStreamSynchronize", stream)
    assert back.raw == b"\x5a" * size
    ok("cudaFree", device)

    # Stream-ordered memory: 32 MiB are reserved, and go with the next synchronisation.
    pooled = c.c_void_p()
    ok("cudaMallocAsync", c.byref(pooled), c.c_size_t(1 << 20), stream)
    ok("cudaMemGetInfo", c.byref(free1), c.byref(total))
    assert free0.value - free1.value == 32 << 20, (free0, free1)
    ok("cudaFreeAsync", pooled, stream)
    ok("cudaStreamSynchronize", stream)
    ok("cudaMemGetInfo", c.byref(free1), c.byref(total))
    assert free0.value == free1.value, (free0, free1)

    # Events, an error that names itself, host memory.
    start, end, passed = c.c_void_p(), c.c_void_p(), c.c_float(-1)
    ok("cudaEventCreate", c.byref(start))
    ok("cudaEventCreate", c.byref(end))
    ok("cudaEventRecord", start, stream)
    ok("cudaEventRecord", end, stream)
    ok("cudaEventSynchronize", end)
    ok("cudaEventElapsedTime", c.byref(passed), start, end)
    assert passed.value >= 0, passed
    assert rt.cudaMalloc(c.byref(device), c.c_size_t(1 << 40)) == 2
    assert rt.cudaGetLastError() == 2
    host = c.c_void_p()
    ok("cudaMallocHost", c.byref(host), c.c_size_t(4096))
    ok("cudaFreeHost", host)
    ok("cudaStreamDestroy", stream)
    ok("cudaDeviceSynchronize")
    ok("cudaDeviceReset")
    print(f"ok: {name}, driver {version.value}, {count.value} device(s)")


main()
