/* The part of the CUDA driver interface that the tests and benchmarks use, declared by hand, so that they build with a
 * plain C compiler and can choose by which door they reach the driver: that choice is what the tests are about. */
#ifndef CLEAVE_TEST_DRIVER_H
#define CLEAVE_TEST_DRIVER_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef void *CUcontext, *CUstream, *CUmodule, *CUfunction, *CUlibrary, *CUarray, *CUmipmappedArray, *CUmemoryPool, *CUgraph,
    *CUgraphExec, *CUgraphNode;
typedef unsigned long long CUmemHandle;
typedef struct { unsigned char bytes[64]; } CUipcHandle;
typedef struct { int type, id; } CUlocation; /* type 1 = device */
typedef struct {
    int type, handle_types; /* pinned = 1; handle type 1 = POSIX file descriptor */
    CUlocation location;
    void *win32;
    unsigned char compression, rdma;
    unsigned short usage;
    unsigned char reserved[4];
} CUallocationProp;
typedef struct { CUlocation location; int flags; } CUaccess; /* flags 3 = read and write */
typedef struct {
    int type, handle_types;
    CUlocation location;
    void *win32;
    size_t max_size;
    unsigned short usage;
    unsigned char reserved[54];
} CUpoolProps;
typedef struct { size_t width, height; int format; unsigned channels; } CUarray2D;
typedef struct { size_t width, height, depth; int format; unsigned channels, flags; } CUarray3D;
typedef struct { unsigned width, height; int format; unsigned channels; } CUarray2D_v1;
typedef struct {
    CUpoolProps pool;
    const CUaccess *access;
    size_t access_count, bytes;
    CUdeviceptr pointer;
} CUallocNode;
typedef struct {
    CUfunction function;
    unsigned grid[3], block[3], shared;
    void **parameters, **extra;
    CUfunction kernel;
    CUcontext context;
} CUkernelNode;
_Static_assert(sizeof(CUkernelNode) == 72, "CUDA_KERNEL_NODE_PARAMS_v2");
_Static_assert(sizeof(CUallocationProp) == 32, "CUmemAllocationProp");
_Static_assert(sizeof(CUpoolProps) == 88, "CUmemPoolProps");

enum { CUDA_OUT_OF_MEMORY = 2, CU_FORMAT_FLOAT = 0x20, CU_FORMAT_BC7 = 0x9d };

/* X(field, name asked of cuGetProcAddress, version asked for, exported name, parameters) */
#define DRIVER_CALLS(X)                                                                                                  \
    X(Init, "cuInit", 2000, "cuInit", (unsigned))                                                                        \
    X(DeviceGet, "cuDeviceGet", 2000, "cuDeviceGet", (CUdevice *, int))                                                  \
    X(DeviceTotalMem, "cuDeviceTotalMem", 3020, "cuDeviceTotalMem_v2", (size_t *, CUdevice))                             \
    X(DeviceGetAttribute, "cuDeviceGetAttribute", 2000, "cuDeviceGetAttribute", (int *, int, CUdevice))                  \
    X(PrimaryCtxRetain, "cuDevicePrimaryCtxRetain", 7000, "cuDevicePrimaryCtxRetain", (CUcontext *, CUdevice))           \
    X(PrimaryCtxReset, "cuDevicePrimaryCtxReset", 11000, "cuDevicePrimaryCtxReset_v2", (CUdevice))                         \
    X(CtxSetCurrent, "cuCtxSetCurrent", 4000, "cuCtxSetCurrent", (CUcontext))                                            \
    X(CtxCreate, "cuCtxCreate", 3020, "cuCtxCreate_v2", (CUcontext *, unsigned, CUdevice))                               \
    X(CtxSynchronize, "cuCtxSynchronize", 2000, "cuCtxSynchronize", (void))                                              \
    X(CtxSetLimit, "cuCtxSetLimit", 3010, "cuCtxSetLimit", (int, size_t))                                                \
    X(MemGetInfo, "cuMemGetInfo", 3020, "cuMemGetInfo_v2", (size_t *, size_t *))                                         \
    X(MemAlloc, "cuMemAlloc", 3020, "cuMemAlloc_v2", (CUdeviceptr *, size_t))                                            \
    X(MemFree, "cuMemFree", 3020, "cuMemFree_v2", (CUdeviceptr))                                                         \
    X(MemAllocPitch, "cuMemAllocPitch", 3020, "cuMemAllocPitch_v2", (CUdeviceptr *, size_t *, size_t, size_t, unsigned)) \
    X(MemAllocManaged, "cuMemAllocManaged", 6000, "cuMemAllocManaged", (CUdeviceptr *, size_t, unsigned))                \
    X(MemAllocHost, "cuMemAllocHost", 3020, "cuMemAllocHost_v2", (void **, size_t))                                      \
    X(MemHostAlloc, "cuMemHostAlloc", 2020, "cuMemHostAlloc", (void **, size_t, unsigned))                               \
    X(MemHostRegister, "cuMemHostRegister", 6050, "cuMemHostRegister_v2", (void *, size_t, unsigned))                    \
    X(MemAllocAsync, "cuMemAllocAsync", 11020, "cuMemAllocAsync", (CUdeviceptr *, size_t, CUstream))                     \
    X(MemFreeAsync, "cuMemFreeAsync", 11020, "cuMemFreeAsync", (CUdeviceptr, CUstream))                                  \
    X(MemAllocFromPoolAsync, "cuMemAllocFromPoolAsync", 11020, "cuMemAllocFromPoolAsync",                                \
      (CUdeviceptr *, size_t, CUmemoryPool, CUstream))                                                                   \
    X(MemPoolCreate, "cuMemPoolCreate", 11020, "cuMemPoolCreate", (CUmemoryPool *, const CUpoolProps *))                 \
    X(MemPoolSetAttribute, "cuMemPoolSetAttribute", 11020, "cuMemPoolSetAttribute", (CUmemoryPool, int, void *))         \
    X(DeviceGetDefaultMemPool, "cuDeviceGetDefaultMemPool", 11020, "cuDeviceGetDefaultMemPool",                          \
      (CUmemoryPool *, CUdevice))                                                                                        \
    X(DeviceSetMemPool, "cuDeviceSetMemPool", 11020, "cuDeviceSetMemPool", (CUdevice, CUmemoryPool))                     \
    X(MemCreate, "cuMemCreate", 10020, "cuMemCreate",                                                                    \
      (CUmemHandle *, size_t, const CUallocationProp *, unsigned long long))                                             \
    X(MemRelease, "cuMemRelease", 10020, "cuMemRelease", (CUmemHandle))                                                  \
    X(MemAddressReserve, "cuMemAddressReserve", 10020, "cuMemAddressReserve",                                            \
      (CUdeviceptr *, size_t, size_t, CUdeviceptr, unsigned long long))                                                  \
    X(MemMap, "cuMemMap", 10020, "cuMemMap", (CUdeviceptr, size_t, size_t, CUmemHandle, unsigned long long))             \
    X(MemUnmap, "cuMemUnmap", 10020, "cuMemUnmap", (CUdeviceptr, size_t))                                                \
    X(MemSetAccess, "cuMemSetAccess", 10020, "cuMemSetAccess", (CUdeviceptr, size_t, const CUaccess *, size_t))          \
    X(MemExport, "cuMemExportToShareableHandle", 10020, "cuMemExportToShareableHandle",                                  \
      (void *, CUmemHandle, int, unsigned long long))                                                                    \
    X(MemImport, "cuMemImportFromShareableHandle", 10020, "cuMemImportFromShareableHandle", (CUmemHandle *, void *, int)) \
    X(ArrayCreate, "cuArrayCreate", 3020, "cuArrayCreate_v2", (CUarray *, const CUarray2D *))                            \
    X(Array3DCreate, "cuArray3DCreate", 3020, "cuArray3DCreate_v2", (CUarray *, const CUarray3D *))                      \
    X(MipmappedArrayCreate, "cuMipmappedArrayCreate", 5000, "cuMipmappedArrayCreate",                                    \
      (CUmipmappedArray *, const CUarray3D *, unsigned))                                                                 \
    X(MemsetD8, "cuMemsetD8", 3020, "cuMemsetD8_v2", (CUdeviceptr, unsigned char, size_t))                               \
    X(StreamCreate, "cuStreamCreate", 2000, "cuStreamCreate", (CUstream *, unsigned))                                    \
    X(StreamSynchronize, "cuStreamSynchronize", 2000, "cuStreamSynchronize", (CUstream))                                 \
    X(StreamBeginCapture, "cuStreamBeginCapture", 10010, "cuStreamBeginCapture_v2", (CUstream, int))                     \
    X(StreamEndCapture, "cuStreamEndCapture", 10000, "cuStreamEndCapture", (CUstream, CUgraph *))                        \
    X(GraphCreate, "cuGraphCreate", 10000, "cuGraphCreate", (CUgraph *, unsigned))                                       \
    X(GraphAddMemAllocNode, "cuGraphAddMemAllocNode", 11040, "cuGraphAddMemAllocNode",                                   \
      (CUgraphNode *, CUgraph, const CUgraphNode *, size_t, CUallocNode *))                                              \
    X(GraphAddKernelNode, "cuGraphAddKernelNode", 12000, "cuGraphAddKernelNode_v2",                                      \
      (CUgraphNode *, CUgraph, const CUgraphNode *, size_t, const CUkernelNode *))                                       \
    X(GraphExecKernelNodeSetParams, "cuGraphExecKernelNodeSetParams", 12000, "cuGraphExecKernelNodeSetParams_v2",        \
      (CUgraphExec, CUgraphNode, const CUkernelNode *))                                                                  \
    X(GraphExecUpdate, "cuGraphExecUpdate", 12000, "cuGraphExecUpdate_v2", (CUgraphExec, CUgraph, void *))               \
    X(GraphInstantiate, "cuGraphInstantiateWithFlags", 11040, "cuGraphInstantiateWithFlags",                             \
      (CUgraphExec *, CUgraph, unsigned long long))                                                                      \
    X(GraphLaunch, "cuGraphLaunch", 10000, "cuGraphLaunch", (CUgraphExec, CUstream))                                     \
    X(ModuleLoadData, "cuModuleLoadData", 2000, "cuModuleLoadData", (CUmodule *, const void *))                          \
    X(ModuleLoad, "cuModuleLoad", 2000, "cuModuleLoad", (CUmodule *, const char *))                                      \
    X(ModuleGetFunction, "cuModuleGetFunction", 2000, "cuModuleGetFunction", (CUfunction *, CUmodule, const char *))     \
    X(ModuleGetGlobal, "cuModuleGetGlobal", 3020, "cuModuleGetGlobal_v2", (CUdeviceptr *, size_t *, CUmodule, const char *)) \
    X(LibraryLoadData, "cuLibraryLoadData", 12000, "cuLibraryLoadData",                                                  \
      (CUlibrary *, const void *, int *, void **, unsigned, int *, void **, unsigned))                                   \
    X(LibraryGetGlobal, "cuLibraryGetGlobal", 12000, "cuLibraryGetGlobal", (CUdeviceptr *, size_t *, CUlibrary, const char *)) \
    X(LibraryGetKernel, "cuLibraryGetKernel", 12000, "cuLibraryGetKernel", (CUfunction *, CUlibrary, const char *))      \
    X(LaunchKernel, "cuLaunchKernel", 4000, "cuLaunchKernel",                                                            \
      (CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream, void **, void **))    \
    X(IpcGetMemHandle, "cuIpcGetMemHandle", 4010, "cuIpcGetMemHandle", (CUipcHandle *, CUdeviceptr))                     \
    X(IpcOpenMemHandle, "cuIpcOpenMemHandle", 11000, "cuIpcOpenMemHandle_v2", (CUdeviceptr *, CUipcHandle, unsigned))

struct driver {
#define X(field, base, version, name, parameters) CUresult(*field) parameters;
    DRIVER_CALLS(X)
#undef X
    void *library;
    CUresult (*GetProcAddress)(const char *, void **, int, uint64_t, int *);
};

enum door { BY_DLSYM, BY_GETPROC, BY_GETPROC_PTSZ };

static inline double now_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* One entry point by the chosen door, or null. */
static inline void *driver_find(struct driver *d, enum door door, const char *base, int version, const char *name) {
    void *found = NULL;
    if (door == BY_DLSYM)
        return dlsym(d->library, name);
    int status = 0;
    if (door == BY_GETPROC_PTSZ) { /* the per-thread variants came in 7.0 at the earliest */
        if (d->GetProcAddress(base, &found, version < 7000 ? 7000 : version, 2, &status) == 0 && found)
            return found;
        found = NULL;
    }
    if (d->GetProcAddress(base, &found, version, 0, &status) != 0)
        return NULL;
    return found;
}

/* Opens `library` and fills the table. Calls that the driver lacks stay null. Returns null, or why it failed. */
static inline const char *driver_open(struct driver *d, const char *library, int new_namespace, enum door door) {
    memset(d, 0, sizeof *d);
    d->library = new_namespace ? dlmopen(LM_ID_NEWLM, library, RTLD_NOW) : dlopen(library, RTLD_NOW);
    if (!d->library)
        return dlerror();
    void *get = dlsym(d->library, "cuGetProcAddress_v2");
    memcpy(&d->GetProcAddress, &get, sizeof get);
    if (door != BY_DLSYM) {
        /* As the runtime does: ask the exported resolver for the resolver, then use that. */
        int status = 0;
        void *resolved = NULL;
        if (!get)
            return "no cuGetProcAddress_v2";
        if (d->GetProcAddress("cuGetProcAddress", &resolved, 12000, 0, &status) == 0 && resolved)
            memcpy(&d->GetProcAddress, &resolved, sizeof resolved);
    }
#define X(field, base, version, name, parameters)                        \
    {                                                                    \
        void *entry = driver_find(d, door, base, version, name);         \
        memcpy(&d->field, &entry, sizeof entry);                         \
    }
    DRIVER_CALLS(X)
#undef X
    return d->Init ? NULL : "no cuInit";
}

/* For programs that can only end when a call fails. */
static inline void die(const char *what, CUresult error) {
    fprintf(stderr, "%s: %s: error %d\n", program_invocation_short_name, what, error);
    exit(1);
}

/* `driver_open`, or the end. */
static inline void driver_need(struct driver *d, const char *library, enum door door) {
    const char *problem = driver_open(d, library, 0, door);
    if (problem) {
        fprintf(stderr, "%s: %s\n", program_invocation_short_name, problem);
        exit(1);
    }
}

/* A call of the program's own table, `cu`, that has to succeed. */
#define NEED(field, ...)                         \
    do {                                         \
        CUresult error_ = cu.field(__VA_ARGS__); \
        if (error_)                              \
            die(#field, error_);                 \
    } while (0)

static const char EMPTY_PTX[] = ".version 6.0\n.target sm_50\n.address_size 64\n.visible .entry empty() { ret; }\n";

#endif
