//! How a GPU's time is shared out among real processes: command line, daemon, stand-in and gate, on a simulated GPU whose
//! contexts take turns. What a process got is read off the device's own clock, and waited for: nothing here has to be fast.
#[path = "support/place.rs"]
mod place;
mod support;

use place::{Held, PATIENCE, Place, kill, number, within};

/// Keeps as many devices as it is told busy until its input ends, a thread each: kernels of 1 ms, four at a time.
const BUSY: &str = r#"
#include <dlfcn.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
typedef int (*call)();
static call get(void *library, const char *name) {
    call found = (call)dlsym(library, name);
    if (!found) exit(2);
    return found;
}
#define MUST(what) do { int code = (what); if (code) { printf("{\"error\": %d}\n", code); return 1; } } while (0)
static void *cuda;
static pthread_barrier_t all;
static int work(long device) {
    void *context, *module, *kernel;
    MUST(get(cuda, "cuDevicePrimaryCtxRetain")(&context, (int)device));
    MUST(get(cuda, "cuCtxSetCurrent")(context));
    MUST(get(cuda, "cuModuleLoadData")(&module, "//fakegpu\nkernel work duration=1ms\n"));
    MUST(get(cuda, "cuModuleGetFunction")(&kernel, module, "work"));
    int (*launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **) =
        (void *)get(cuda, "cuLaunchKernel");
    call wait = get(cuda, "cuCtxSynchronize");
    pthread_barrier_wait(&all);
    if (!device) {
        printf("{\"ready\": true}\n");
        fflush(stdout);
    }
    struct pollfd input = {0, POLLIN, 0};
    while (poll(&input, 1, 0) == 0) {
        for (int i = 0; i < 4; i++) MUST(launch(kernel, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
        MUST(wait());
    }
    return 0;
}
static void *thread(void *device) { return (void *)(long)work((long)device); }
int main(int arguments, char **argument) {
    long devices = arguments > 1 ? atol(argument[1]) : 1;
    pthread_t other;
    cuda = dlopen("libcuda.so.1", RTLD_NOW);
    if (!cuda) return 2;
    MUST(get(cuda, "cuInit")(0));
    pthread_barrier_init(&all, NULL, devices);
    for (long device = 1; device < devices; device++) pthread_create(&other, NULL, thread, (void *)device);
    return work(0);
}
"#;

const MS: u64 = 1_000_000;

/// A slice with a program that never has enough.
struct Busy<'a> {
    place: &'a Place,
    pid: u32,
    program: Held,
}

impl<'a> Busy<'a> {
    fn start(place: &'a Place, name: &str, options: &[&str]) -> Busy<'a> {
        Self::on(place, name, options, "1")
    }

    /// On so many devices.
    fn on(place: &'a Place, name: &str, options: &[&str], devices: &str) -> Busy<'a> {
        place.ok(&[&["slice", "create", "--memory", "8GiB", "--name", name], options].concat());
        let path = place.compile_text("busy", BUSY).display().to_string();
        let mut program = place.start(name, &[&path, devices]);
        assert_eq!(program.line()["ready"], true);
        let pid = number(&place.show(name)["processes"][0]["pid"]) as u32;
        Busy { place, pid, program }
    }

    /// Nanoseconds of the first device's time that it got since its start.
    fn got(&self) -> u64 {
        self.got_of(0)
    }

    fn got_of(&self, device: usize) -> u64 {
        let all = fakegpu::delivered(&self.place.run_dir().join("driver"), device).expect("simulated");
        all.into_iter().find(|(pid, _)| *pid == self.pid).map_or(0, |(_, time)| time)
    }
}

/// What each got from the first call on, for as long as it takes to come to something.
fn until(what: &str, all: &[&Busy<'_>], met: impl Fn(&[u64]) -> bool) {
    let before: Vec<u64> = all.iter().map(|busy| busy.got()).collect();
    within(PATIENCE, what, || {
        let got: Vec<u64> = all.iter().zip(&before).map(|(busy, before)| busy.got() - before).collect();
        got.iter().sum::<u64>() > 500 * MS && met(&got)
    });
}

#[test]
fn shares_are_kept_and_what_ends_leaves_its_share_to_others() {
    let place = Place::new("1xH100@real");
    let large = Busy::start(&place, "large", &["--compute", "60%"]);
    let small = Busy::start(&place, "small", &["--compute", "20%"]);
    // Without shares contexts take turns, and get the same.
    until("three times as much", &[&large, &small], |got| got[0] > got[1] * 5 / 2 && got[0] < got[1] * 7 / 2);
    place.ok(&["slice", "resize", "large", "--compute", "20%"]);
    place.ok(&["slice", "resize", "small", "--compute", "60%"]);
    until("the other way round", &[&large, &small], |got| got[1] > got[0] * 2);
    let Busy { program, .. } = small;
    program.end();
    // Who never gets more than its share tells how much time has passed.
    let clock = Busy::start(&place, "clock", &["--compute", "20%", "--mode", "strict"]);
    until("what is idle is lent", &[&large, &clock], |got| got[0] > got[1] * 3);
}

/// A program on two GPUs waits for its turn on the one that it shares, and has the other to itself.
#[test]
fn a_program_on_several_gpus_is_held_back_on_each_by_itself() {
    let place = Place::new("2xH100@real");
    let wide = Busy::on(&place, "wide", &["--gpu", "0,1", "--compute", "25%"], "2");
    let near = Busy::start(&place, "near", &["--gpu", "0", "--compute", "75%"]);
    let before = [wide.got_of(0), wide.got_of(1), near.got()];
    within(PATIENCE, "a quarter of one, and all of the other", || {
        let got: Vec<u64> =
            [wide.got_of(0), wide.got_of(1), near.got()].iter().zip(before).map(|(now, before)| now - before).collect();
        let sum = got[0] + got[2];
        sum > 500 * MS && got[0] * 10 > sum * 2 && got[0] * 10 < sum * 3 && got[1] * 10 > sum * 7
    });
}

/// Threads that make streams, use and destroy them, while the gate asks streams of all of them how far they are.
#[test]
fn streams_go_while_other_threads_work() {
    let place = Place::new("1xH100@real");
    let slices = ["one", "two"];
    let mut programs = slices.map(|slice| {
        place.ok(&["slice", "create", "--name", slice, "--memory", "8GiB", "--compute", "40%"]);
        place.client(slice).0
    });
    for program in &mut programs {
        program.tell("threads 8 0.5");
    }
    for program in &mut programs {
        let threads = program.line();
        assert_eq!(threads["wrong"], serde_json::json!([]), "{threads}");
        assert!(threads["rounds"].as_array().unwrap().iter().all(|rounds| number(rounds) > 0), "{threads}");
    }
}

fn serves(place: &Place) -> bool {
    std::os::unix::net::UnixStream::connect(place.run_dir().join("api.sock")).is_ok()
}

#[test]
fn shares_and_classes_are_kept_without_a_daemon() {
    let place = Place::new("1xH100@real");
    let large = Busy::start(&place, "large", &["--compute", "60%"]);
    let small = Busy::start(&place, "small", &["--compute", "20%"]);
    let both = [&large, &small];
    until("they take turns", &both, |got| got[0] > got[1] * 2);
    let urgent = Busy::start(&place, "urgent", &["--compute", "20%", "--priority", "production"]);
    until("it goes first", &[&urgent, &large, &small], |got| got[0] > (got[1] + got[2]) * 2);
    kill(place.daemon());
    for _ in 0..2 {
        until("it goes first", &[&urgent, &large, &small], |got| got[0] > (got[1] + got[2]) * 2);
    }
    let Busy { program, .. } = urgent;
    program.end();
    for _ in 0..2 {
        until("three times as much", &both, |got| got[0] > got[1] * 5 / 2 && got[0] < got[1] * 7 / 2);
    }
    assert!(!serves(&place));
}

#[test]
fn a_strict_slice_has_no_more_than_its_share_without_a_daemon() {
    let place = Place::new("1xH100@real");
    let strict = Busy::start(&place, "strict", &["--compute", "25%", "--mode", "strict"]);
    until("it works", &[&strict], |_| true);
    kill(place.daemon());
    let (before, began) = (strict.got(), std::time::Instant::now());
    until("it goes on", &[&strict], |_| true);
    let (got, passed) = (strict.got() - before, began.elapsed().as_nanos() as u64);
    assert!(got * 100 < passed * 35, "{got} ns in {passed}");
    assert!(!serves(&place));
}

/// A20: what is urgent comes, has the GPU, and leaves it again.
#[test]
fn what_goes_first_goes_first() {
    let place = Place::new("1xH100@real");
    let batch = Busy::start(&place, "batch", &["--compute", "50%", "--priority", "experiment"]);
    until("it works", &[&batch], |_| true);
    let urgent = Busy::start(&place, "urgent", &["--compute", "50%", "--priority", "production"]);
    until("more than its half", &[&urgent, &batch], |got| got[0] > got[1] * 2);
    let Busy { program, .. } = urgent;
    program.end();
    until("it goes on", &[&batch], |_| true);
}

/// A16: an adaptive slice's neighbours are held tighter while it is at work beside them, and an event says so, once.
#[test]
fn an_adaptive_slice_tells_when_it_tightens_and_loosens() {
    let place = Place::new("1xH100@real");
    let adaptive = Busy::start(&place, "urgent", &["--compute", "50%", "--mode", "adaptive"]);
    let batch = Busy::start(&place, "batch", &["--compute", "50%"]);
    let kinds = || {
        let events = place.json(&["events", "--slice", "urgent"])["items"].as_array().unwrap().clone();
        let all = events.iter().map(|event| event["kind"].as_str().unwrap().to_owned());
        all.filter(|kind| kind.starts_with("adaptive-")).collect::<Vec<_>>()
    };
    within(PATIENCE, "it is told", || kinds() == ["adaptive-tightened"]);
    let Busy { program, .. } = adaptive;
    program.end();
    within(PATIENCE, "and its end", || kinds() == ["adaptive-tightened", "adaptive-loosened"]);
    drop(batch);
}
