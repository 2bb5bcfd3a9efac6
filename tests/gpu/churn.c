/* Programs that allocate and free without rest, for the tests of robustness.
 *
 *   churn wild SEED MIB        allocates by every path at random, up to MIB, until it is killed; says S, then R when it runs
 *   churn budget SEED          says it is ready; reads "MIB SECONDS"; keeps at most that much for that long; sums up
 *   churn steady MIB           keeps MIB, allocates, launches and frees every few ms, and says what the driver tells it;
 *                              reads "alloc MIB", "free", "quit"
 */
#include "driver.h"
#include <poll.h>

#define MIB ((size_t)1 << 20)
#define MOST 512

static struct driver cu;
static CUdevice device;
static CUstream stream;
static CUfunction empty;
static uint64_t random_state;

static uint64_t random_next(void) { /* xorshift */
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static size_t below(size_t n) { return n ? (size_t)(random_next() % n) : 0; }

static void start(void) {
    CUcontext context;
    CUmodule module;
    driver_need(&cu, "libcuda.so.1", BY_GETPROC);
    NEED(Init, 0);
    NEED(DeviceGet, &device, 0);
    NEED(PrimaryCtxRetain, &context, device);
    NEED(CtxSetCurrent, context);
    NEED(StreamCreate, &stream, 1);
    NEED(ModuleLoadData, &module, EMPTY_PTX);
    NEED(ModuleGetFunction, &empty, module, "empty");
    NEED(LaunchKernel, empty, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL);
    NEED(StreamSynchronize, stream);
}

struct piece {
    int kind; /* 0 cuMemAlloc, 1 cuMemCreate, 2 cuMemAllocAsync */
    unsigned long long what;
    size_t mib;
};

static CUresult take(struct piece *p) {
    if (p->kind == 1) {
        CUallocationProp prop = {.type = 1, .location = {1, device}};
        return cu.MemCreate(&p->what, p->mib * MIB, &prop, 0);
    }
    if (p->kind == 2)
        return cu.MemAllocAsync(&p->what, p->mib * MIB, stream);
    return cu.MemAlloc(&p->what, p->mib * MIB);
}

static void give(struct piece *p) {
    CUresult error = p->kind == 1 ? cu.MemRelease(p->what) : p->kind == 2 ? cu.MemFreeAsync(p->what, stream) : cu.MemFree(p->what);
    if (error)
        die("free", error);
}

/* Keeps at most `budget` MiB in pieces of `kinds` kinds, until `seconds` are over or for ever. */
static void churn(size_t budget, double seconds, int kinds) {
    static struct piece pieces[MOST];
    size_t count = 0, held = 0, most = 0, taken = 0, refused = 0, other = 0;
    double end = now_seconds() + seconds;
    int last = 0;
    while (seconds == 0 || now_seconds() < end) {
        struct piece p = {.kind = (int)below((size_t)kinds), .mib = 2 * (1 + below(below(4) ? 32 : 256))};
        if (count < MOST && held + p.mib <= budget && below(8)) {
            CUresult error = take(&p);
            if (!error) {
                pieces[count++] = p;
                held += p.mib;
                taken++;
                if (held > most)
                    most = held;
                continue;
            }
            if (error != CUDA_OUT_OF_MEMORY) {
                other++;
                last = error;
            } else {
                refused++;
            }
        }
        /* A free, or now and then of half, so that large pieces find room again. */
        for (size_t n = below(32) ? 1 : count / 2; n && count; n--) {
            size_t i = below(count);
            give(&pieces[i]);
            held -= pieces[i].mib;
            pieces[i] = pieces[--count];
        }
    }
    while (count)
        give(&pieces[--count]);
    printf("{\"pid\":%d,\"budget_mib\":%zu,\"most_mib\":%zu,\"taken\":%zu,\"refused\":%zu,\"other_errors\":%zu,\"last_error\":%d}\n",
           (int)getpid(), budget, most, taken, refused, other, last);
    fflush(stdout);
}

static int read_line(char *text, size_t size) {
    size_t n = 0;
    while (n + 1 < size && read(0, text + n, 1) == 1 && text[n] != '\n')
        n++;
    text[n] = 0;
    return n > 0;
}

static void steady(size_t keep) {
    CUdeviceptr kept = 0, more = 0;
    size_t iterations = 0, refused = 0, other = 0, seen = 0;
    double said = 0;
    char line[64];
    if (keep)
        NEED(MemAlloc, &kept, keep * MIB);
    for (;;) {
        CUdeviceptr p = 0;
        size_t free = 0, total = 0;
        CUresult error = cu.MemAlloc(&p, 2 * MIB);
        if (!error) {
            error = cu.MemsetD8(p, 1, 2 * MIB);
            if (!error)
                error = cu.MemFree(p);
        }
        if (!error)
            error = cu.LaunchKernel(empty, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL);
        if (!error)
            error = cu.StreamSynchronize(stream);
        if (error == CUDA_OUT_OF_MEMORY)
            refused++;
        else if (error)
            other++;
        if (cu.MemGetInfo(&free, &total))
            other++;
        iterations++;
        double now = now_seconds();
        if (total != seen || now > said + 0.1) {
            printf("{\"pid\":%d,\"at\":%.6f,\"total_bytes\":%zu,\"free_bytes\":%zu,\"iterations\":%zu,\"refused\":%zu,\"other_errors\":%zu}\n",
                   (int)getpid(), now, total, free, iterations, refused, other);
            fflush(stdout);
            seen = total;
            said = now;
        }
        struct pollfd input = {0, POLLIN, 0};
        if (poll(&input, 1, 5) > 0) {
            if (!read_line(line, sizeof line) || !strcmp(line, "quit"))
                return;
            if (!strncmp(line, "alloc ", 6)) {
                error = cu.MemAlloc(&more, strtoull(line + 6, NULL, 10) * MIB);
                printf("{\"answer\":\"alloc\",\"error\":%d}\n", error);
            } else if (!strcmp(line, "free")) {
                error = kept ? cu.MemFree(kept) : 0;
                kept = 0;
                printf("{\"answer\":\"free\",\"error\":%d}\n", error);
            }
            fflush(stdout);
        }
    }
}

int main(int count, char **argument) {
    const char *mode = count > 1 ? argument[1] : "";
    size_t number = count > 2 ? strtoull(argument[2], NULL, 10) : 0;
    random_state = (number + 1) * 0x9e3779b97f4a7c15ull;
    if (!strcmp(mode, "wild")) {
        size_t budget = count > 3 ? strtoull(argument[3], NULL, 10) : 512;
        (void)!write(1, "S", 1);
        start();
        (void)!write(1, "R", 1);
        churn(budget, 0, 3);
    } else if (!strcmp(mode, "budget")) {
        char line[64];
        start();
        for (;;) {
            size_t budget = 0;
            double seconds = 0;
            printf("{\"ready\":true,\"pid\":%d}\n", (int)getpid());
            fflush(stdout);
            if (!read_line(line, sizeof line) || sscanf(line, "%zu %lf", &budget, &seconds) != 2 || seconds <= 0)
                break;
            churn(budget, seconds, 2); /* not from a pool: what a pool reserves is not what is asked of it */
        }
    } else if (!strcmp(mode, "steady")) {
        start();
        steady(number);
    } else {
        fprintf(stderr, "churn: wild, budget or steady?\n");
        return 2;
    }
    return 0;
}
