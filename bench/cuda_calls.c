/* Times single calls of the CUDA driver from one pinned thread. Run it natively and in a slice, in turns; `memory.py` does.
 *
 *   cuda_calls calls              launches, allocations, frees, queries, refusals
 *   cuda_calls added              inside a slice: what the stand-in adds, against the real library in the same process
 *   cuda_calls start              from cuInit to the end of the first kernel
 *   cuda_calls usable BLOCK...    allocates blocks of BLOCK MiB until refused, then of the next size; holds until stdin ends
 *   options: --via dlsym|getproc  by which door the entry points are taken (default getproc, as the CUDA runtime does)
 *            --cpu N              the core to run on (default: the last one)
 *            --only PREFIX,...    only measurements whose names start so
 *
 * One JSON line per measurement: p50 and p99 in ns, with the cost of reading the clock taken off. */
#include "../tests/gpu/driver.h"
#include <sched.h>

#define MIB ((size_t)1 << 20)
#define MAX_SAMPLES 200000

static struct driver cu;
static enum door door = BY_GETPROC;
static const char *only = "";
static uint32_t samples[MAX_SAMPLES];
static size_t sample_count;
static double clock_ns;
static CUdevice device;
static CUfunction empty;
static CUstream stream;

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static double percentile(uint32_t *values, size_t count, double p) {
    qsort(values, count, sizeof *values, ascending);
    double at = p * (double)(count - 1);
    size_t low = (size_t)at;
    double part = at - (double)low;
    return low + 1 < count ? values[low] * (1 - part) + values[low + 1] * part : values[low];
}

static void sample(uint64_t nanoseconds) {
    if (sample_count < MAX_SAMPLES)
        samples[sample_count++] = nanoseconds > UINT32_MAX ? UINT32_MAX : (uint32_t)nanoseconds;
}

static void report_range(const char *name, uint32_t *values, size_t count) {
    if (!count)
        return;
    double p50 = percentile(values, count, 0.5), p99 = percentile(values, count, 0.99);
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += values[i];
    printf("{\"name\":\"%s\",\"p50_ns\":%.1f,\"p99_ns\":%.1f,\"mean_ns\":%.1f,\"samples\":%zu}\n", name, p50 - clock_ns,
           p99 - clock_ns, sum / (double)count - clock_ns, count);
    fflush(stdout);
}

static void report(const char *name) {
    report_range(name, samples, sample_count);
    sample_count = 0;
}

/* Whether the name starts with one of the prefixes in `only`, or there is none. */
static int wanted(const char *name) {
    sample_count = 0;
    const char *prefix = only;
    do {
        size_t length = strcspn(prefix, ",");
        if (!strncmp(name, prefix, length))
            return 1;
        prefix += length;
    } while (*prefix++);
    return 0;
}

/* What two readings of the clock with nothing between them cost. */
static void calibrate(void) {
    for (int i = 0; i < 100000; i++) {
        uint64_t a = now_ns(), b = now_ns();
        sample(b - a);
    }
    double sum = 0;
    size_t most = sample_count * 9 / 10; /* without the tail that interrupts make */
    qsort(samples, sample_count, sizeof *samples, ascending);
    for (size_t i = 0; i < most; i++)
        sum += samples[i];
    clock_ns = sum / (double)most;
    sample_count = 0;
}

#define TIMED(call)                        \
    do {                                   \
        uint64_t a_ = now_ns();            \
        CUresult error_ = (call);          \
        uint64_t b_ = now_ns();            \
        if (error_)                        \
            die(#call, error_);            \
        sample(b_ - a_);                   \
    } while (0)

static void launches(void) {
    enum { BATCH = 256 };
    if (wanted("launch_batch")) {
        /* Few enough in flight that the call never waits for room in the channel. The batch is also timed as a whole:
         * its mean has no clock in it and resolves single nanoseconds. */
        static double batches[400];
        int kept = 0;
        for (int round = -50; round < 400; round++) {
            uint64_t start = now_ns();
            for (int i = 0; i < BATCH; i++)
                cu.LaunchKernel(empty, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL);
            uint64_t end = now_ns();
            NEED(StreamSynchronize, stream);
            if (round >= 0)
                batches[kept++] = (double)(end - start) / BATCH;
        }
        for (int i = 0; i < kept; i++)
            samples[i] = (uint32_t)(batches[i] * 10);
        double middle = percentile(samples, (size_t)kept, 0.5) / 10;
        printf("{\"name\":\"launch_batch_mean\",\"p50_ns\":%.1f,\"samples\":%d}\n", middle, kept);
        for (int round = -50; round < 400; round++) {
            for (int i = 0; i < BATCH; i++) {
                uint64_t a = now_ns();
                CUresult error = cu.LaunchKernel(empty, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL);
                uint64_t b = now_ns();
                if (error)
                    die("LaunchKernel", error);
                if (round >= 0)
                    sample(b - a);
            }
            NEED(StreamSynchronize, stream);
        }
        report("launch_batch");
    }
    if (wanted("launch_single")) {
        for (int i = -500; i < 5000; i++) {
            uint64_t a = now_ns();
            NEED(LaunchKernel, empty, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL);
            uint64_t b = now_ns();
            NEED(StreamSynchronize, stream);
            if (i >= 0)
                sample(b - a);
        }
        report("launch_single");
    }
    if (wanted("launch_sync")) {
        for (int i = -500; i < 5000; i++) {
            uint64_t a = now_ns();
            NEED(LaunchKernel, empty, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL);
            NEED(StreamSynchronize, stream);
            uint64_t b = now_ns();
            if (i >= 0)
                sample(b - a);
        }
        report("launch_sync");
    }
    if (wanted("graph_launch_20")) {
        CUgraph graph;
        CUgraphExec exec;
        NEED(StreamBeginCapture, stream, 2);
        for (int i = 0; i < 20; i++)
            NEED(LaunchKernel, empty, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL);
        NEED(StreamEndCapture, stream, &graph);
        NEED(GraphInstantiate, &exec, graph, 0);
        for (int i = -200; i < 4000; i++) {
            uint64_t a = now_ns();
            NEED(GraphLaunch, exec, stream);
            uint64_t b = now_ns();
            if (i >= 0)
                sample(b - a);
            if ((i & 15) == 15)
                NEED(StreamSynchronize, stream);
        }
        NEED(StreamSynchronize, stream);
        report("graph_launch_20");
    }
}

/* `count` allocations that all stay alive; the first and the last thousand of them, then their frees. */
static void grow(const char *name, size_t bytes, size_t count) {
    static CUdeviceptr pointers[20000];
    char label[64];
    if (!wanted(name))
        return;
    for (size_t i = 0; i < count; i++)
        TIMED(cu.MemAlloc(&pointers[i], bytes));
    size_t edge = count < 1000 ? count : 1000;
    if (count > edge) {
        snprintf(label, sizeof label, "%s_last", name);
        report_range(label, samples + count - edge, edge);
        snprintf(label, sizeof label, "%s_first", name);
        report_range(label, samples, edge);
    } else {
        report_range(name, samples, count);
    }
    sample_count = 0;
    for (size_t i = 0; i < count; i++)
        TIMED(cu.MemFree(pointers[i]));
    snprintf(label, sizeof label, "%s_free", name);
    report(label);
}

static void allocations(void) {
    CUdeviceptr p;
    if (wanted("alloc_512_live_1")) {
        NEED(MemAlloc, &p, 512); /* the live one: it keeps the block that the others are cut from */
        for (int i = -200; i < 4000; i++) {
            uint64_t a = now_ns();
            NEED(MemAlloc, &p, 512);
            uint64_t b = now_ns();
            NEED(MemFree, p);
            if (i >= 0)
                sample(b - a);
        }
        report("alloc_512_live_1");
    }
    grow("alloc_512_live_1000", 512, 1000);
    grow("alloc_512_live_20000", 512, 20000);
    grow("alloc_4mib_live_500", 4 * MIB, 500);
    if (wanted("alloc_async_1mib")) {
        CUmemoryPool pool;
        unsigned long long everything = ~0ull;
        NEED(DeviceGetDefaultMemPool, &pool, device);
        NEED(MemPoolSetAttribute, pool, 4 /* release threshold */, &everything);
        for (int i = -500; i < 5000; i++) {
            uint64_t a = now_ns();
            NEED(MemAllocAsync, &p, MIB, stream);
            uint64_t b = now_ns();
            NEED(MemFreeAsync, p, stream);
            if (i >= 0)
                sample(b - a);
        }
        NEED(StreamSynchronize, stream);
        report("alloc_async_1mib");
        for (int i = -500; i < 5000; i++) {
            NEED(MemAllocAsync, &p, MIB, stream);
            uint64_t a = now_ns();
            NEED(MemFreeAsync, p, stream);
            uint64_t b = now_ns();
            if (i >= 0)
                sample(b - a);
        }
        NEED(StreamSynchronize, stream);
        report("free_async_1mib");
    }
    if (wanted("mem_get_info")) {
        size_t free, total;
        for (int i = 0; i < 3000; i++)
            TIMED(cu.MemGetInfo(&free, &total));
        report("mem_get_info");
    }
    if (wanted("refusal")) {
        size_t free, total;
        NEED(MemGetInfo, &free, &total);
        /* All of the card, or of the slice, cannot be had: the context is in it. Cheap refusals are timed more often. */
        uint64_t until = now_ns() + 300000000u;
        for (int i = 0; i < 10000 && (i < 20 || now_ns() < until); i++) {
            uint64_t a = now_ns();
            CUresult error = cu.MemAlloc(&p, total);
            uint64_t b = now_ns();
            if (error != CUDA_OUT_OF_MEMORY)
                die("MemAlloc of everything: out of memory expected", error);
            if (i >= 2)
                sample(b - a);
        }
        report("refusal");
    }
}

/* The library that the stand-in forwards to: mapped into this process, so opening its path again gives the same one. */
static const char *real_library(char *path, size_t size) {
    FILE *maps = fopen("/proc/self/maps", "r");
    static char line[4352];
    const char *found = NULL;
    while (maps && !found && fgets(line, sizeof line, maps)) {
        char *name = strchr(line, '/');
        if (!name || (!strstr(name, "libcuda.so") && !strstr(name, "libfakegpu.so")))
            continue;
        name[strcspn(name, "\n")] = 0;
        snprintf(path, size, "%s", name);
        void *opened = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
        if (opened && dlsym(opened, "cuMemAlloc_v2") != dlsym(cu.library, "cuMemAlloc_v2"))
            found = path;
        if (opened)
            dlclose(opened);
    }
    if (maps)
        fclose(maps);
    return found;
}

/* Groups of blocks whose 99th percentiles are compared one by one. */
#define GROUPS 20

static int rising(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* By how much the 99th percentile of `other` is above that of `base`: the middle of the differences of the groups. What a machine
 * does in bursts falls on few groups; in the percentile of all it decides. Sorts within the groups. */
static double tail_above(uint32_t *base, uint32_t *other, size_t count) {
    double differences[GROUPS];
    size_t each = count / GROUPS;
    for (size_t group = 0; group < GROUPS; group++)
        differences[group] = percentile(other + group * each, each, 0.99) - percentile(base + group * each, each, 0.99);
    qsort(differences, GROUPS, sizeof *differences, rising);
    return (differences[GROUPS / 2 - 1] + differences[GROUPS / 2]) / 2;
}

/* Times `statement` by the real library, by the stand-in, and by the real library once more, in turns, block by block, in one process:
 * whatever makes one process slower than the next falls on all. How far the real library is from itself is what the measurement
 * can't tell. `d` is the table to call through. */
#define COMPARED(name, blocks, per_block, between, statement)                                                       \
    do {                                                                                                            \
        if (!wanted(name))                                                                                          \
            break;                                                                                                  \
        static uint32_t side[3][MAX_SAMPLES];                                                                       \
        size_t kept[3] = {0, 0, 0};                                                                                 \
        for (int block_ = -6; block_ < (blocks); block_++)                                                          \
            for (int turn_ = 0; turn_ < 3; turn_++) {                                                               \
                int which_ = (turn_ + block_ + 6) % 3;                                                              \
                struct driver *d = which_ == 1 ? &cu : &native;                                                     \
                for (int i = 0; i < (per_block); i++) {                                                             \
                    uint64_t a_ = now_ns();                                                                         \
                    statement;                                                                                      \
                    uint64_t b_ = now_ns();                                                                         \
                    if (block_ >= 0 && kept[which_] < MAX_SAMPLES)                                                  \
                        side[which_][kept[which_]++] = (uint32_t)(b_ - a_);                                         \
                }                                                                                                   \
                between;                                                                                            \
            }                                                                                                       \
        double added_p99_ = (tail_above(side[0], side[1], kept[0]) + tail_above(side[2], side[1], kept[0])) / 2;     \
        double control_ = tail_above(side[0], side[2], kept[0]);                                                    \
        double p50_[3], p99_[3];                                                                                    \
        for (int which_ = 0; which_ < 3; which_++) {                                                                \
            p50_[which_] = percentile(side[which_], kept[which_], 0.5) - clock_ns;                                  \
            p99_[which_] = percentile(side[which_], kept[which_], 0.99) - clock_ns;                                 \
        }                                                                                                           \
        printf("{\"name\":\"%s\",\"native_ns\":%.1f,\"slice_ns\":%.1f,\"added_ns\":%.1f,\"native_p99_ns\":%.1f,"       \
               "\"slice_p99_ns\":%.1f,\"again_p99_ns\":%.1f,\"added_p99_ns\":%.1f,\"again_added_ns\":%.1f,"           \
               "\"again_added_p99_ns\":%.1f,\"samples\":%zu,\"tail_ns\":[",                                             \
               name, p50_[0], p50_[1], p50_[1] - (p50_[0] + p50_[2]) / 2, p99_[0], p99_[1], p99_[2], added_p99_,     \
               p50_[2] - p50_[0], control_, kept[0]);                                                               \
        for (int tail_ = 0; tail_ < 5; tail_++) { /* native and slice at 90, 95, 98, 99.5 and 99.9 percent */        \
            static const double at_[] = {0.9, 0.95, 0.98, 0.995, 0.999};                                            \
            printf("%s[%.0f,%.0f]", tail_ ? "," : "", percentile(side[0], kept[0], at_[tail_]) - clock_ns,          \
                   percentile(side[1], kept[1], at_[tail_]) - clock_ns);                                            \
        }                                                                                                           \
        printf("]}\n");                                                                                             \
        fflush(stdout);                                                                                             \
    } while (0)

static void added(void) {
    static struct driver native;
    static CUdeviceptr pointers[20000];
    char path[4352];
    const char *library = real_library(path, sizeof path);
    if (!library) {
        fprintf(stderr, "cuda_calls: no stand-in: not in a slice?\n");
        exit(1);
    }
    driver_need(&native, library, BY_DLSYM);
    CUgraph graph;
    CUgraphExec exec;
    CUmemoryPool pool;
    unsigned long long everything = ~0ull;
    size_t free, total;
    NEED(StreamBeginCapture, stream, 2);
    for (int i = 0; i < 20; i++)
        NEED(LaunchKernel, empty, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL);
    NEED(StreamEndCapture, stream, &graph);
    NEED(GraphInstantiate, &exec, graph, 0);
    NEED(DeviceGetDefaultMemPool, &pool, device);
    NEED(MemPoolSetAttribute, pool, 4 /* release threshold */, &everything);
    COMPARED("launch_batch", 400, 256, cu.StreamSynchronize(stream),
             d->LaunchKernel(empty, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL));
    COMPARED("graph_launch_20", 300, 16, cu.StreamSynchronize(stream), d->GraphLaunch(exec, stream));
    NEED(MemAlloc, &pointers[0], 512); /* keeps the block that the others are cut from */
    for (int live = 1; live <= 20000; live = live == 1 ? 1000 : live + 19000) {
        char name[2][48];
        for (int i = live == 1 ? 1 : live == 1000 ? 1 : 1000; i < live; i++)
            NEED(MemAlloc, &pointers[i], 512);
        snprintf(name[0], sizeof name[0], "alloc_512_live_%d", live);
        snprintf(name[1], sizeof name[1], "free_512_live_%d", live);
        static CUdeviceptr block[200];
        COMPARED(name[0], 100, 200, for (int i = 0; i < 200; i++) d->MemFree(block[i]), d->MemAlloc(&block[i], 512));
    }
    {
        static CUdeviceptr block[16];
        COMPARED("alloc_4mib", 60, 16, for (int i = 0; i < 16; i++) d->MemFree(block[i]), d->MemAlloc(&block[i], 4 * MIB));
        COMPARED("alloc_async_1mib", 300, 16,
                 for (int i = 0; i < 16; i++) d->MemFreeAsync(block[i], stream);
                 cu.StreamSynchronize(stream), d->MemAllocAsync(&block[i], MIB, stream));
        for (int i = 0; i < 16; i++)
            NEED(MemAllocAsync, &block[i], MIB, stream);
        COMPARED("free_async_1mib", 300, 16, for (int i = 0; i < 16; i++) cu.MemAllocAsync(&block[i], MIB, stream);
                 cu.StreamSynchronize(stream),
                 d->MemFreeAsync(block[i], stream));
    }
    COMPARED("mem_get_info", 100, 20, , d->MemGetInfo(&free, &total));
}

static void start(void) {
    CUcontext context;
    CUmodule module;
    uint64_t t0 = now_ns();
    driver_need(&cu, "libcuda.so.1", door);
    uint64_t t1 = now_ns();
    NEED(Init, 0);
    uint64_t t2 = now_ns();
    NEED(DeviceGet, &device, 0);
    NEED(PrimaryCtxRetain, &context, device);
    NEED(CtxSetCurrent, context);
    uint64_t t3 = now_ns();
    NEED(ModuleLoadData, &module, EMPTY_PTX);
    NEED(ModuleGetFunction, &empty, module, "empty");
    uint64_t t4 = now_ns();
    NEED(LaunchKernel, empty, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL);
    NEED(CtxSynchronize);
    uint64_t t5 = now_ns();
    printf("{\"name\":\"start\",\"load_us\":%.1f,\"init_us\":%.1f,\"context_us\":%.1f,\"module_us\":%.1f,\"kernel_us\":%.1f,"
           "\"total_us\":%.1f,\"init_to_kernel_us\":%.1f}\n",
           (double)(t1 - t0) / 1e3, (double)(t2 - t1) / 1e3, (double)(t3 - t2) / 1e3, (double)(t4 - t3) / 1e3,
           (double)(t5 - t4) / 1e3, (double)(t5 - t0) / 1e3, (double)(t5 - t1) / 1e3);
    fflush(stdout);
}

static int next_line(void) {
    char c;
    ssize_t n;
    while ((n = read(0, &c, 1)) == 1 && c != '\n') {
    }
    return n == 1;
}

static void usable(int count, char **blocks) {
    size_t free, total, got = 0;
    NEED(MemGetInfo, &free, &total);
    printf("{\"name\":\"ready\",\"pid\":%d,\"free_bytes\":%zu,\"total_bytes\":%zu}\n", (int)getpid(), free, total);
    fflush(stdout);
    if (!next_line())
        return;
    CUresult error = 0;
    for (int i = 0; i < count; i++) {
        size_t bytes = strtoull(blocks[i], NULL, 10) * MIB;
        CUdeviceptr p;
        if (!bytes)
            continue;
        while (!(error = cu.MemAlloc(&p, bytes)))
            got += bytes;
    }
    cu.MemGetInfo(&free, &total);
    printf("{\"name\":\"usable\",\"pid\":%d,\"got_bytes\":%zu,\"free_bytes\":%zu,\"error\":%d}\n", (int)getpid(), got, free, error);
    fflush(stdout);
    next_line();
}

int main(int count, char **argument) {
    const char *mode = count > 1 ? argument[1] : "";
    int cpu = (int)sysconf(_SC_NPROCESSORS_ONLN) - 1, blocks = 0;
    char **block = argument + count;
    for (int i = 2; i < count; i++) {
        const char *next = i + 1 < count ? argument[i + 1] : "";
        if (!strcmp(argument[i], "--via")) {
            door = !strcmp(next, "dlsym") ? BY_DLSYM : BY_GETPROC;
            i++;
        } else if (!strcmp(argument[i], "--cpu")) {
            cpu = atoi(next);
            i++;
        } else if (!strcmp(argument[i], "--only")) {
            only = next;
            i++;
        } else if (argument[i][0] != '-') {
            block = argument + i;
            blocks = count - i;
            break;
        } else {
            fprintf(stderr, "cuda_calls: unknown argument %s\n", argument[i]);
            return 2;
        }
    }
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(cpu, &cpus);
    if (sched_setaffinity(0, sizeof cpus, &cpus))
        fprintf(stderr, "cuda_calls: not pinned: %s\n", strerror(errno));
    start();
    if (!strcmp(mode, "start"))
        return 0;
    NEED(StreamCreate, &stream, 1 /* non-blocking */);
    if (!strcmp(mode, "calls")) {
        calibrate();
        printf("{\"name\":\"clock\",\"p50_ns\":%.1f}\n", clock_ns);
        launches();
        allocations();
    } else if (!strcmp(mode, "added")) {
        calibrate();
        added();
    } else if (!strcmp(mode, "usable")) {
        usable(blocks, block);
    } else {
        fprintf(stderr, "cuda_calls: calls, added, start or usable?\n");
        return 2;
    }
    fflush(stdout);
    _exit(0);
}
