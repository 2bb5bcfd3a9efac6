/* How long a starting program is inside the stand-in: each call's time as the program sees it, less the time in the real
 * library. Run it in a slice; `memory.py` does.
 *
 *   inside calls       from cuInit to the first kernel, modules and contexts; one JSON line per call
 *   inside spawn N     N processes that end at once, with the stand-in preloaded and without it, in turns
 *
 * The stand-in finds the real library with dlopen and its entry points with dlsym, as any program does. This program
 * defines both, so the dynamic linker gives the stand-in these; they hand it the real entry points in a wrapper that
 * takes the time. The program itself goes past them, and takes the stand-in's entry points by name alone: what
 * cuGetProcAddress answers is compared by the stand-in with what dlsym gave it.
 *
 * "cpu" is the same difference of the thread's processor time: what is left of the whole is waiting, mostly for the
 * daemon's answer. What the stand-in asks of the driver beyond the call itself counts as its own. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <time.h>

static void *libc_dlsym(void *library, const char *name);
static void *libc_dlopen(const char *path, int flags);
#define dlsym libc_dlsym
#define dlopen libc_dlopen
#include "../tests/gpu/driver.h"
#undef dlsym
#undef dlopen
#include <spawn.h>
#include <sys/wait.h>

struct times {
    double wall, cpu; /* µs */
};

static double clock_us(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return 1e6 * (double)t.tv_sec + 1e-3 * (double)t.tv_nsec;
}

/* Time in the real library on this thread, of the outermost calls. */
static __thread struct times real_time, entered;
static __thread int depth, real_calls;

static void enter(void) {
    if (depth++ == 0) {
        entered.cpu = clock_us(CLOCK_THREAD_CPUTIME_ID);
        entered.wall = clock_us(CLOCK_MONOTONIC);
    }
}

static void leave(void) {
    if (--depth == 0) {
        real_time.wall += clock_us(CLOCK_MONOTONIC) - entered.wall;
        real_time.cpu += clock_us(CLOCK_THREAD_CPUTIME_ID) - entered.cpu;
        real_calls++;
    }
}

#define WRAPPED(X)                                                                                                    \
    X(cuInit, (unsigned flags), (flags))                                                                              \
    X(cuDevicePrimaryCtxRetain, (CUcontext * context, CUdevice device), (context, device))                            \
    X(cuCtxCreate_v2, (CUcontext * context, unsigned flags, CUdevice device), (context, flags, device))               \
    X(cuCtxCreate_v4, (CUcontext * context, void *parameters, unsigned flags, CUdevice device),                       \
      (context, parameters, flags, device))                                                                           \
    X(cuCtxDestroy_v2, (CUcontext context), (context))                                                                \
    X(cuModuleLoadData, (CUmodule * module, const void *image), (module, image))                                      \
    X(cuModuleUnload, (CUmodule module), (module))                                                                    \
    X(cuModuleGetFunction, (CUfunction * function, CUmodule module, const char *name), (function, module, name))      \
    X(cuLibraryLoadData,                                                                                              \
      (CUlibrary * library, const void *image, int *jit, void **jit_values, unsigned jit_count, int *options,         \
       void **values, unsigned count),                                                                                \
      (library, image, jit, jit_values, jit_count, options, values, count))                                           \
    X(cuLaunchKernel,                                                                                                 \
      (CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,   \
       CUstream stream, void **parameters, void **extra),                                                             \
      (f, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra))                                                 \
    X(cuCtxSynchronize, (void), ())

/* For each: the real entry point, the wrapper, and the stand-in's entry point. */
#define X(name, parameters, arguments)                  \
    static CUresult(*real_##name) parameters;           \
    static CUresult wrapped_##name parameters {         \
        enter();                                        \
        CUresult error = real_##name arguments;         \
        leave();                                        \
        return error;                                   \
    }                                                   \
    static CUresult(*entry_##name) parameters;
WRAPPED(X)
#undef X

static void *libc_symbol(const char *name) {
    void *found = dlvsym(RTLD_NEXT, name, "GLIBC_2.2.5");        /* x86-64 */
    return found ? found : dlvsym(RTLD_NEXT, name, "GLIBC_2.17"); /* arm64 */
}

static void *libc_dlsym(void *library, const char *name) {
    static void *(*next)(void *, const char *);
    if (!next) {
        void *found = libc_symbol("dlsym");
        memcpy(&next, &found, sizeof next);
    }
    return next(library, name);
}

static void *libc_dlopen(const char *path, int flags) {
    static void *(*next)(const char *, int);
    if (!next) {
        void *found = libc_symbol("dlopen");
        memcpy(&next, &found, sizeof next);
    }
    return next(path, flags);
}

/* What everybody but this program gets. The stand-in asks first, and once; who asks later gets the entry point itself. */
__attribute__((visibility("default"))) void *dlsym(void *library, const char *name) {
    void *found = libc_dlsym(library, name);
#define X(wrapped, parameters, arguments)                            \
    if (found && !real_##wrapped && !strcmp(name, #wrapped)) {       \
        memcpy(&real_##wrapped, &found, sizeof found);               \
        CUresult(*wrapper) parameters = wrapped_##wrapped;           \
        memcpy(&found, &wrapper, sizeof found);                      \
        return found;                                                \
    }
    WRAPPED(X)
#undef X
    return found;
}

/* The real library's loading is the real library's time. */
__attribute__((visibility("default"))) void *dlopen(const char *path, int flags) {
    enter();
    void *library = libc_dlopen(path, flags);
    leave();
    return library;
}

static double clocks; /* what taking the time of one real call adds to the whole, µs */

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, ascending);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

static void calibrate(void) {
    static double pairs[1001];
    for (int i = 0; i < 1001; i++) {
        double start = clock_us(CLOCK_MONOTONIC);
        real_time.wall = 0;
        enter();
        leave();
        pairs[i] = clock_us(CLOCK_MONOTONIC) - start - real_time.wall;
    }
    clocks = median(pairs, 1001);
}

static struct times began;

static void begin(void) {
    real_time = (struct times){0, 0};
    real_calls = 0;
    began.cpu = clock_us(CLOCK_THREAD_CPUTIME_ID);
    began.wall = clock_us(CLOCK_MONOTONIC);
}

static void end(const char *name, CUresult error) {
    double wall = clock_us(CLOCK_MONOTONIC) - began.wall, cpu = clock_us(CLOCK_THREAD_CPUTIME_ID) - began.cpu;
    if (error)
        die(name, error);
    if (!real_calls) {
        fprintf(stderr, "inside: %s did not come past here on its way to the driver: not in a slice?\n", name);
        exit(1);
    }
    double ours = wall - real_time.wall - clocks * real_calls, busy = cpu - real_time.cpu - clocks * real_calls;
    printf("{\"name\":\"%s\",\"whole_us\":%.2f,\"real_us\":%.2f,\"ours_us\":%.2f,\"ours_cpu_us\":%.2f}\n", name, wall,
           real_time.wall, ours, busy);
}

#define TIMED(label, call)     \
    do {                       \
        begin();               \
        CUresult error_ = call; \
        end(label, error_);    \
    } while (0)

static void calls(void) {
    void *library = libc_dlopen("libcuda.so.1", RTLD_NOW);
    if (!library) {
        fprintf(stderr, "inside: %s\n", dlerror());
        exit(1);
    }
#define X(name, parameters, arguments)                       \
    {                                                        \
        void *found = libc_dlsym(library, #name);            \
        memcpy(&entry_##name, &found, sizeof found);         \
    }
    WRAPPED(X)
#undef X
    CUcontext primary, context;
    CUmodule module, again;
    CUlibrary loaded;
    CUfunction empty;
    CUdevice device;
    CUresult (*get)(CUdevice *, int), (*set)(CUcontext);
    void *found = libc_dlsym(library, "cuDeviceGet");
    memcpy(&get, &found, sizeof found);
    found = libc_dlsym(library, "cuCtxSetCurrent");
    memcpy(&set, &found, sizeof found);
    calibrate();
    TIMED("cuInit", entry_cuInit(0));
    if (get(&device, 0))
        die("cuDeviceGet", 0);
    TIMED("cuDevicePrimaryCtxRetain", entry_cuDevicePrimaryCtxRetain(&primary, device));
    set(primary);
    TIMED("cuModuleLoadData", entry_cuModuleLoadData(&module, EMPTY_PTX));
    TIMED("cuModuleGetFunction", entry_cuModuleGetFunction(&empty, module, "empty"));
    TIMED("cuLaunchKernel", entry_cuLaunchKernel(empty, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    TIMED("cuCtxSynchronize", entry_cuCtxSynchronize());
    for (int i = 0; i < 5; i++) {
        TIMED("cuModuleLoadData, again", entry_cuModuleLoadData(&again, EMPTY_PTX));
        entry_cuModuleUnload(again);
    }
    TIMED("cuLibraryLoadData", entry_cuLibraryLoadData(&loaded, EMPTY_PTX, NULL, NULL, 0, NULL, NULL, 0));
    for (int i = 0; i < 2; i++) {
        TIMED(i ? "cuCtxCreate_v2, again" : "cuCtxCreate_v2", entry_cuCtxCreate_v2(&context, 0, device));
        TIMED(i ? "cuCtxDestroy, again" : "cuCtxDestroy", entry_cuCtxDestroy_v2(context));
    }
    if (entry_cuCtxCreate_v4) { /* since 12.5 */
        TIMED("cuCtxCreate_v4", entry_cuCtxCreate_v4(&context, NULL, 0, device));
        entry_cuCtxDestroy_v2(context);
    }
}

extern char **environ;

static void spawned(char **environment) {
    char *argument[] = {"inside", "nothing", NULL};
    pid_t child;
    int status;
    int error = posix_spawn(&child, "/proc/self/exe", NULL, NULL, argument, environment);
    if (error || waitpid(child, &status, 0) != child || status)
        die("posix_spawn", error);
}

static void spawn(int count) {
    char *without[1000];
    int kept = 0;
    double *times[2] = {calloc((size_t)count, sizeof(double)), calloc((size_t)count, sizeof(double))};
    for (char **entry = environ; *entry && kept < 999; entry++)
        if (strncmp(*entry, "LD_PRELOAD=", 11))
            without[kept++] = *entry;
    without[kept] = NULL;
    for (int i = -2; i < count; i++)
        for (int turn = 0; turn < 2; turn++) {
            int which = (turn + i) & 1;
            double start = clock_us(CLOCK_MONOTONIC);
            spawned(which ? environ : without);
            if (i >= 0)
                times[which][i] = clock_us(CLOCK_MONOTONIC) - start;
        }
    double native = median(times[0], count), slice = median(times[1], count);
    printf("{\"name\":\"spawn\",\"native_us\":%.1f,\"slice_us\":%.1f,\"added_us\":%.1f}\n", native, slice, slice - native);
}

int main(int count, char **argument) {
    const char *mode = count > 1 ? argument[1] : "";
    int times = count > 2 ? atoi(argument[2]) : 0;
    if (!strcmp(mode, "nothing"))
        return 0;
    if (!strcmp(mode, "calls"))
        calls();
    else if (!strcmp(mode, "spawn") && times > 0)
        spawn(times);
    else {
        fprintf(stderr, "inside: calls, or spawn N?\n");
        return 2;
    }
    fflush(stdout);
    _exit(0);
}
