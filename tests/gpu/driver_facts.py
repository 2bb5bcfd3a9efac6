#!/usr/bin/env python3
"""What the driver really takes for each kind of allocation: the facts in docs/design/memory.md. Runs outside any slice, on an
otherwise idle card, and prints what NVML shows for this process before and after each call. Standard library only."""

import ctypes as c
import os
import sys

K, M = 1 << 10, 1 << 20
cu, nv = c.CDLL("libcuda.so.1"), c.CDLL("libnvidia-ml.so.1")
handle = c.c_void_p()


class ProcessInfo(c.Structure):
    _fields_ = [("pid", c.c_uint), ("memory", c.c_ulonglong), ("gi", c.c_uint), ("ci", c.c_uint)]


class Location(c.Structure):
    _fields_ = [("kind", c.c_int), ("id", c.c_int)]


class PoolProps(c.Structure):
    _fields_ = [("type", c.c_int), ("handles", c.c_int), ("location", Location), ("win", c.c_void_p),
                ("max", c.c_size_t), ("usage", c.c_ushort), ("reserved", c.c_ubyte * 54)]


class AllocationProps(c.Structure):
    _fields_ = [("type", c.c_int), ("handles", c.c_int), ("location", Location), ("win", c.c_void_p), ("flags", c.c_ubyte * 8)]


class AllocNode(c.Structure):
    _fields_ = [("pool", PoolProps), ("access", c.c_void_p), ("count", c.c_size_t), ("bytes", c.c_size_t), ("pointer", c.c_uint64)]


class Array3D(c.Structure):
    _fields_ = [("width", c.c_size_t), ("height", c.c_size_t), ("depth", c.c_size_t), ("format", c.c_int),
                ("channels", c.c_uint), ("flags", c.c_uint)]


def used():
    """NVML's figure for this process, in bytes."""
    count, list_ = c.c_uint(256), (ProcessInfo * 256)()
    nv.nvmlDeviceGetComputeRunningProcesses_v3(handle, c.byref(count), list_)
    return next((list_[i].memory for i in range(count.value) if list_[i].pid == os.getpid()), 0)


def delta(what, call):
    before = used()
    result = call()
    print(f"{what:<52} {used() - before:>+14}  result {result}")


def alloc(size):
    pointer = c.c_uint64()
    return cu.cuMemAlloc_v2(c.byref(pointer), c.c_size_t(size)), pointer


def linear():
    for size in (1, 512, 64 * K, M - 1, M, M + 1, 2 * M, 2 * M + 1, 3 * M, 33 * M):
        before = used()
        _, one = alloc(size)
        middle = used()
        _, two = alloc(size)
        print(f"cuMemAlloc {size:<10} first {middle - before:>+10}  second {used() - middle:>+10}")
        cu.cuMemFree_v2(one)
        cu.cuMemFree_v2(two)
    before, pointers = used(), [alloc(512)[1].value for _ in range(20000)]
    print(f"20 000 x 512 B: {used() - before:+}, in {len({p >> 21 for p in pointers})} pages of 2 MiB")
    kept = {}
    for p in pointers:
        if p >> 21 in kept:
            cu.cuMemFree_v2(c.c_uint64(p))
        kept.setdefault(p >> 21, p)
    print(f"one kept in each page: {used() - before:+}")
    for p in kept.values():
        cu.cuMemFree_v2(c.c_uint64(p))
    print(f"none kept: {used() - before:+}")


def arrays():
    for width, height, depth, levels in ((16, 16, 0, 0), (1000, 1000, 0, 0), (256, 256, 256, 0), (1024, 1024, 0, 11)):
        array, description = c.c_void_p(), Array3D(width, height, depth, 0x20, 4, 0)
        if levels:
            delta(f"mipmapped {width} x {height}, {levels} levels, 16 B", lambda: cu.cuMipmappedArrayCreate(c.byref(array), c.byref(description), levels))
            cu.cuMipmappedArrayDestroy(array)
        else:
            delta(f"array {width} x {height} x {depth}, 16 B", lambda: cu.cuArray3DCreate_v2(c.byref(array), c.byref(description)))
            cu.cuArrayDestroy(array)


def pools():
    pool, base = c.c_void_p(), used()
    cu.cuDeviceGetDefaultMemPool(c.byref(pool), 0)

    def state():
        values = []
        for attribute in (5, 7):
            value = c.c_uint64()
            cu.cuMemPoolGetAttribute(pool, attribute, c.byref(value))
            values.append(value.value)
        return f"reserved {values[0]:>11} used {values[1]:>11} NVML {used() - base:>+11}"

    pointers = []
    for size in (512, M, 30 * M, 2 * M, 40 * M, 65 * M, 100 * M):
        pointer = c.c_uint64()
        cu.cuMemAllocAsync(c.byref(pointer), c.c_size_t(size), None)
        pointers.append(pointer)
        print(f"pool: {size:>10} more: {state()}")
    for pointer in pointers:
        cu.cuMemFreeAsync(pointer, None)
    print(f"pool: freed:           {state()}")
    cu.cuStreamQuery(None)
    print(f"pool: after a query:   {state()}")
    cu.cuStreamSynchronize(None)
    print(f"pool: synchronised:    {state()}")


def graphs():
    def attribute(which):
        value = c.c_uint64()
        cu.cuDeviceGetGraphMemAttribute(0, which, c.byref(value))
        return value.value

    graph, executable, node = c.c_void_p(), c.c_void_p(), c.c_void_p()
    parameters = AllocNode(PoolProps(1, 0, Location(1, 0)), None, 0, 100 * M, 0)
    cu.cuGraphCreate(c.byref(graph), 0)
    cu.cuGraphAddMemAllocNode(c.byref(node), graph, None, c.c_size_t(0), c.byref(parameters))
    delta("graph with a node of 100 MiB: instantiate", lambda: cu.cuGraphInstantiateWithFlags(c.byref(executable), graph, c.c_ulonglong(0)))
    delta("graph: first launch", lambda: cu.cuGraphLaunch(executable, None))
    cu.cuCtxSynchronize()
    delta("graph: its pointer freed", lambda: cu.cuMemFree_v2(c.c_uint64(parameters.pointer)))
    delta("graph: destroyed", lambda: cu.cuGraphExecDestroy(executable))
    print(f"graph memory reserved on the device: {attribute(2)}")
    delta("graph: memory trimmed", lambda: cu.cuDeviceGraphMemTrim(0))


def physical():
    properties, made, address = AllocationProps(1, 0, Location(1, 0)), c.c_uint64(), c.c_uint64()
    delta("cuMemCreate 64 MiB", lambda: cu.cuMemCreate(c.byref(made), c.c_size_t(64 * M), c.byref(properties), c.c_uint64(0)))
    cu.cuMemAddressReserve(c.byref(address), c.c_size_t(64 * M), c.c_size_t(0), c.c_uint64(0), c.c_uint64(0))
    delta("cuMemMap", lambda: cu.cuMemMap(address, c.c_size_t(64 * M), c.c_size_t(0), made, c.c_uint64(0)))
    delta("cuMemRelease while it is mapped", lambda: cu.cuMemRelease(made))
    delta("cuMemUnmap", lambda: cu.cuMemUnmap(address, c.c_size_t(64 * M)))


def contexts():
    second, current = c.c_void_p(), c.c_void_p()
    cu.cuCtxGetCurrent(c.byref(current))
    delta("a second context", lambda: cu.cuCtxCreate_v2(c.byref(second), 0, 0))
    delta("destroyed", lambda: cu.cuCtxDestroy_v2(second))
    cu.cuCtxSetCurrent(current)
    for limit, name, values in ((0, "stack", (1024, 4096, 16384)), (1, "printf", (16 * M,)), (2, "heap", (512 * M,))):
        for value in values:
            delta(f"cuCtxSetLimit {name} {value}", lambda: cu.cuCtxSetLimit(limit, c.c_size_t(value)))
    pointer = c.c_uint64()
    delta("cuMemAllocManaged 100 MiB", lambda: cu.cuMemAllocManaged(c.byref(pointer), c.c_size_t(100 * M), 1))
    delta("managed: touched on the device", lambda: cu.cuMemsetD8_v2(pointer, 1, c.c_size_t(100 * M)) or cu.cuCtxSynchronize())
    cu.cuMemFree_v2(pointer)


def modules():
    ptx = (b".version 6.0\n.target sm_50\n.address_size 64\n.visible .global .align 4 .b8 big[67108864];\n"
           b".visible .entry k() { ret; }\n")
    module = c.c_void_p()
    delta("module with 64 MiB of data: loaded", lambda: cu.cuModuleLoadData(c.byref(module), ptx))
    delta("unloaded", lambda: cu.cuModuleUnload(module))


def main():
    if cu.cuInit(0) or nv.nvmlInit_v2() or nv.nvmlDeviceGetHandleByIndex_v2(0, c.byref(handle)):
        sys.exit("no GPU, or no driver")
    context = c.c_void_p()
    delta("primary context", lambda: cu.cuDevicePrimaryCtxRetain(c.byref(context), 0))
    cu.cuCtxSetCurrent(context)
    for part in (linear, arrays, pools, graphs, physical, modules, contexts):
        print(f"-- {part.__name__}")
        part()


if __name__ == "__main__":
    main()
