/* What NVML says inside a container: one JSON line with the memory's size and the ids of the processes on the card.
 * It ends when its input does. */
#include <dlfcn.h>
#include <stdio.h>

struct process {
    unsigned pid;
    unsigned long long bytes;
    unsigned gpu_instance, compute_instance;
};
struct memory {
    unsigned long long total, free, used;
};

#define FIND(result, name, ...)                                        \
    result (*name)(__VA_ARGS__) = (result(*)(__VA_ARGS__))dlsym(nvml, #name); \
    if (!name)                                                         \
        return fprintf(stderr, "no " #name "\n"), 1
#define CALL(...)                                                      \
    do {                                                               \
        int code = __VA_ARGS__;                                        \
        if (code)                                                      \
            return fprintf(stderr, #__VA_ARGS__ ": %d\n", code), 1;    \
    } while (0)

int main(void) {
    void *nvml = dlopen("libnvidia-ml.so.1", RTLD_NOW), *device = NULL;
    if (!nvml)
        return fprintf(stderr, "%s\n", dlerror()), 1;
    FIND(int, nvmlInit_v2, void);
    FIND(int, nvmlDeviceGetHandleByIndex_v2, unsigned, void **);
    FIND(int, nvmlDeviceGetMemoryInfo, void *, struct memory *);
    FIND(int, nvmlDeviceGetComputeRunningProcesses_v3, void *, unsigned *, struct process *);
    struct memory memory;
    struct process list[64];
    unsigned count = 64;
    CALL(nvmlInit_v2());
    CALL(nvmlDeviceGetHandleByIndex_v2(0, &device));
    CALL(nvmlDeviceGetMemoryInfo(device, &memory));
    CALL(nvmlDeviceGetComputeRunningProcesses_v3(device, &count, list));
    printf("{\"total_mib\":%llu,\"pids\":[", memory.total >> 20);
    for (unsigned i = 0; i < count; i++)
        printf(i ? ",%u" : "%u", list[i].pid);
    puts("]}");
    fflush(stdout);
    while (getchar() != EOF) {
    }
    return 0;
}
