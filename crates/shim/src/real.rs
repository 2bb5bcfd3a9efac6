//! The real libraries behind the stand-in: opened at the first call, each entry point looked up when first used.
use crate::generated::{COUNT, CUDA_COUNT, NAMES, OFFSETS};
use crate::{message, process};
use cleave_cuda::types::{CUresult, error, nvml_error};
use core::ffi::{c_char, c_int, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

#[link(name = "c")]
unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

// Old names of the two symbols, so that the library loads on every glibc since 2.17.
core::arch::global_asm!(".symver dlopen, dlopen@GLIBC_2.2.5", ".symver dlsym, dlsym@GLIBC_2.2.5");

/// The real entry points; null until first used.
pub static ENTRIES: [AtomicPtr<c_void>; COUNT] = [const { AtomicPtr::new(null_mut()) }; COUNT];

/// Where those exports jump to that must be in the context of this process's part of the multiprocessors; null: to
/// [`prepared`] first.
pub static PASSES: [AtomicPtr<c_void>; COUNT] = [const { AtomicPtr::new(null_mut()) }; COUNT];
/// Not 0: this process has a part of the multiprocessors, so that they always go to [`prepared`] first.
static PARTED: AtomicU32 = AtomicU32::new(0);

/// From now on every call enters the context of this process's part of the multiprocessors.
pub fn part() {
    PARTED.store(1, Ordering::SeqCst);
    PASSES.iter().for_each(|place| place.store(null_mut(), Ordering::SeqCst));
}

static LIBRARIES: [AtomicPtr<c_void>; 2] = [const { AtomicPtr::new(null_mut()) }; 2];

/// The real library: 0 = the CUDA driver, 1 = NVML. `None` if it can't be opened.
fn library(which: usize) -> Option<*mut c_void> {
    let place = LIBRARIES.get(which)?;
    let known = place.load(Ordering::Acquire);
    if !known.is_null() {
        return Some(known);
    }
    let mut path = [0u8; 300];
    let name: &[u8] = if which == 0 { b"/libcuda.so.1" } else { b"/libnvidia-ml.so.1" };
    process::driver_dir(&mut path, name)?;
    const RTLD_NOW: c_int = 2;
    // SAFETY: `path` ends with a zero. Opening runs the library's constructors, as it would without us.
    let opened = unsafe { dlopen(path.as_ptr().cast(), RTLD_NOW) };
    if opened.is_null() {
        message::library_missing(&path);
        return None;
    }
    // Two threads may both open it: it is the same library, and the same handle.
    place.store(opened, Ordering::Release);
    Some(opened)
}

/// The real entry point number `index`, or one that returns the library's "no such function".
#[cold]
pub extern "C" fn resolve(index: usize) -> *mut c_void {
    let which = usize::from(index >= CUDA_COUNT);
    let missing = if which == 0 { no_cuda as *mut c_void } else { no_nvml as *mut c_void };
    let (Some(entry), Some(&offset)) = (ENTRIES.get(index), OFFSETS.get(index)) else { return missing };
    let Some(library) = library(which) else { return missing };
    let Some(name) = NAMES.get(offset as usize..) else { return missing };
    // SAFETY: the name ends with a zero within NAMES; the library stays open for good.
    let found = unsafe { dlsym(library, name.as_ptr().cast()) };
    let found = if found.is_null() { missing } else { found };
    entry.store(found, Ordering::Release);
    found
}

/// The real entry point number `index` if the real library has it.
pub fn find(index: usize) -> Option<*mut c_void> {
    let known = ENTRIES.get(index)?.load(Ordering::Acquire);
    let found = if known.is_null() { resolve(index) } else { known };
    (found != no_cuda as *mut c_void && found != no_nvml as *mut c_void).then_some(found)
}

extern "C" fn no_cuda() -> CUresult {
    error::NOT_FOUND
}

extern "C" fn no_nvml() -> c_int {
    nvml_error::FUNCTION_NOT_FOUND
}

/// [`resolve`], in the context of this process's part of the multiprocessors, if it has one.
extern "C" fn prepare(index: usize) -> *mut c_void {
    // Looking for the process enters.
    let _ = process::member();
    let known = ENTRIES.get(index).map_or(null_mut(), |entry| entry.load(Ordering::Acquire));
    let found = if known.is_null() { resolve(index) } else { known };
    if let Some(place) = PASSES.get(index).filter(|_| PARTED.load(Ordering::SeqCst) == 0) {
        place.store(found, Ordering::SeqCst);
        // It may have got its part meanwhile.
        if PARTED.load(Ordering::SeqCst) != 0 {
            place.store(null_mut(), Ordering::SeqCst);
        }
    }
    found
}

/// Where an export goes that has nowhere to jump to yet: keeps every register that may hold an argument, [`prepare`]s, and
/// jumps.
#[unsafe(naked)]
pub unsafe extern "C" fn prepared() {
    core::arch::naked_asm!(
        "push rdi",
        "push rsi",
        "push rdx",
        "push rcx",
        "push r8",
        "push r9",
        // 6 pushes and the return address leave the stack 8 short of a multiple of 16.
        "sub rsp, 136",
        "movups [rsp], xmm0",
        "movups [rsp+16], xmm1",
        "movups [rsp+32], xmm2",
        "movups [rsp+48], xmm3",
        "movups [rsp+64], xmm4",
        "movups [rsp+80], xmm5",
        "movups [rsp+96], xmm6",
        "movups [rsp+112], xmm7",
        "mov edi, r11d",
        "call {prepare}",
        "mov r11, rax",
        "movups xmm0, [rsp]",
        "movups xmm1, [rsp+16]",
        "movups xmm2, [rsp+32]",
        "movups xmm3, [rsp+48]",
        "movups xmm4, [rsp+64]",
        "movups xmm5, [rsp+80]",
        "movups xmm6, [rsp+96]",
        "movups xmm7, [rsp+112]",
        "add rsp, 136",
        "pop r9",
        "pop r8",
        "pop rcx",
        "pop rdx",
        "pop rsi",
        "pop rdi",
        "jmp r11",
        prepare = sym prepare,
    )
}

/// An export that jumps to where `$entries` has for it, arguments untouched, and if that is nowhere to [`prepared`] first:
/// needs no knowledge of the entry point's prototype.
macro_rules! jump {
    ($name:ident, $index:literal by $entries:path) => {
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                "mov r11, [rip + {entries} + {offset}]",
                "test r11, r11",
                "je 2f",
                "jmp r11",
                "2:",
                "mov r11d, {index}",
                "jmp {prepared}",
                entries = sym $entries,
                offset = const $index * 8,
                index = const $index,
                prepared = sym $crate::real::prepared,
            )
        }
    };
}
pub(crate) use jump;

/// An export that jumps to the real entry point.
macro_rules! pass {
    ($name:ident, $index:literal) => {
        $crate::real::jump!($name, $index by $crate::real::ENTRIES);
    };
}
pub(crate) use pass;

/// The same, in the context of this process's part of the multiprocessors, if it has one.
macro_rules! enter {
    ($name:ident, $index:literal) => {
        $crate::real::jump!($name, $index by $crate::real::PASSES);
    };
}
pub(crate) use enter;

/// An export that always returns the library's "not permitted".
macro_rules! refuse {
    ($name:ident, $code:literal) => {
        #[unsafe(no_mangle)]
        extern "C" fn $name() -> core::ffi::c_int {
            $code
        }
    };
}
pub(crate) use refuse;

/// Calls the real entry point of a hooked name: `real!(cuMemFree_v2(pointer: u64))` returns its result.
macro_rules! real {
    ($name:ident($($argument:ident: $type:ty),* $(,)?)) => {{
        let index = $crate::generated::index::$name;
        let mut entry = $crate::real::ENTRIES[index].load(core::sync::atomic::Ordering::Acquire);
        if entry.is_null() {
            entry = $crate::real::resolve(index);
        }
        // SAFETY: the entry point of this name has this prototype (cuda.h, nvml.h), and the arguments are the caller's.
        let function: unsafe extern "C" fn($($type),*) -> core::ffi::c_int = unsafe { core::mem::transmute(entry) };
        // SAFETY: as the caller of the export promised the real library.
        unsafe { function($($argument),*) }
    }};
}
pub(crate) use real;

/// Calls a real CUDA entry point that is not hooked, by name.
macro_rules! driver {
    ($name:ident($($argument:expr => $type:ty),* $(,)?)) => {{
        static ENTRY: core::sync::atomic::AtomicPtr<core::ffi::c_void> = core::sync::atomic::AtomicPtr::new(core::ptr::null_mut());
        let mut entry = ENTRY.load(core::sync::atomic::Ordering::Acquire);
        if entry.is_null() {
            entry = $crate::real::by_name(concat!(stringify!($name), "\0").as_bytes());
            ENTRY.store(entry, core::sync::atomic::Ordering::Release);
        }
        // SAFETY: the entry point of this name has this prototype (cuda.h, nvml.h).
        let function: unsafe extern "C" fn($($type),*) -> core::ffi::c_int = unsafe { core::mem::transmute(entry) };
        // SAFETY: the arguments are local variables, or the caller's of the export.
        unsafe { function($($argument),*) }
    }};
}
pub(crate) use driver;

/// The real entry point `name` (ended by a zero): NVML's if it starts so, else the driver's.
#[cold]
pub fn by_name(name: &[u8]) -> *mut c_void {
    let (which, missing) =
        if name.starts_with(b"nvml") { (1, no_nvml as *mut c_void) } else { (0, no_cuda as *mut c_void) };
    let Some(library) = library(which) else { return missing };
    // SAFETY: `name` ends with a zero; the library stays open for good.
    let found = unsafe { dlsym(library, name.as_ptr().cast()) };
    if found.is_null() { missing } else { found }
}
