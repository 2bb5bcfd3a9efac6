/* Programs that launch kernels, some of which don't end, for the tests of the watchdog and of suspended slices.
 *
 *   runaway hang               launches a kernel that never ends, says so, and waits for it
 *   runaway sleep              does so, and says so, but does not wait for it before its input ends
 *   runaway work               launches short kernels and waits for each; says how many at each line of its input
 *   runaway keep MIB           fills MIB of memory with a pattern; at each line of its input launches a kernel and says
 *                              whether the pattern is still there
 *   runaway greedy             asks for more memory than there is, again and again
 */
#include "driver.h"
#include <poll.h>

#define MIB ((size_t)1 << 20)

/* The lines that begin with //fakegpu tell a simulated GPU what the kernels do; to a real one they are comments. */
static const char PTX[] =
    ".version 6.0\n.target sm_50\n.address_size 64\n"
    "//fakegpu kernel forever fault=hang\n"
    ".visible .entry forever() { LOOP: bra LOOP; }\n"
    "//fakegpu kernel brief duration=20us\n"
    ".visible .entry brief() { ret; }\n";

static struct driver cu;
static CUstream stream;
static CUfunction forever, brief;

static void launch(CUfunction function) { NEED(LaunchKernel, function, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL); }

static void say(const char *what, long number) {
    printf("{\"%s\": %ld, \"pid\": %d}\n", what, number, (int)getpid());
    fflush(stdout);
}

/* Whether there is a line; 0 also at the end of the input, which is told by *ended. */
static int line(int wait_ms, int *ended) {
    char text[64];
    struct pollfd input = {.fd = 0, .events = POLLIN};
    if (poll(&input, 1, wait_ms) <= 0)
        return 0;
    *ended = read(0, text, sizeof text) <= 0;
    return !*ended;
}

static void work(void) {
    long count = 0;
    for (int ended = 0; !ended;) {
        launch(brief);
        NEED(StreamSynchronize, stream);
        count++;
        if (line(1, &ended))
            say("count", count);
    }
}

static void keep(size_t bytes) {
    CUdeviceptr memory;
    unsigned char *host = malloc(bytes);
    NEED(MemAlloc, &memory, bytes);
    for (size_t at = 0; at < bytes; at++)
        host[at] = (unsigned char)(at * 31 >> 3);
    CUresult (*up)(CUdeviceptr, const void *, size_t), (*down)(void *, CUdeviceptr, size_t);
    *(void **)&up = dlsym(cu.library, "cuMemcpyHtoD_v2");
    *(void **)&down = dlsym(cu.library, "cuMemcpyDtoH_v2");
    if (up(memory, host, bytes))
        die("cuMemcpyHtoD", 1);
    say("kept", (long)(bytes / MIB));
    for (int ended = 0; !ended;) {
        if (!line(-1, &ended))
            continue;
        launch(brief);
        NEED(StreamSynchronize, stream);
        memset(host, 0, bytes);
        if (down(host, memory, bytes))
            die("cuMemcpyDtoH", 1);
        size_t right = 0;
        for (size_t at = 0; at < bytes; at++)
            right += host[at] == (unsigned char)(at * 31 >> 3);
        say("right", right == bytes);
    }
}

int main(int count, char **arguments) {
    CUcontext context;
    CUmodule module;
    CUdevice device;
    CUdeviceptr memory;
    const char *what = count > 1 ? arguments[1] : "";
    driver_need(&cu, "libcuda.so.1", BY_GETPROC);
    NEED(Init, 0);
    NEED(DeviceGet, &device, 0);
    NEED(PrimaryCtxRetain, &context, device);
    NEED(CtxSetCurrent, context);
    NEED(StreamCreate, &stream, 1);
    NEED(ModuleLoadData, &module, PTX);
    NEED(ModuleGetFunction, &forever, module, "forever");
    NEED(ModuleGetFunction, &brief, module, "brief");
    launch(brief);
    NEED(StreamSynchronize, stream);
    if (strcmp(what, "work") == 0) {
        say("count", 1);
        work();
    } else if (strcmp(what, "keep") == 0 && count > 2) {
        keep((size_t)atol(arguments[2]) * MIB);
    } else if (strcmp(what, "greedy") == 0) {
        say("greedy", 1);
        while (cu.MemAlloc(&memory, (size_t)1 << 50) == CUDA_OUT_OF_MEMORY)
            ;
    } else if (strcmp(what, "hang") == 0 || strcmp(what, "sleep") == 0) {
        launch(forever);
        say("hangs", 1);
        for (int ended = what[0] == 'h'; !ended;)
            line(-1, &ended);
        NEED(StreamSynchronize, stream);
    } else {
        fprintf(stderr, "runaway hang | sleep | work | keep MIB | greedy\n");
        return 2;
    }
    return 0;
}
