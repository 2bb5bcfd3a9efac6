/* One tenant of a GPU: a process that works as its mode says for a given time, and tells what it got of the device.
 *
 *   tenant calibrate                     prints what an iteration of the kernel takes; again for each line of stdin
 *   tenant MODE --iteration-ns N --base-ns N [--lengths US,US…] [--ahead MS] [--nodes N] [--phases ON,OFF] [--library PATH]
 *           [--kernel NAME: what its kernel is called] [--kinds N: launches of N kinds in turn, by their shared memory]
 *     saturate  kernels of these lengths in turn, with so many ms of them sent ahead, as a training loop does
 *     graph     the same, in a graph of N kernels
 *     loop      a kernel and a cuStreamSynchronize
 *     serve     every 10 ms ten kernels of 100 us one after the other, and a cuStreamSynchronize
 *     copy      copies of 256 MiB within the device
 *     storm     kernels that do nothing, as fast as they can be sent
 *     alloc     memory taken and given back, as fast as it goes
 *     gemm      products of two matrices of 4096 x 4096 bfloat16, by the cuBLAS that --library names
 *     fault, hang, oom   as saturate for half of the time, then: a write to nobody's memory; a kernel without an end; memory until none
 *               is left, and on. They say {"name":"bad"} with the driver's answer
 *
 * It prints {"name":"ready"} with the multiprocessors that it sees, reads "START SECONDS WARM" from stdin (START in ns of
 * CLOCK_MONOTONIC), works from START on for WARM and SECONDS and a little longer, so that none of those measured together runs
 * alone at the end, and prints one line: what was delivered in each ms of the SECONDS after WARM.
 *
 * Delivered is device time in seconds (per ms: in ns): kernels that are done, times their length; for copy, storm, alloc and
 * gemm the number of them. A second thread asks the events which are done, so
 * that the time is right also while the first one waits in a launch. Between two such times the work is taken as even.
 * Only plain driver calls are used; what holds a tenant back, if anything, is around it. */
#include "../tests/gpu/driver.h"

#include <pthread.h>

#define MIB ((size_t)1 << 20)
#define RING 4096u
#define COPY_BYTES (256 * MIB)
#define SIDE 4096 /* of a matrix */

typedef void *CUevent;

/* The text of tools/fakegpu/data/spin.ptx: real devices compile it, the simulated one reads its comment. */
static const char SPIN_PTX[] =
    ".version 7.0\n.target sm_70\n.address_size 64\n"
    "//fakegpu kernel spin each=2ns\n"
    ".visible .entry spin(.param .u64 iterations, .param .u64 result)\n"
    "{\n.reg .pred %p<3>;\n.reg .f32 %f<4>;\n.reg .b64 %rd<4>;\n"
    "ld.param.u64 %rd1, [iterations];\nld.param.u64 %rd2, [result];\n"
    "mov.f32 %f1, 0f3F800000;\nmov.f32 %f2, 0f3F7FFFFF;\n"
    "setp.eq.u64 %p1, %rd1, 0;\n@%p1 bra done;\n"
    "again:\nfma.rn.f32 %f1, %f1, %f2, %f2;\nsub.u64 %rd1, %rd1, 1;\nsetp.ne.u64 %p1, %rd1, 0;\n@%p1 bra again;\n"
    "done:\nsetp.eq.f32 %p2, %f1, 0f00000000;\n@!%p2 bra out;\nst.global.f32 [%rd2], %f1;\nout:\nret;\n}\n";

/* Writes to an address that is nobody's. */
static const char FAULT_PTX[] =
    ".version 7.0\n.target sm_70\n.address_size 64\n"
    "//fakegpu kernel fault fault=illegal_address\n"
    ".visible .entry fault()\n"
    "{\n.reg .b64 %rd<2>;\n.reg .b32 %r<2>;\nmov.u64 %rd1, 16;\nmov.u32 %r1, 1;\nst.global.u32 [%rd1], %r1;\nret;\n}\n";

static struct driver cu;
/* Calls that only this program makes. */
static CUresult (*EventCreate)(CUevent *, unsigned), (*EventRecord)(CUevent, CUstream), (*EventQuery)(CUevent),
    (*EventSynchronize)(CUevent), (*EventElapsedTime)(float *, CUevent, CUevent),
    (*MemcpyDtoDAsync)(CUdeviceptr, CUdeviceptr, size_t, CUstream);
static CUcontext context;
static CUstream stream;
static CUfunction spin;
static const char *kernel = "spin";
static unsigned kinds = 1;
static int processors;
static unsigned blocks, threads = 1024, blocks_per_processor = 2;
static double iteration_ns, base_ns;

#define MUST(call)               \
    do {                         \
        CUresult error_ = call;  \
        if (error_)              \
            die(#call, error_);  \
    } while (0)

static void find(void *field, const char *base, int version, const char *name) {
    void *entry = driver_find(&cu, BY_GETPROC, base, version, name);
    if (!entry) {
        fprintf(stderr, "tenant: the driver has no %s\n", name);
        exit(1);
    }
    memcpy(field, &entry, sizeof entry);
}

static void launch(uint64_t iterations) {
    static unsigned kind;
    CUdeviceptr nowhere = 0;
    void *parameters[] = {&iterations, &nowhere};
    NEED(LaunchKernel, spin, blocks, 1, 1, threads, 1, 1, 16 * (kind++ % kinds), stream, parameters, NULL);
}

/* The text of the kernel, by the name that it is to have. */
static const char *called(const char *text) {
    static char to[4096];
    char *end = to;
    for (const char *at; (at = strstr(text, "spin")); text = at + 4)
        end += snprintf(end, sizeof to - (size_t)(end - to), "%.*s%s", (int)(at - text), text, kernel);
    snprintf(end, sizeof to - (size_t)(end - to), "%s", text);
    return to;
}

static void begin(void) {
    CUdevice device;
    CUmodule module;
    driver_need(&cu, "libcuda.so.1", BY_GETPROC);
    find(&EventCreate, "cuEventCreate", 2000, "cuEventCreate");
    find(&EventRecord, "cuEventRecord", 2000, "cuEventRecord");
    find(&EventQuery, "cuEventQuery", 2000, "cuEventQuery");
    find(&EventSynchronize, "cuEventSynchronize", 2000, "cuEventSynchronize");
    find(&EventElapsedTime, "cuEventElapsedTime", 2000, "cuEventElapsedTime");
    find(&MemcpyDtoDAsync, "cuMemcpyDtoDAsync", 3020, "cuMemcpyDtoDAsync_v2");
    NEED(Init, 0);
    NEED(DeviceGet, &device, 0);
    NEED(PrimaryCtxRetain, &context, device);
    NEED(CtxSetCurrent, context);
    NEED(StreamCreate, &stream, 1 /* non-blocking */);
    NEED(ModuleLoadData, &module, called(SPIN_PTX));
    NEED(ModuleGetFunction, &spin, module, kernel);
    NEED(DeviceGetAttribute, &processors, 16 /* multiprocessors */, device);
    /* As many threads as the device holds: kernels of one tenant don't run beside each other. */
    blocks = blocks_per_processor * (unsigned)processors;
    launch(1);
    NEED(StreamSynchronize, stream);
}

/* ns for one of `count` kernels in a row. */
static double timed(uint64_t iterations, int count) {
    static CUevent a, b;
    float ms;
    if (!a) {
        MUST(EventCreate(&a, 0));
        MUST(EventCreate(&b, 0));
    }
    MUST(EventRecord(a, stream));
    for (int i = 0; i < count; i++)
        launch(iterations);
    MUST(EventRecord(b, stream));
    MUST(EventSynchronize(b));
    MUST(EventElapsedTime(&ms, a, b));
    return (double)ms * 1e6 / count;
}

static double least(uint64_t iterations, int count) {
    double best = timed(iterations, count);
    for (int i = 0; i < 4; i++) {
        double again = timed(iterations, count);
        best = again < best ? again : best;
    }
    return best;
}

/* A kernel takes `base_ns` and `iteration_ns` for each iteration: from two lengths, after the clocks have come up; what
 * disturbs a measurement only makes it longer. */
static void calibrate(void) {
    uint64_t until = now_ns() + 100000000u, few, many;
    double rough = 1;
    while (now_ns() < until)
        rough = timed(40000, 20) / 40000;
    few = (uint64_t)(100e3 / rough);
    many = 20 * few;
    double small = least(few, 50), large = least(many, 10);
    iteration_ns = (large - small) / (double)(many - few);
    base_ns = small - iteration_ns * (double)few;
    printf("{\"name\":\"calibrated\",\"iteration_ns\":%.6f,\"base_ns\":%.1f,\"processors\":%d}\n", iteration_ns, base_ns, processors);
    fflush(stdout);
}

static uint64_t iterations_of(double ns) {
    return ns > base_ns ? (uint64_t)((ns - base_ns) / iteration_ns + 0.5) : 0;
}

/* ---------------------------------------------------------------- what was done, and when */

struct done {
    uint64_t from, to; /* ns: when it was sent or the work before it ended, and when it was seen to be done */
    double work;       /* ns of device time; for what is counted a number */
};

static struct done *list;
static size_t count, room;

static void finished(uint64_t sent, uint64_t now, double work) {
    if (count == room) {
        room = room ? 2 * room : 65536;
        list = realloc(list, room * sizeof *list);
        if (!list)
            exit(1);
    }
    uint64_t last = count ? list[count - 1].to : 0;
    uint64_t from = sent > last ? sent : last;
    list[count++] = (struct done){from < now ? from : now, now, work};
}

static struct flight {
    CUevent event;
    uint64_t sent;
    double work;
} ring[RING];
static uint64_t sent_count, seen_count, waited_count; /* sent and seen are shared by both threads */
static double under_way; /* ns sent and not waited for */
static int closing;

static void *watch(void *unused) {
    (void)unused;
    NEED(CtxSetCurrent, context);
    struct timespec nap = {0, 50000};
    for (;;) {
        int closed = __atomic_load_n(&closing, __ATOMIC_ACQUIRE);
        uint64_t sent = __atomic_load_n(&sent_count, __ATOMIC_ACQUIRE);
        for (; seen_count < sent; __atomic_store_n(&seen_count, seen_count + 1, __ATOMIC_RELEASE)) {
            struct flight *f = &ring[seen_count % RING];
            CUresult state = EventQuery(f->event);
            if (state == 600 /* not ready */)
                break;
            if (state)
                die("EventQuery", state);
            finished(f->sent, now_ns(), f->work);
        }
        if (closed && seen_count == sent)
            return NULL;
        nanosleep(&nap, NULL);
    }
}

/* What was sent since `began` gets an event, and if more than `ahead` ns is under way, the oldest of it is waited for. */
static void mark(uint64_t began, double work, double ahead) {
    struct flight *f = &ring[sent_count % RING];
    if (!f->event)
        MUST(EventCreate(&f->event, 2 /* without times */));
    f->sent = began;
    f->work = work;
    MUST(EventRecord(f->event, stream));
    __atomic_store_n(&sent_count, sent_count + 1, __ATOMIC_RELEASE);
    under_way += work;
    while (under_way > ahead && waited_count + 1 < sent_count) {
        struct flight *oldest = &ring[waited_count++ % RING];
        MUST(EventSynchronize(oldest->event));
        under_way -= oldest->work;
    }
    while (sent_count - __atomic_load_n(&seen_count, __ATOMIC_ACQUIRE) >= RING - 1)
        usleep(50);
}

static void drain(void) {
    NEED(StreamSynchronize, stream);
    while (__atomic_load_n(&seen_count, __ATOMIC_ACQUIRE) < sent_count)
        usleep(50);
    waited_count = sent_count;
    under_way = 0;
}

/* ---------------------------------------------------------------- modes */

static double length_ns[16];
static int lengths;
static double ahead_ns = 8e6, on_ns, off_ns;
static int nodes = 20;
static uint64_t start_ns, end_ns;
/* When the times of work began and ended, for --phases: ns. */
static uint64_t phase[2][4096];
static int phases;
static double latency_ms[100000];
static int latencies, late;

static void sleep_until(uint64_t when) {
    int64_t left = (int64_t)(when - now_ns()) - 200000;
    if (left > 0) {
        struct timespec nap = {left / 1000000000, left % 1000000000};
        nanosleep(&nap, NULL);
    }
    while (now_ns() < when) {
    }
}

/* With --phases, at the end of a phase: waits for what is under way and then for the next one. */
static void pause_between(void) {
    double cycle = on_ns + off_ns;
    uint64_t now = now_ns(), number = cycle > 0 ? (uint64_t)((double)(now - start_ns) / cycle) : 0;
    if (cycle == 0 || (double)(now - start_ns) - (double)number * cycle < on_ns)
        return;
    drain();
    uint64_t next = start_ns + (uint64_t)((double)(number + 1) * cycle);
    if (phases < 4096) {
        phase[1][phases++] = now_ns();
        phase[0][phases] = next;
    }
    sleep_until(next < end_ns ? next : end_ns);
}

static void saturate(void) {
    phase[0][0] = start_ns;
    for (int i = 0; now_ns() < end_ns; pause_between()) {
        /* Short kernels share an event, which costs the device time. */
        double work = 0;
        uint64_t began = 0;
        while (work < 200e3) {
            double length = length_ns[i++ % lengths];
            launch(iterations_of(length));
            began = began ? began : now_ns();
            work += length;
        }
        mark(began, work, ahead_ns);
    }
    drain();
}

static void graphs(void) {
    CUgraph graph;
    CUgraphExec exec;
    double work = 0;
    NEED(StreamBeginCapture, stream, 2);
    for (int i = 0; i < nodes; i++) {
        launch(iterations_of(length_ns[i % lengths]));
        work += length_ns[i % lengths];
    }
    NEED(StreamEndCapture, stream, &graph);
    NEED(GraphInstantiate, &exec, graph, 0);
    while (now_ns() < end_ns) {
        NEED(GraphLaunch, exec, stream);
        mark(now_ns(), work, ahead_ns);
    }
    drain();
}

static void loop(void) {
    for (int i = 0; now_ns() < end_ns; i++) {
        double length = length_ns[i % lengths];
        launch(iterations_of(length));
        uint64_t began = now_ns();
        NEED(StreamSynchronize, stream);
        finished(began, now_ns(), length);
    }
}

static void serve(uint64_t measured) {
    uint64_t iterations = iterations_of(100e3);
    for (uint64_t at = start_ns; at < end_ns; at += 10000000) {
        sleep_until(at);
        uint64_t a = now_ns();
        late += a > at + 1000000;
        for (int i = 0; i < 10; i++)
            launch(iterations);
        NEED(StreamSynchronize, stream);
        uint64_t b = now_ns();
        finished(a, b, 1e6);
        if (at >= measured && latencies < 100000)
            latency_ms[latencies++] = (double)(b - a) / 1e6;
    }
}

static void copy(void) {
    CUdeviceptr to, from;
    NEED(MemAlloc, &to, COPY_BYTES);
    NEED(MemAlloc, &from, COPY_BYTES);
    while (now_ns() < end_ns) {
        MUST(MemcpyDtoDAsync(to, from, COPY_BYTES, stream));
        mark(now_ns(), 1, 16);
    }
    drain();
}

static void storm(void) {
    while (now_ns() < end_ns) {
        uint64_t began = now_ns();
        for (int i = 0; i < 256; i++)
            launch(0);
        NEED(StreamSynchronize, stream);
        finished(began, now_ns(), 256);
    }
}

static void allocations(void) {
    uint64_t random = 88172645463325252u;
    CUdeviceptr held[32] = {0};
    while (now_ns() < end_ns) {
        uint64_t began = now_ns();
        for (int i = 0; i < 32; i++) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            CUdeviceptr *one = &held[random % 32];
            if (*one)
                NEED(MemFree, *one);
            NEED(MemAlloc, one, (size_t)4096 << (random >> 32) % 12); /* 4 KiB to 8 MiB */
        }
        finished(began, now_ns(), 32);
    }
}

/* The few calls of cuBLAS; a stream of the driver is one of the runtime. */
static const char *library = "libcublas.so";
static void *blas;
static int (*GemmEx)(void *, int, int, int, int, int, const void *, const void *, int, int, const void *, int, int, const void *, void *, int, int, int, int);
static CUdeviceptr matrix[3];

static void multiply(void) {
    const float one = 1, zero = 0;
    int status = GemmEx(blas, 0, 0, SIDE, SIDE, SIDE, &one, (void *)matrix[0], 14 /* bfloat16 */, SIDE, (void *)matrix[1], 14, SIDE, &zero,
                        (void *)matrix[2], 14, SIDE, 68 /* in float */, -1 /* it chooses */);
    if (status)
        die("cublasGemmEx", status);
}

static void cublas(void) {
    void *handle = dlopen(library, RTLD_NOW);
    if (!handle) {
        fprintf(stderr, "tenant: %s\n", dlerror());
        exit(1);
    }
    int (*Create)(void **), (*SetStream)(void *, CUstream);
    *(void **)&Create = dlsym(handle, "cublasCreate_v2");
    *(void **)&SetStream = dlsym(handle, "cublasSetStream_v2");
    *(void **)&GemmEx = dlsym(handle, "cublasGemmEx");
    if (!Create || !SetStream || !GemmEx) {
        fprintf(stderr, "tenant: %s has not the calls of cuBLAS\n", library);
        exit(1);
    }
    MUST(Create(&blas));
    MUST(SetStream(blas, stream));
    for (int i = 0; i < 3; i++) {
        NEED(MemAlloc, &matrix[i], (size_t)SIDE * SIDE * 2);
        NEED(MemsetD8, matrix[i], 0x3c, (size_t)SIDE * SIDE * 2);
    }
    for (int i = 0; i < 5; i++)
        multiply();
    NEED(StreamSynchronize, stream);
}

static void products(void) {
    while (now_ns() < end_ns) {
        uint64_t began = now_ns();
        multiply();
        mark(began, 1, 32);
    }
    drain();
}

static void bad(CUresult answer) {
    printf("{\"name\":\"bad\",\"answer\":%d,\"at_ns\":%llu}\n", answer, (unsigned long long)now_ns());
    fflush(stdout);
}

/* After half of the measured time. Its work until then is of no interest, and the thread that watches it would end at the first error. */
static void misbehave(const char *mode, uint64_t measured) {
    CUmodule module;
    CUfunction fault;
    CUdeviceptr memory;
    uint64_t end = end_ns;
    end_ns = measured + (end - measured) / 2;
    saturate();
    __atomic_store_n(&closing, 1, __ATOMIC_RELEASE);
    if (!strcmp(mode, "fault")) {
        NEED(ModuleLoadData, &module, FAULT_PTX);
        NEED(ModuleGetFunction, &fault, module, "fault");
        CUresult answer = cu.LaunchKernel(fault, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL);
        bad(answer ? answer : cu.StreamSynchronize(stream));
        _exit(3);
    }
    if (!strcmp(mode, "hang")) {
        launch((uint64_t)1 << 40);
        bad(0);
        cu.StreamSynchronize(stream);
        _exit(3);
    }
    CUresult answer = 0;
    while (!answer)
        answer = cu.MemAlloc(&memory, 32 * MIB);
    bad(answer);
    while (now_ns() < end)
        if (!cu.MemAlloc(&memory, 32 * MIB))
            _exit(4);
    _exit(0);
}

/* ---------------------------------------------------------------- the result */

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print(const char *mode, uint64_t measured, double seconds) {
    size_t bins = (size_t)(seconds * 1e3 + 0.5);
    double *bin = calloc(bins + 1, sizeof *bin), sum = 0;
    for (size_t i = 0; i < count; i++) {
        struct done *d = &list[i];
        double rate = d->work / (double)(d->to > d->from ? d->to - d->from : 1);
        uint64_t to = d->to > d->from ? d->to : d->from + 1;
        for (uint64_t at = d->from > measured ? d->from : measured; at < to && at < measured + bins * 1000000;) {
            size_t number = (at - measured) / 1000000;
            uint64_t edge = measured + (number + 1) * 1000000, until = edge < to ? edge : to;
            bin[number] += rate * (double)(until - at);
            at = until;
        }
    }
    for (size_t i = 0; i < bins; i++)
        sum += bin[i];
    int counted = !strcmp(mode, "copy") || !strcmp(mode, "storm") || !strcmp(mode, "alloc") || !strcmp(mode, "gemm");
    printf("{\"name\":\"done\",\"mode\":\"%s\",\"delivered\":%.6f,", mode, counted ? sum : sum / 1e9);
    if (latencies) {
        qsort(latency_ms, (size_t)latencies, sizeof *latency_ms, ascending);
        printf("\"requests\":%d,\"late\":%d,\"p50_ms\":%.4f,\"p95_ms\":%.4f,\"p99_ms\":%.4f,\"max_ms\":%.4f,", latencies, late,
               latency_ms[latencies / 2], latency_ms[latencies * 95 / 100], latency_ms[latencies * 99 / 100], latency_ms[latencies - 1]);
    }
    printf("\"phases_ms\":[");
    for (int i = 0; i < phases; i++)
        printf("%s[%.2f,%.2f]", i ? "," : "", (double)(int64_t)(phase[0][i] - measured) / 1e6, (double)(int64_t)(phase[1][i] - measured) / 1e6);
    printf("],\"per_ms\":[");
    for (size_t i = 0; i < bins; i++)
        printf("%s%.0f", i ? "," : "", bin[i]);
    printf("]}\n");
    fflush(stdout);
}

static double *numbers(char *text, double *to, int most, int *got) {
    *got = 0;
    for (char *part = strtok(text, ","); part && *got < most; part = strtok(NULL, ","))
        to[(*got)++] = atof(part);
    return to;
}

int main(int arguments, char **argument) {
    const char *mode = arguments > 1 ? argument[1] : "";
    char line[256];
    for (int i = 2; i + 1 < arguments; i += 2) {
        char *value = argument[i + 1];
        double pair[2] = {0, 0};
        int got;
        if (!strcmp(argument[i], "--iteration-ns"))
            iteration_ns = atof(value);
        else if (!strcmp(argument[i], "--base-ns"))
            base_ns = atof(value);
        else if (!strcmp(argument[i], "--shape")) {
            /* `light`: a block of 128 threads on each multiprocessor, beside which others have room; else all the threads that it holds. */
            if (!strcmp(value, "light"))
                threads = 128, blocks_per_processor = 1;
        } else if (!strcmp(argument[i], "--lengths")) {
            numbers(value, length_ns, 16, &lengths);
            for (int k = 0; k < lengths; k++)
                length_ns[k] *= 1e3;
        } else if (!strcmp(argument[i], "--ahead"))
            ahead_ns = atof(value) * 1e6;
        else if (!strcmp(argument[i], "--nodes"))
            nodes = atoi(value);
        else if (!strcmp(argument[i], "--library"))
            library = value;
        else if (!strcmp(argument[i], "--kernel") && strlen(value) < 200)
            kernel = value;
        else if (!strcmp(argument[i], "--kinds") && atoi(value) > 0)
            kinds = (unsigned)atoi(value);
        else if (!strcmp(argument[i], "--phases")) {
            numbers(value, pair, 2, &got);
            on_ns = pair[0] * 1e6;
            off_ns = pair[1] * 1e6;
        } else {
            fprintf(stderr, "tenant: unknown option %s\n", argument[i]);
            return 2;
        }
    }
    begin();
    if (!strcmp(mode, "calibrate")) {
        do
            calibrate();
        while (fgets(line, sizeof line, stdin));
        return 0;
    }
    if (iteration_ns <= 0) {
        fprintf(stderr, "tenant: --iteration-ns is needed: `tenant calibrate` prints it\n");
        return 2;
    }
    if (!lengths)
        length_ns[lengths++] = 200e3;
    if (!strcmp(mode, "gemm"))
        cublas();
    printf("{\"name\":\"ready\",\"pid\":%d,\"processors\":%d}\n", (int)getpid(), processors);
    fflush(stdout);
    double seconds, warm;
    unsigned long long start;
    if (!fgets(line, sizeof line, stdin) || sscanf(line, "%llu %lf %lf", &start, &seconds, &warm) != 3)
        return 2;
    start_ns = start;
    uint64_t measured = start_ns + (uint64_t)(warm * 1e9);
    end_ns = measured + (uint64_t)((seconds + 0.05) * 1e9);
    pthread_t watcher;
    if (pthread_create(&watcher, NULL, watch, NULL))
        return 1;
    sleep_until(start_ns);
    if (!strcmp(mode, "saturate"))
        saturate();
    else if (!strcmp(mode, "graph"))
        graphs();
    else if (!strcmp(mode, "loop"))
        loop();
    else if (!strcmp(mode, "serve"))
        serve(measured);
    else if (!strcmp(mode, "copy"))
        copy();
    else if (!strcmp(mode, "storm"))
        storm();
    else if (!strcmp(mode, "alloc"))
        allocations();
    else if (!strcmp(mode, "gemm"))
        products();
    else if (!strcmp(mode, "fault") || !strcmp(mode, "hang") || !strcmp(mode, "oom"))
        misbehave(mode, measured);
    else {
        fprintf(stderr, "tenant: no mode %s\n", mode);
        return 2;
    }
    __atomic_store_n(&closing, 1, __ATOMIC_RELEASE);
    pthread_join(watcher, NULL);
    print(mode, measured, seconds);
    fflush(stdout);
    _exit(0);
}
