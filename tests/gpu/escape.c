/* Asks for device memory on one path of the driver, in steps, until it is refused or has what it asked for.
 *
 *   escape PATH [--via dlsym|getproc|ptsz] [--lib FILE] [--dlmopen] [--ask MiB] [--step MiB] [--file FILE] [--hold]
 *
 * Prints one JSON line with what it got and which error ended it. With --hold it keeps everything until its stdin
 * closes, so that somebody outside can read NVML's figure for it. It is told nothing about quotas. */
#include "driver.h"
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define MIB ((size_t)1 << 20)
#define MAX_STEPS 4096

static struct driver cu;
static enum door door = BY_DLSYM;
static const char *library = "libcuda.so.1", *file;
static int new_namespace;
static size_t ask = 12288, step = 256, got;
static CUdevice device;
static CUstream stream;
static CUmemoryPool pool;
static CUfunction empty;
static int threads_resident;
static const char *failed_at = "";

/* A step returns 0 and adds to `got`, or the driver's error, with the call that returned it in `failed_at`. */
#define TRY(call)                                    \
    do {                                             \
        if (!cu.call) {                              \
            failed_at = #call " is not there";       \
            return -1;                               \
        }                                            \
    } while (0)
#define CHECK(field, ...)                            \
    do {                                             \
        TRY(field);                                  \
        CUresult result_ = cu.field(__VA_ARGS__);    \
        if (result_) {                               \
            failed_at = #field;                      \
            return result_;                          \
        }                                            \
    } while (0)

static CUresult launch(CUfunction function, void **arguments) {
    CHECK(LaunchKernel, function, 1, 1, 1, 1, 1, 1, 0, NULL, arguments, NULL);
    CHECK(CtxSynchronize);
    return 0;
}

static CUresult by_alloc(int i) {
    (void)i;
    CUdeviceptr p = 0;
    CHECK(MemAlloc, &p, step * MIB);
    return 0;
}

static CUresult by_pitch(int i) {
    (void)i;
    CUdeviceptr p = 0;
    size_t pitch = 0;
    CHECK(MemAllocPitch, &p, &pitch, 16384, step * MIB / 16384, 16);
    return 0;
}

static CUresult by_managed(int i) {
    (void)i;
    CUdeviceptr p = 0;
    CHECK(MemAllocManaged, &p, step * MIB, 1);
    /* Managed memory takes its place on the device when the device touches it. */
    CHECK(MemsetD8, p, 1, step * MIB);
    CHECK(CtxSynchronize);
    return 0;
}

static CUresult by_async(int i) {
    (void)i;
    CUdeviceptr p = 0;
    CHECK(MemAllocAsync, &p, step * MIB, stream);
    CHECK(StreamSynchronize, stream);
    return 0;
}

static CUresult make_pool(CUmemoryPool *made) {
    CUpoolProps props = {.type = 1, .location = {1, device}};
    CHECK(MemPoolCreate, made, &props);
    return 0;
}

static CUresult by_pool(int i) {
    (void)i;
    CUdeviceptr p = 0;
    CUresult error;
    if (!pool && (error = make_pool(&pool)))
        return error;
    CHECK(MemAllocFromPoolAsync, &p, step * MIB, pool, stream);
    CHECK(StreamSynchronize, stream);
    return 0;
}

static CUresult by_pool_host(int i) {
    CUpoolProps props = {.type = 1, .location = {2 /* host */, 0}};
    CUdeviceptr p = 0;
    if (!i)
        CHECK(MemPoolCreate, &pool, &props);
    CHECK(MemAllocFromPoolAsync, &p, step * MIB, pool, stream);
    CHECK(StreamSynchronize, stream);
    return 0;
}

/* The pool of the device's streams is another one in each step. */
static CUresult by_async_other(int i) {
    CUdeviceptr p = 0;
    CUmemoryPool own;
    CUresult error = make_pool(&own);
    if (error)
        return error;
    if (i % 2)
        CHECK(DeviceSetMemPool, device, own);
    CHECK(MemAllocAsync, &p, step * MIB, stream);
    CHECK(StreamSynchronize, stream);
    return 0;
}

/* What is freed stays reserved in its pool when the pool says so; each step uses a pool of its own. */
static CUresult by_pool_hoard(int i) {
    (void)i;
    CUmemoryPool own;
    CUdeviceptr p = 0;
    CUresult error;
    unsigned long long everything = ~0ull;
    if ((error = make_pool(&own)))
        return error;
    CHECK(MemPoolSetAttribute, own, 4 /* release threshold */, &everything);
    CHECK(MemAllocFromPoolAsync, &p, step * MIB, own, stream);
    CHECK(MemFreeAsync, p, stream);
    CHECK(StreamSynchronize, stream);
    return 0;
}

static CUresult create_handle(CUmemHandle *handle, int exportable) {
    CUallocationProp prop = {.type = 1, .handle_types = exportable, .location = {1, device}};
    CHECK(MemCreate, handle, step * MIB, &prop, 0);
    return 0;
}

static CUdeviceptr mapped;

static CUresult map_handle(CUmemHandle handle) {
    CUdeviceptr p = 0;
    CUaccess access = {{1, device}, 3};
    CHECK(MemAddressReserve, &p, step * MIB, 0, 0, 0);
    CHECK(MemMap, p, step * MIB, 0, handle, 0);
    CHECK(MemSetAccess, p, step * MIB, &access, 1);
    mapped = p;
    return 0;
}

static CUresult by_create(int i) {
    (void)i;
    CUmemHandle handle;
    CUresult error = create_handle(&handle, 0);
    return error ? error : map_handle(handle);
}

/* The memory lives on in its mapping after the handle is released. */
static CUresult by_create_release(int i) {
    (void)i;
    CUmemHandle handle;
    CUresult error = create_handle(&handle, 0);
    if (error || (error = map_handle(handle)))
        return error;
    CHECK(MemRelease, handle);
    return 0;
}

/* And after an attempt to unmap half of it, which the driver refuses. */
static CUresult by_create_unmap(int i) {
    CUresult error = by_create_release(i);
    if (!error && !cu.MemUnmap(mapped, step / 2 * MIB)) {
        failed_at = "MemUnmap of half a mapping was accepted";
        return -1;
    }
    return error;
}

/* The memory lives on in an exported file descriptor after the handle is released. */
static CUresult by_create_export(int i) {
    (void)i;
    CUmemHandle handle;
    int fd = -1;
    CUresult error = create_handle(&handle, 1);
    if (error)
        return error;
    CHECK(MemExport, &fd, handle, 1, 0);
    CHECK(MemRelease, handle);
    return 0;
}

/* Exported twice: the one that is left keeps it. */
static CUresult by_create_export_twice(int i) {
    (void)i;
    CUmemHandle handle;
    int first = -1, second = -1;
    CUresult error = create_handle(&handle, 1);
    if (error)
        return error;
    CHECK(MemExport, &first, handle, 1, 0);
    CHECK(MemExport, &second, handle, 1, 0);
    close(second);
    CHECK(MemRelease, handle);
    return 0;
}

/* Export, release, import again and map. */
static CUresult by_create_reimport(int i) {
    (void)i;
    CUmemHandle handle;
    int fd = -1;
    CUresult error = create_handle(&handle, 1);
    if (error)
        return error;
    CHECK(MemExport, &fd, handle, 1, 0);
    CHECK(MemRelease, handle);
    CHECK(MemImport, &handle, (void *)(intptr_t)fd, 1);
    close(fd);
    return map_handle(handle);
}

static CUresult by_array(int i) {
    (void)i;
    CUarray a;
    CUarray2D d = {16384, step * MIB / 16 / 16384, CU_FORMAT_FLOAT, 4};
    CHECK(ArrayCreate, &a, &d);
    return 0;
}

static CUresult by_array_compressed(int i) {
    (void)i;
    CUarray a;
    CUarray2D d = {16384, step * MIB / 16384, CU_FORMAT_BC7, 4};
    CHECK(ArrayCreate, &a, &d);
    return 0;
}

static CUresult by_array3d(int i) {
    (void)i;
    CUarray a;
    CUarray3D d = {1024, 1024, step * MIB / 16 / 1024 / 1024, CU_FORMAT_FLOAT, 4, 0};
    CHECK(Array3DCreate, &a, &d);
    return 0;
}

static CUresult by_mipmap(int i) {
    (void)i;
    CUmipmappedArray a;
    CUarray3D d = {16384, step * MIB / 16 / 16384, 0, CU_FORMAT_FLOAT, 4, 0};
    CHECK(MipmappedArrayCreate, &a, &d, 1);
    return 0;
}

static CUresult run_graph(CUgraph graph) {
    CUgraphExec exec;
    CHECK(GraphInstantiate, &exec, graph, 0);
    CHECK(GraphLaunch, exec, stream);
    CHECK(StreamSynchronize, stream);
    return 0;
}

static CUresult by_graph_node(int i) {
    (void)i;
    CUgraph graph;
    CUgraphNode node;
    CUaccess access = {{1, device}, 3};
    CUallocNode parameters = {.pool = {.type = 1, .location = {1, device}}, .access = &access, .access_count = 1, .bytes = step * MIB};
    CHECK(GraphCreate, &graph, 0);
    CHECK(GraphAddMemAllocNode, &node, graph, NULL, 0, &parameters);
    return run_graph(graph);
}

static CUresult by_capture(int i) {
    (void)i;
    CUgraph graph;
    CUdeviceptr p = 0;
    CHECK(StreamBeginCapture, stream, 2 /* relaxed */);
    CUresult error = cu.MemAllocAsync(&p, step * MIB, stream);
    CHECK(StreamEndCapture, stream, &graph);
    if (error) {
        failed_at = "MemAllocAsync in a capture";
        return error;
    }
    return run_graph(graph);
}

static CUresult by_host(int i) {
    (void)i;
    void *p;
    CHECK(MemAllocHost, &p, step * MIB);
    return 0;
}

static CUresult by_hostalloc(int i) {
    (void)i;
    void *p;
    CHECK(MemHostAlloc, &p, step * MIB, 2 /* mapped */);
    return 0;
}

static CUresult by_hostregister(int i) {
    (void)i;
    void *p = mmap(NULL, step * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (p == MAP_FAILED) {
        failed_at = "mmap";
        return -1;
    }
    CHECK(MemHostRegister, p, step * MIB, 0);
    return 0;
}

/* The first interface's forms: sizes and pointers of 32 bits. Still exported, under the names without suffix. */
static void *plain(const char *name) {
    void *found = dlsym(cu.library, name);
    if (!found)
        failed_at = name;
    return found;
}

static CUresult by_v1_alloc(int i) {
    (void)i;
    CUresult (*f)(unsigned *, unsigned);
    unsigned p[2] = {0, 0};
    void *found = plain("cuMemAlloc");
    if (!found)
        return -1;
    memcpy(&f, &found, sizeof f);
    failed_at = "cuMemAlloc (v1)";
    return f(p, (unsigned)(step * MIB));
}

static CUresult by_v1_pitch(int i) {
    (void)i;
    CUresult (*f)(unsigned *, unsigned *, unsigned, unsigned, unsigned);
    unsigned p[2] = {0, 0}, pitch[2] = {0, 0};
    void *found = plain("cuMemAllocPitch");
    if (!found)
        return -1;
    memcpy(&f, &found, sizeof f);
    failed_at = "cuMemAllocPitch (v1)";
    return f(p, pitch, 16384, (unsigned)(step * MIB / 16384), 16);
}

static CUresult by_v1_array(int i) {
    (void)i;
    CUresult (*f)(CUarray *, const CUarray2D_v1 *);
    CUarray a;
    CUarray2D_v1 d = {16384, (unsigned)(step * MIB / 16 / 16384), CU_FORMAT_FLOAT, 4};
    void *found = plain("cuArrayCreate");
    if (!found)
        return -1;
    memcpy(&f, &found, sizeof f);
    failed_at = "cuArrayCreate (v1)";
    return f(&a, &d);
}

static char *global_ptx(int i) {
    static char text[512];
    snprintf(text, sizeof text,
             ".version 6.0\n.target sm_50\n.address_size 64\n.visible .global .align 16 .b8 block%d[%zu];\n"
             ".visible .entry touch%d() { .reg .b64 a; mov.u64 a, block%d; st.global.u32 [a], 1; ret; }\n",
             i, step * MIB, i, i);
    return text;
}

static CUresult by_module(int i) {
    CUmodule module;
    CUfunction touch;
    CUdeviceptr p = 0;
    size_t bytes = 0;
    char name[32];
    CHECK(ModuleLoadData, &module, global_ptx(i));
    snprintf(name, sizeof name, "block%d", i);
    CHECK(ModuleGetGlobal, &p, &bytes, module, name);
    snprintf(name, sizeof name, "touch%d", i);
    CHECK(ModuleGetFunction, &touch, module, name);
    return launch(touch, NULL);
}

static CUresult by_module_file(int i) {
    char path[] = "/tmp/escapeXXXXXX";
    CUmodule module;
    const char *text = global_ptx(i);
    int fd = mkstemp(path);
    if (fd < 0 || write(fd, text, strlen(text)) < 0) {
        failed_at = "mkstemp";
        return -1;
    }
    close(fd);
    CUresult error = cu.ModuleLoad(&module, path);
    unlink(path);
    failed_at = "ModuleLoad";
    return error;
}

static CUresult by_library(int i) {
    CUlibrary loaded;
    CUdeviceptr p = 0;
    size_t bytes = 0;
    char name[32];
    CHECK(LibraryLoadData, &loaded, global_ptx(i), NULL, NULL, 0, NULL, NULL, 0);
    snprintf(name, sizeof name, "block%d", i);
    CHECK(LibraryGetGlobal, &p, &bytes, loaded, name); /* loads it into the current context */
    return 0;
}

/* Stacks of `mib` in all. */
static size_t per_thread(size_t mib) {
    return mib * MIB / (size_t)threads_resident / 16 * 16;
}

/* A stack of n KiB is kept for every thread that the device can hold at a time. */
static CUresult by_stack(int i) {
    CHECK(CtxSetLimit, 0 /* stack size */, per_thread((size_t)(i + 1) * step));
    return launch(empty, NULL);
}

static CUresult entry(const char *ptx, const char *name, CUfunction *function) {
    CUmodule module;
    CHECK(ModuleLoadData, &module, ptx);
    CHECK(ModuleGetFunction, function, module, name);
    return 0;
}

/* The heap of device-side malloc: its size can be set until the first kernel that uses it. One attempt, all of it. */
static CUresult by_heap(int i) {
    static const char ptx[] = ".version 6.0\n.target sm_50\n.address_size 64\n"
                              ".extern .func (.param .b64 r) malloc (.param .b64 n);\n"
                              ".visible .entry heap() { .reg .b64 x;\n"
                              "{ .param .b64 p0; st.param.b64 [p0], 1024; .param .b64 q0;\n"
                              "call.uni (q0), malloc, (p0); ld.param.b64 x, [q0]; } ret; }\n";
    CUfunction function;
    CUresult error;
    if (i)
        return -1;
    step = ask;
    CHECK(CtxSetLimit, 2 /* heap size */, ask * MIB);
    if ((error = entry(ptx, "heap", &function)))
        return error;
    return launch(function, NULL);
}

/* The buffer of device-side printf, likewise. */
static CUresult by_printf(int i) {
    static const char ptx[] = ".version 6.0\n.target sm_50\n.address_size 64\n"
                              ".extern .func (.param .b32 r) vprintf (.param .b64 f, .param .b64 a);\n"
                              ".global .align 1 .b8 text[3] = {46, 10, 0};\n"
                              ".visible .entry print() { .reg .b64 x; .reg .b32 y;\n"
                              "mov.u64 x, text; cvta.global.u64 x, x;\n"
                              "{ .param .b64 p0; st.param.b64 [p0], x; .param .b64 p1; st.param.b64 [p1], 0; .param .b32 q0;\n"
                              "call.uni (q0), vprintf, (p0, p1); ld.param.b32 y, [q0]; } ret; }\n";
    CUfunction function;
    CUresult error;
    if (i)
        return -1;
    step = ask;
    CHECK(CtxSetLimit, 1 /* printf buffer */, ask * MIB);
    if ((error = entry(ptx, "print", &function)))
        return error;
    return launch(function, NULL);
}

/* A kernel whose threads have this much local memory. */
static char *local_ptx(size_t bytes) {
    static char ptx[1024];
    snprintf(ptx, sizeof ptx,
             ".version 6.0\n.target sm_50\n.address_size 64\n.visible .entry local(.param .u64 out, .param .u32 at) {\n"
             ".local .align 16 .b8 room[%zu]; .reg .b64 a, b, o, x; .reg .b32 i, v; .reg .pred p;\n"
             "ld.param.u64 o, [out]; ld.param.u32 i, [at]; mov.u64 a, room; cvt.u64.u32 x, i; add.u64 b, a, x; add.u64 a, b, x;\n"
             "st.local.u8 [a], i; ld.local.u8 v, [b]; setp.ne.u64 p, o, 0; @p st.global.u8 [o], v; ret; }\n",
             bytes);
    return ptx;
}

static CUdeviceptr nowhere;
static unsigned place = 5;
static void *local_arguments[] = {&nowhere, &place};

/* Local memory, like stack, is kept for every resident thread from the first launch that needs it. */
static CUresult by_local(int i) {
    CUfunction function;
    CUresult error = entry(local_ptx(per_thread((size_t)(i + 1) * step)), "local", &function);
    return error ? error : launch(function, local_arguments);
}

/* What a lower limit has given back is allocated; then the limit is raised again, or the kernel that needs it runs again. */
static CUresult again_after(CUfunction function) {
    CUdeviceptr p = 0;
    CHECK(CtxSetLimit, 0, 1024);
    CHECK(MemAlloc, &p, ask / 2 * MIB);
    got = ask / 2;
    if (function)
        return launch(function, local_arguments);
    CHECK(CtxSetLimit, 0, per_thread(ask / 2));
    return 0;
}

static CUresult by_stack_again(int i) {
    (void)i;
    CHECK(CtxSetLimit, 0, per_thread(ask / 2));
    return again_after(NULL);
}

static CUresult by_local_again(int i) {
    (void)i;
    CUfunction function;
    CUresult error = entry(local_ptx(per_thread(ask / 2)), "local", &function);
    if (error || (error = launch(function, local_arguments)))
        return error;
    return again_after(function);
}

/* The same kernels, put into a graph by hand. */
static CUresult local_node(size_t mib, CUgraph *graph, CUkernelNode *node) {
    CUgraphNode made;
    memset(node, 0, sizeof *node);
    CUresult error = entry(local_ptx(per_thread(mib)), "local", &node->function);
    if (error)
        return error;
    node->grid[0] = node->grid[1] = node->grid[2] = node->block[0] = node->block[1] = node->block[2] = 1;
    node->parameters = local_arguments;
    CHECK(GraphCreate, graph, 0);
    CHECK(GraphAddKernelNode, &made, *graph, NULL, 0, node);
    return 0;
}

static CUresult by_graph_local(int i) {
    CUgraph graph;
    CUkernelNode node;
    CUresult error = local_node((size_t)(i + 1) * step, &graph, &node);
    return error ? error : run_graph(graph);
}

/* In another context, which alone needs it; then as much again. */
static CUresult by_graph_context(int i) {
    CUcontext context;
    CUgraph graph;
    CUgraphExec exec;
    CUkernelNode node;
    CUdeviceptr p = 0;
    CUresult error;
    (void)i;
    CHECK(CtxCreate, &context, 0, device);
    if ((error = local_node(ask / 2, &graph, &node)))
        return error;
    CHECK(GraphInstantiate, &exec, graph, 0);
    CHECK(GraphLaunch, exec, NULL);
    CHECK(CtxSynchronize);
    got = ask / 2;
    CHECK(MemAlloc, &p, ask / 2 * MIB);
    return 0;
}

/* An executable graph of an empty kernel, which then gets others. */
static CUgraphExec executable;
static CUgraphNode only;

static CUresult run_empty(void) {
    CUgraph graph;
    CUkernelNode node = {.function = empty, .grid = {1, 1, 1}, .block = {1, 1, 1}};
    CHECK(GraphCreate, &graph, 0);
    CHECK(GraphAddKernelNode, &only, graph, NULL, 0, &node);
    CHECK(GraphInstantiate, &executable, graph, 0);
    return 0;
}

static CUresult run_executable(void) {
    CHECK(GraphLaunch, executable, stream);
    CHECK(StreamSynchronize, stream);
    return 0;
}

static CUresult by_graph_set(int i) {
    CUgraph graph;
    CUkernelNode node;
    CUresult error;
    if ((!i && (error = run_empty())) || (error = local_node((size_t)(i + 1) * step, &graph, &node)))
        return error;
    CHECK(GraphExecKernelNodeSetParams, executable, only, &node);
    return run_executable();
}

static CUresult by_graph_update(int i) {
    CUgraph graph;
    CUkernelNode node;
    void *result[3];
    CUresult error;
    if ((!i && (error = run_empty())) || (error = local_node((size_t)(i + 1) * step, &graph, &node)))
        return error;
    CHECK(GraphExecUpdate, executable, graph, result);
    return run_executable();
}

/* Each context takes some hundreds of MiB. What they take is for NVML to say. */
static CUresult by_contexts(int i) {
    CUcontext context;
    CUmodule module;
    if (i >= 40)
        return -1;
    CHECK(CtxCreate, &context, 0, device);
    CHECK(ModuleLoadData, &module, EMPTY_PTX);
    CHECK(ModuleGetFunction, &empty, module, "empty");
    return launch(empty, NULL);
}

/* Each context has stacks of its own. */
static CUresult by_context_stacks(int i) {
    CUcontext context;
    (void)i;
    CHECK(CtxCreate, &context, 0, device);
    CHECK(CtxSetLimit, 0, per_thread(10 * step));
    return 0;
}

/* A library's kernel has one handle, and needs its local memory in each context. */
static CUresult by_context_kernels(int i) {
    static CUlibrary loaded;
    static CUfunction kernel;
    CUcontext context;
    if (!i) {
        CHECK(LibraryLoadData, &loaded, local_ptx(per_thread(10 * step)), NULL, NULL, 0, NULL, NULL, 0);
        CHECK(LibraryGetKernel, &kernel, loaded, "local");
    }
    CHECK(CtxCreate, &context, 0, device);
    return launch(kernel, local_arguments);
}

/* Likewise on another GPU, half of which is allocated already. */
static CUresult by_gpu_kernels(int i) {
    CUlibrary loaded;
    CUfunction kernel;
    CUcontext context;
    CUdevice other;
    CUdeviceptr p = 0;
    CUresult error;
    (void)i;
    CHECK(DeviceGet, &other, 1);
    CHECK(LibraryLoadData, &loaded, local_ptx(per_thread(ask / 2)), NULL, NULL, 0, NULL, NULL, 0);
    CHECK(LibraryGetKernel, &kernel, loaded, "local");
    if ((error = launch(kernel, local_arguments)))
        return error;
    got = ask / 2;
    CHECK(PrimaryCtxRetain, &context, other);
    CHECK(CtxSetCurrent, context);
    CHECK(MemAlloc, &p, ask / 2 * MIB);
    if ((error = launch(kernel, local_arguments)))
        return error;
    got = ask;
    return 0;
}

/* The heap is charged until it is taken; an allocation of its size beside it is another matter. */
static CUresult by_heap_beside(int i) {
    CUdeviceptr p = 0;
    size_t heap = ask / 4, taken = heap - 8; /* a context has 8 MiB of it */
    if (i == 0) {
        CHECK(CtxSetLimit, 2 /* heap size */, heap * MIB);
        got += taken;
        CHECK(MemAlloc, &p, taken * MIB);
        got += taken;
        CHECK(ModuleLoadData, &(CUmodule){0}, EMPTY_PTX);
        return launch(empty, NULL);
    }
    CHECK(MemAlloc, &p, step * MIB);
    return 0;
}

/* What was pinned goes with its context. */
static CUresult by_host_reset(int i) {
    void *p;
    CUcontext context;
    (void)i;
    CHECK(MemAllocHost, &p, step * MIB);
    CHECK(PrimaryCtxReset, device);
    CHECK(PrimaryCtxRetain, &context, device);
    CHECK(CtxSetCurrent, context);
    return 0;
}

static atomic_size_t storm_got;
static CUcontext primary;
static _Atomic CUresult storm_error;

static void *storm(void *argument) {
    (void)argument;
    cu.CtxSetCurrent(primary);
    while (atomic_load(&storm_got) < ask) {
        CUdeviceptr p = 0;
        CUresult error = cu.MemAlloc(&p, 16 * MIB);
        if (error) {
            atomic_store(&storm_error, error);
            break;
        }
        atomic_fetch_add(&storm_got, 16);
    }
    return NULL;
}

static CUresult by_threads(int i) {
    pthread_t all[16];
    if (i)
        return -1;
    for (int n = 0; n < 16; n++)
        pthread_create(&all[n], NULL, storm, NULL);
    for (int n = 0; n < 16; n++)
        pthread_join(all[n], NULL);
    got = atomic_load(&storm_got);
    failed_at = "MemAlloc";
    return atomic_load(&storm_error);
}

/* The exporter's side: handles and descriptors of the memory that it holds go into a file. */
static FILE *handles;

static CUresult by_ipc_export(int i) {
    CUdeviceptr p = 0;
    CUipcHandle handle;
    if (!i) {
        handles = fopen(file, "wb");
        if (!handles)
            return -1;
    }
    CHECK(MemAlloc, &p, step * MIB);
    CHECK(IpcGetMemHandle, &handle, p);
    fwrite(&handle, sizeof handle, 1, handles);
    fflush(handles);
    return 0;
}

static CUresult by_ipc_import(int i) {
    CUipcHandle handle;
    CUdeviceptr p = 0;
    if (!i && !(handles = fopen(file, "rb")))
        return -1;
    if (fread(&handle, sizeof handle, 1, handles) != 1) {
        failed_at = "no more handles";
        return -1;
    }
    CHECK(IpcOpenMemHandle, &p, handle, 1);
    return 0;
}

static CUresult by_vmm_export(int i) {
    CUmemHandle handle;
    int fd = -1;
    CUresult error;
    if (!i && !(handles = fopen(file, "w")))
        return -1;
    if ((error = create_handle(&handle, 1)))
        return error;
    CHECK(MemExport, &fd, handle, 1, 0);
    fprintf(handles, "%d %d\n", (int)getpid(), fd);
    fflush(handles);
    return 0;
}

static CUresult by_vmm_import(int i) {
    int pid, fd;
    CUmemHandle handle;
    if (!i && !(handles = fopen(file, "r")))
        return -1;
    if (fscanf(handles, "%d %d", &pid, &fd) != 2) {
        failed_at = "no more descriptors";
        return -1;
    }
    int process = (int)syscall(434 /* pidfd_open */, pid, 0);
    int taken = process < 0 ? -1 : (int)syscall(438 /* pidfd_getfd */, process, fd, 0);
    if (process >= 0)
        close(process);
    if (taken < 0) {
        failed_at = "pidfd_getfd";
        return -1;
    }
    CHECK(MemImport, &handle, (void *)(intptr_t)taken, 1);
    close(taken);
    return map_handle(handle);
}

static const struct {
    const char *name;
    CUresult (*step)(int);
} PATHS[] = {
    {"alloc", by_alloc},
    {"pitch", by_pitch},
    {"managed", by_managed},
    {"async", by_async},
    {"async-other", by_async_other},
    {"pool", by_pool},
    {"pool-hoard", by_pool_hoard},
    {"pool-host", by_pool_host},
    {"create", by_create},
    {"create-release", by_create_release},
    {"create-unmap", by_create_unmap},
    {"create-export", by_create_export},
    {"create-export-twice", by_create_export_twice},
    {"create-reimport", by_create_reimport},
    {"array", by_array},
    {"array-compressed", by_array_compressed},
    {"array3d", by_array3d},
    {"mipmap", by_mipmap},
    {"graph-node", by_graph_node},
    {"capture", by_capture},
    {"host", by_host},
    {"hostalloc", by_hostalloc},
    {"hostregister", by_hostregister},
    {"host-reset", by_host_reset},
    {"v1-alloc", by_v1_alloc},
    {"v1-pitch", by_v1_pitch},
    {"v1-array", by_v1_array},
    {"module", by_module},
    {"module-file", by_module_file},
    {"library", by_library},
    {"stack", by_stack},
    {"heap", by_heap},
    {"heap-beside", by_heap_beside},
    {"printf", by_printf},
    {"local", by_local},
    {"stack-again", by_stack_again},
    {"local-again", by_local_again},
    {"graph-local", by_graph_local},
    {"graph-context", by_graph_context},
    {"graph-set", by_graph_set},
    {"graph-update", by_graph_update},
    {"contexts", by_contexts},
    {"context-stacks", by_context_stacks},
    {"context-kernels", by_context_kernels},
    {"gpu-kernels", by_gpu_kernels},
    {"threads", by_threads},
    {"ipc-export", by_ipc_export},
    {"ipc-import", by_ipc_import},
    {"vmm-export", by_vmm_export},
    {"vmm-import", by_vmm_import},
};

static void report(const char *path, CUresult error) {
    size_t free = 0, total = 0;
    if (cu.MemGetInfo)
        cu.MemGetInfo(&free, &total);
    printf("{\"path\":\"%s\",\"pid\":%d,\"got_mib\":%zu,\"asked_mib\":%zu,\"error\":%d,\"failed_at\":\"%s\","
           "\"info_free_mib\":%zu,\"info_total_mib\":%zu}\n",
           path, (int)getpid(), got, ask, error, error ? failed_at : "", free / MIB, total / MIB);
    fflush(stdout);
}

static CUresult start(void) {
    CUmodule module;
    int processors = 0, per_processor = 0;
    CHECK(Init, 0);
    CHECK(DeviceGet, &device, 0);
    CHECK(PrimaryCtxRetain, &primary, device);
    CHECK(CtxSetCurrent, primary);
    CHECK(StreamCreate, &stream, 1 /* non-blocking */);
    CHECK(ModuleLoadData, &module, EMPTY_PTX);
    CHECK(ModuleGetFunction, &empty, module, "empty");
    CHECK(DeviceGetAttribute, &processors, 16, device);
    CHECK(DeviceGetAttribute, &per_processor, 39, device);
    threads_resident = processors * per_processor > 0 ? processors * per_processor : 1;
    return 0;
}

static void hold(void) {
    char buffer[64];
    while (read(0, buffer, sizeof buffer) > 0) {
    }
}

int main(int count, char **argument) {
    const char *path = count > 1 ? argument[1] : "";
    int keep = 0, forked = 0;
    for (int i = 2; i < count; i++) {
        const char *next = i + 1 < count ? argument[i + 1] : "";
        if (!strcmp(argument[i], "--via")) {
            door = !strcmp(next, "getproc") ? BY_GETPROC : !strcmp(next, "ptsz") ? BY_GETPROC_PTSZ : BY_DLSYM;
            i++;
        } else if (!strcmp(argument[i], "--lib")) {
            library = next;
            i++;
        } else if (!strcmp(argument[i], "--file")) {
            file = next;
            i++;
        } else if (!strcmp(argument[i], "--ask")) {
            ask = strtoull(next, NULL, 10);
            i++;
        } else if (!strcmp(argument[i], "--step")) {
            step = strtoull(next, NULL, 10);
            i++;
        } else if (!strcmp(argument[i], "--dlmopen")) {
            new_namespace = 1;
        } else if (!strcmp(argument[i], "--hold")) {
            keep = 1;
        } else {
            fprintf(stderr, "escape: unknown argument %s\n", argument[i]);
            return 2;
        }
    }
    const char *problem = driver_open(&cu, library, new_namespace, door);
    if (problem) {
        printf("{\"path\":\"%s\",\"pid\":%d,\"got_mib\":0,\"asked_mib\":%zu,\"error\":-1,\"failed_at\":\"load: %s\"}\n", path,
               (int)getpid(), ask, problem);
        return 1;
    }
    if (!strcmp(path, "ptsz-names")) { /* the exported per-thread names themselves */
        void *entry = dlsym(cu.library, "cuMemAllocAsync_ptsz");
        memcpy(&cu.MemAllocAsync, &entry, sizeof entry);
        entry = dlsym(cu.library, "cuMemAllocFromPoolAsync_ptsz");
        memcpy(&cu.MemAllocFromPoolAsync, &entry, sizeof entry);
        path = "async";
    }
    if (!strcmp(path, "fork")) { /* the library is loaded before the fork, the driver used on both sides after it */
        forked = 1;
        path = "alloc";
        fflush(stdout);
        fork();
    }
    int child_frees = !strcmp(path, "fork-free"); /* a child that only lets go of things does not use the card */
    if (child_frees)
        path = "alloc";
    CUresult (*one)(int) = NULL;
    for (size_t i = 0; i < sizeof PATHS / sizeof *PATHS; i++)
        if (!strcmp(PATHS[i].name, path))
            one = PATHS[i].step;
    if (!one) {
        fprintf(stderr, "escape: no path %s\n", path);
        return 2;
    }
    CUresult error = start();
    if (child_frees) {
        int ready[2];
        char byte = 0;
        if (pipe(ready))
            return 2;
        if (!fork()) {
            cu.MemFree(1);
            if (write(ready[1], &byte, 1) == 1)
                hold();
            _exit(0);
        }
        if (read(ready[0], &byte, 1) != 1)
            return 2;
    }
    for (int i = 0; !error && got < ask && i < MAX_STEPS; i++) {
        size_t before = got;
        error = one(i);
        if (!error && got == before)
            got += step;
    }
    report(path, error);
    if (keep)
        hold();
    if (forked)
        while (wait(NULL) > 0) {
        }
    /* Memory goes with the process; an orderly teardown would only hide what the daemon has to clean up. */
    _exit(0);
}
