//! Modules, libraries, kernels and their globals.
//!
//! Three kinds of image are understood: our own text, which says what kernels do (it begins with `//fakegpu`); PTX, of
//! which the entries, globals and local sizes are read; and anything binary, in which every name is a kernel.
//!
//! ```text
//! //fakegpu
//! kernel spin duration=200us local=0
//! kernel work each=2ns count=u32
//! kernel bad fault=illegal_address
//! kernel stuck fault=hang
//! global table size=64MiB
//! ```
//!
//! With `each`, a launch takes so long for each unit of the kernel's first parameter, an `u64` unless `count` says
//! otherwise. A line of PTX that begins with `//fakegpu kernel` says the same of an entry of that PTX, which is a comment
//! to everybody else.

use std::collections::BTreeMap;

use cleave_cuda::types::error;
use core::ffi::{c_char, c_int, c_uint, c_void};

use super::engine::Fault;
use super::memory::own_pages;
use super::{Driver, Outcome, get, get_text, put, put_optional};
use crate::clock::Nanos;
use crate::map::Mapping;

/// Codes that `cleave_cuda` does not name.
const INVALID_IMAGE: i32 = 200;
const FILE_NOT_FOUND: i32 = 301;

/// How long a kernel runs that does not say.
const DURATION: Nanos = 10_000;
/// What a global has whose size an image does not tell.
const UNKNOWN_GLOBAL: u64 = 64 << 10;

/// The type of a kernel's first parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    U32,
    U64,
}

/// What a kernel does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    pub duration: Nanos,
    /// What each unit of the first parameter adds to it, and how wide that is.
    pub each: Option<(Nanos, Count)>,
    pub local: usize,
    pub fault: Option<Fault>,
}

impl Default for Kernel {
    fn default() -> Kernel {
        Kernel { duration: DURATION, each: None, local: 0, fault: None }
    }
}

impl Kernel {
    /// How long a launch takes; the parameters are as `cuLaunchKernel` takes them.
    pub fn launch_duration(&self, parameters: u64, extra: u64) -> Outcome<Nanos> {
        let Some((each, width)) = self.each else { return Ok(self.duration) };
        // A list of pointers to parameters, or a list of keys and values in which 1 is a buffer with all of them.
        let first = match (parameters, extra) {
            (0, 0) => return Err(error::INVALID_VALUE),
            (0, extra) => {
                let pairs = (0..3).map(|pair| get((extra as *const [u64; 2]).wrapping_add(pair)));
                let buffer = pairs.map_while(Result::ok).take_while(|[key, _]| *key != 0).find(|[key, _]| *key == 1);
                buffer.ok_or(error::INVALID_VALUE)?[1]
            }
            (parameters, _) => get(parameters as *const u64)?,
        };
        let count = match width {
            Count::U32 => u64::from(get(first as *const u32)?),
            Count::U64 => get(first as *const u64)?,
        };
        Ok(self.duration.saturating_add(count.saturating_mul(each)))
    }
}

/// What an image holds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Image {
    kernels: BTreeMap<String, Kernel>,
    globals: BTreeMap<String, u64>,
    /// Whether names that are not listed exist, too.
    open: bool,
}

/// A global: its address, size and what it takes.
struct Global {
    address: u64,
    size: u64,
    contents: Mapping,
}

/// A loaded module, or a library.
pub(crate) struct Module {
    context: u64,
    library: bool,
    /// A library whose data comes to the device when something of it is first asked for.
    waiting: bool,
    image: Image,
    functions: BTreeMap<String, u64>,
    globals: BTreeMap<String, Global>,
    charged: u64,
    chunk: Option<u64>,
    /// Names for `cuFuncGetName` that must stay where they are.
    names: Vec<Box<[u8]>>,
}

/// A function, or a kernel of a library.
pub(crate) struct Function {
    pub module: u64,
    pub kernel: Kernel,
    name_at: usize,
    attributes: [c_int; 16],
}

/// A linker's state: the last input that was added.
#[derive(Default)]
pub(crate) struct Link {
    input: Vec<u8>,
}

/// `200us`, `64MiB`: a number with a unit.
fn quantity(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..split].parse().ok()?;
    let unit = match &text[split..] {
        "" | "ns" | "B" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// What our own text says of a kernel.
fn parse_kernel(fields: &[(&str, &str)]) -> Option<Kernel> {
    let mut kernel = Kernel::default();
    let mut duration = None;
    for (key, value) in fields {
        match (*key, *value) {
            ("duration", value) => duration = Some(quantity(value)?),
            ("each", value) => {
                kernel.each = Some((quantity(value)?, kernel.each.map_or(Count::U64, |(_, count)| count)))
            }
            ("count", "u32") => kernel.each = Some((kernel.each.map_or(0, |(each, _)| each), Count::U32)),
            ("count", "u64") => kernel.each = Some((kernel.each.map_or(0, |(each, _)| each), Count::U64)),
            ("local", value) => kernel.local = quantity(value)? as usize,
            ("fault", "illegal_address") => kernel.fault = Some(Fault::IllegalAddress),
            ("fault", "hang") => kernel.fault = Some(Fault::Hang),
            _ => return None,
        }
    }
    // Where a parameter says how long, nothing else does unless it is said, too.
    kernel.duration = duration.unwrap_or(if kernel.each.is_some() { 0 } else { DURATION });
    Some(kernel)
}

/// Our own text form.
fn parse_own(text: &str) -> Option<Image> {
    let mut image = Image::default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")) {
        let mut words = line.split_whitespace();
        let (kind, name) = (words.next()?, words.next()?.to_owned());
        let fields: Vec<(&str, &str)> = words.map(|word| word.split_once('=')).collect::<Option<_>>()?;
        match kind {
            "kernel" => {
                image.kernels.insert(name, parse_kernel(&fields)?);
            }
            "global" => {
                let [("size", size)] = fields[..] else { return None };
                image.globals.insert(name, quantity(size)?);
            }
            _ => return None,
        }
    }
    Some(image)
}

/// Bytes of a PTX type such as `.b32` or `.f64`.
fn ptx_type(word: &str) -> Option<u64> {
    let digits = word.strip_prefix('.')?.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    digits.parse::<u64>().ok().map(|bits| bits / 8)
}

/// Name and bytes of a PTX variable declaration: the last type, and `NAME` or `NAME[COUNT]`.
fn ptx_variable(line: &str) -> Option<(String, u64)> {
    let declaration = line.split(['=', ';']).next()?.trim();
    let mut element = 1;
    let mut words = declaration.split_whitespace().peekable();
    while let Some(word) = words.next() {
        if word == ".align" {
            words.next();
        } else if let Some(bytes) = ptx_type(word) {
            element = bytes;
        } else if !word.starts_with('.') {
            let rest: String = std::iter::once(word).chain(words).collect();
            let (name, count) = match rest.split_once('[') {
                Some((name, count)) => (name, count.trim_end_matches(']').parse().unwrap_or(1)),
                None => (&rest[..], 1),
            };
            return Some((name.to_owned(), element * count));
        }
    }
    None
}

/// PTX: entries, globals, and the local memory of each entry. `None` where a line for us makes no sense.
fn parse_ptx(text: &str) -> Option<Image> {
    let told = text.lines().filter_map(|line| line.trim().strip_prefix("//fakegpu")).collect::<Vec<_>>().join("\n");
    let mut image = parse_own(&told)?;
    let mut current = None;
    for line in text.lines().map(|line| line.split("//").next().unwrap_or_default().trim()) {
        if let Some(at) = line.find(".entry") {
            let name: String = line[at + 6..]
                .trim_start()
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '%'))
                .collect();
            if !name.is_empty() {
                image.kernels.entry(name.clone()).or_default();
                current = Some(name);
            }
        } else if line.starts_with(".local") {
            if let (Some((_, bytes)), Some(kernel)) =
                (ptx_variable(line), current.as_ref().and_then(|name| image.kernels.get_mut(name)))
            {
                kernel.local += bytes as usize;
            }
        } else if let Some(at) = line.find(".global ").or_else(|| line.find(".const "))
            && (at == 0 || line.starts_with(".visible") || line.starts_with(".weak") || line.starts_with(".extern"))
            && line.trim_end().ends_with([';', ']', '{', ','])
            && let Some((name, bytes)) = ptx_variable(line)
        {
            image.globals.insert(name, bytes);
        }
    }
    Some(image)
}

/// Reads an image from memory, whatever kind it is.
fn parse(image: *const c_void) -> Outcome<Image> {
    let magic: u32 = get(image.cast())?;
    const ELF: u32 = 0x464c_457f;
    const FATBIN: u32 = 0xba55_ed50;
    const WRAPPER: u32 = 0x4662_43b1;
    if matches!(magic, ELF | FATBIN | WRAPPER) {
        return Ok(Image { open: true, ..Image::default() });
    }
    let text = get_text(image.cast())?;
    if text.trim_start().starts_with("//fakegpu") {
        return parse_own(&text).ok_or(INVALID_IMAGE);
    }
    if text.contains(".version") && text.contains(".target") {
        return parse_ptx(&text).ok_or(INVALID_IMAGE);
    }
    Err(INVALID_IMAGE)
}

impl Driver {
    fn module_load(&mut self, image: Image, library: bool) -> Outcome<u64> {
        let context = self.usable()?;
        let (charged, chunk) = if library { (0, None) } else { self.module_room(context, &image)? };
        let mut globals = BTreeMap::new();
        for (name, &size) in &image.globals {
            let contents = Mapping::memory(size).ok_or(error::OUT_OF_MEMORY)?;
            globals.insert(name.clone(), Global { address: contents.base(), size, contents });
        }
        let id = self.handle();
        for global in globals.values() {
            self.global_known(context, global);
        }
        self.modules.insert(
            id,
            Module {
                context,
                library,
                waiting: library,
                image,
                functions: BTreeMap::new(),
                globals,
                charged,
                chunk,
                names: Vec::new(),
            },
        );
        Ok(id)
    }

    /// Takes what the image's data needs of the device: pages, or a small allocation.
    fn module_room(&mut self, context: u64, image: &Image) -> Outcome<(u64, Option<u64>)> {
        let device = self.contexts.get(&context).ok_or(error::INVALID_HANDLE)?.device;
        let total: u64 = image.globals.values().map(|size| size.next_multiple_of(512)).sum();
        if total == 0 {
            return Ok((0, None));
        }
        match own_pages(total) {
            Some(pages) => self.charge(device, pages, true).map(|_| (pages, None)),
            None => self.small(context, total).map(|chunk| (0, Some(chunk))),
        }
    }

    /// Brings a library's data to the device, if it is not there.
    pub(crate) fn module_arrives(&mut self, id: u64) -> Outcome<()> {
        let Some(mut module) = self.modules.remove(&id) else { return Err(error::INVALID_HANDLE) };
        let room = if module.waiting { self.module_room(module.context, &module.image).map(Some) } else { Ok(None) };
        if let Ok(Some((charged, chunk))) = room {
            (module.charged, module.chunk, module.waiting) = (charged, chunk, false);
        }
        self.modules.insert(id, module);
        room.map(drop)
    }

    /// Makes a global's address one that copies accept.
    fn global_known(&mut self, context: u64, global: &Global) {
        use super::memory::{Allocation, Kind};
        let device = self.contexts.get(&context).map_or(0, |context| context.device);
        let id = self.allocation_id();
        self.allocations.insert(global.address, Allocation::block(global.size, Kind::Global, context, device, id));
    }

    fn module_unload(&mut self, id: u64) {
        let Some(module) = self.modules.remove(&id) else { return };
        self.functions.retain(|_, function| function.module != id);
        for global in module.globals.values() {
            debug_assert_eq!(global.contents.base(), global.address);
            self.allocations.remove(&global.address);
        }
        if let Some(device) = self.contexts.get(&module.context).map(|context| context.device) {
            self.release(device, module.charged, true);
        }
        if let Some(chunk) = module.chunk {
            self.small_free(module.context, chunk);
        }
    }

    /// Unloads the modules of a context that ends.
    pub(crate) fn modules_of_context_gone(&mut self, context: u64) {
        let gone: Vec<u64> = self.modules.iter().filter(|(_, m)| m.context == context).map(|(id, _)| *id).collect();
        for id in gone {
            self.module_unload(id);
        }
    }

    fn module_function(&mut self, id: u64, name: &str) -> Outcome<u64> {
        let module = self.modules.get(&id).ok_or(error::INVALID_HANDLE)?;
        if let Some(&function) = module.functions.get(name) {
            return Ok(function);
        }
        let kernel = match module.image.kernels.get(name) {
            Some(kernel) => kernel.clone(),
            None if module.image.open => Kernel::default(),
            None => return Err(error::NOT_FOUND),
        };
        let handle = self.handle();
        let mut text: Vec<u8> = name.as_bytes().to_vec();
        text.push(0);
        let text = text.into_boxed_slice();
        let name_at = text.as_ptr() as usize;
        let mut attributes = [0; 16];
        // Most threads per block, local bytes, registers, and the compute capability twice.
        attributes[0] = 1024;
        attributes[3] = kernel.local as c_int;
        attributes[4] = 32;
        attributes[5] = 90;
        attributes[6] = 90;
        attributes[8] = 48 * 1024;
        attributes[9] = -1;
        let function = Function { module: id, kernel, name_at, attributes };
        self.functions.insert(handle, function);
        if let Some(module) = self.modules.get_mut(&id) {
            module.functions.insert(name.to_owned(), handle);
            module.names.push(text);
        }
        Ok(handle)
    }

    fn module_global(&mut self, id: u64, name: &str) -> Outcome<(u64, u64)> {
        self.module_arrives(id)?;
        let module = self.modules.get(&id).ok_or(error::INVALID_HANDLE)?;
        if let Some(global) = module.globals.get(name) {
            return Ok((global.address, global.size));
        }
        if !module.image.open {
            return Err(error::NOT_FOUND);
        }
        let context = module.context;
        let contents = Mapping::memory(UNKNOWN_GLOBAL).ok_or(error::OUT_OF_MEMORY)?;
        let global = Global { address: contents.base(), size: UNKNOWN_GLOBAL, contents };
        let found = (global.address, global.size);
        self.global_known(context, &global);
        if let Some(module) = self.modules.get_mut(&id) {
            module.globals.insert(name.to_owned(), global);
        }
        Ok(found)
    }

    /// A function or kernel by handle.
    pub(crate) fn function(&self, id: u64) -> Outcome<&Function> {
        self.functions.get(&id).ok_or(error::INVALID_HANDLE)
    }

    fn load(&mut self, image: *const c_void, library: bool) -> Outcome<u64> {
        self.usable()?;
        self.module_load(parse(image)?, library)
    }

    fn load_file(&mut self, path: *const c_char, library: bool) -> Outcome<u64> {
        let mut bytes = std::fs::read(get_text(path)?).map_err(|_| FILE_NOT_FOUND)?;
        bytes.extend([0; 4]);
        self.load(bytes.as_ptr().cast(), library)
    }

    fn function_attribute(&self, id: u64, attribute: c_int) -> Outcome<c_int> {
        let function = self.function(id)?;
        function.attributes.get(attribute as usize).copied().ok_or(error::INVALID_VALUE)
    }

    fn function_attribute_set(&mut self, id: u64, attribute: c_int, value: c_int) -> Outcome {
        let function = self.functions.get_mut(&id).ok_or(error::INVALID_HANDLE)?;
        // Only these two can be set without clusters.
        match attribute {
            8..=15 => function.attributes[attribute as usize] = value,
            _ => return Err(error::INVALID_VALUE),
        }
        Ok(())
    }

    fn functions_of(&mut self, id: u64, to: *mut u64, count: usize) -> Outcome {
        let names: Vec<String> =
            self.modules.get(&id).ok_or(error::INVALID_HANDLE)?.image.kernels.keys().take(count).cloned().collect();
        for (index, name) in names.iter().enumerate() {
            let handle = self.module_function(id, name)?;
            put(to.wrapping_add(index), handle)?;
        }
        Ok(())
    }

    fn of_kind(&self, handle: *mut c_void, library: bool) -> Outcome<u64> {
        let id = handle as u64;
        match self.modules.get(&id) {
            Some(module) if module.library == library => Ok(id),
            _ => Err(error::INVALID_HANDLE),
        }
    }
}

entry! {
    fn cuModuleLoad(d, module: *mut *mut c_void, path: *const c_char) {
        let id = d.load_file(path, false)?;
        put(module, id as *mut c_void)
    }
    fn cuModuleLoadData | cuModuleLoadFatBinary(d, module: *mut *mut c_void, image: *const c_void) {
        let id = d.load(image, false)?;
        put(module, id as *mut c_void)
    }
    fn cuModuleLoadDataEx(d, module: *mut *mut c_void, image: *const c_void, _count: c_uint, _options: *mut c_int, _values: *mut *mut c_void) {
        let id = d.load(image, false)?;
        put(module, id as *mut c_void)
    }
    fn cuModuleUnload(d, module: *mut c_void) {
        let id = d.of_kind(module, false)?;
        d.module_unload(id);
        Ok(())
    }
    fn cuModuleGetLoadingMode(d, mode: *mut c_int) {
        put(mode, 2)
    }
    fn cuModuleGetFunction(d, function: *mut *mut c_void, module: *mut c_void, name: *const c_char) {
        let name = get_text(name)?;
        let id = d.module_function(module as u64, &name)?;
        put(function, id as *mut c_void)
    }
    fn cuModuleGetFunctionCount | cuLibraryGetKernelCount(d, count: *mut c_uint, module: *mut c_void) {
        put(count, d.modules.get(&(module as u64)).ok_or(error::INVALID_HANDLE)?.image.kernels.len() as c_uint)
    }
    fn cuModuleEnumerateFunctions | cuLibraryEnumerateKernels(d, functions: *mut u64, count: c_uint, module: *mut c_void) {
        d.functions_of(module as u64, functions, count as usize)
    }
    fn cuModuleGetGlobal_v2 | cuLibraryGetGlobal | cuLibraryGetManaged(d, address: *mut u64, size: *mut usize, module: *mut c_void, name: *const c_char) {
        let name = get_text(name)?;
        let (at, bytes) = d.module_global(module as u64, &name)?;
        put_optional(address, at);
        put_optional(size, bytes as usize);
        Ok(())
    }
    fn cuLibraryLoadData(d, library: *mut *mut c_void, code: *const c_void, _options: *mut c_int, _values: *mut *mut c_void, _count: c_uint, _library_options: *mut c_int, _library_values: *mut *mut c_void, _library_count: c_uint) {
        let id = d.load(code, true)?;
        put(library, id as *mut c_void)
    }
    fn cuLibraryLoadFromFile(d, library: *mut *mut c_void, path: *const c_char, _options: *mut c_int, _values: *mut *mut c_void, _count: c_uint, _library_options: *mut c_int, _library_values: *mut *mut c_void, _library_count: c_uint) {
        let id = d.load_file(path, true)?;
        put(library, id as *mut c_void)
    }
    fn cuLibraryUnload(d, library: *mut c_void) {
        let id = d.of_kind(library, true)?;
        d.module_unload(id);
        Ok(())
    }
    fn cuLibraryGetKernel(d, kernel: *mut *mut c_void, library: *mut c_void, name: *const c_char) {
        let name = get_text(name)?;
        let id = d.module_function(library as u64, &name)?;
        put(kernel, id as *mut c_void)
    }
    fn cuLibraryGetModule(d, module: *mut *mut c_void, library: *mut c_void) {
        let id = d.of_kind(library, true)?;
        d.module_arrives(id)?;
        put(module, id as *mut c_void)
    }
    fn cuKernelGetFunction(d, function: *mut *mut c_void, kernel: *mut c_void) {
        let module = d.function(kernel as u64)?.module;
        d.module_arrives(module)?;
        put(function, kernel)
    }
    fn cuKernelGetLibrary | cuFuncGetModule(d, owner: *mut *mut c_void, function: *mut c_void) {
        put(owner, d.function(function as u64)?.module as *mut c_void)
    }
    fn cuKernelGetName | cuFuncGetName(d, name: *mut *const c_char, function: *mut c_void) {
        put(name, d.function(function as u64)?.name_at as *const c_char)
    }
    fn cuFuncIsLoaded(d, state: *mut c_int, function: *mut c_void) {
        d.function(function as u64)?;
        put(state, 1)
    }
    fn cuFuncLoad(d, function: *mut c_void) {
        d.function(function as u64).map(|_| ())
    }
    // No image here tells its kernels' parameters: there is none at any index.
    fn cuFuncGetParamInfo | cuKernelGetParamInfo(d, function: *mut c_void, _index: usize, _offset: *mut usize, _size: *mut usize) {
        d.function(function as u64)?;
        Err(error::INVALID_VALUE)
    }
    fn cuFuncGetParamCount | cuKernelGetParamCount(d, function: *mut c_void, count: *mut usize) {
        d.function(function as u64)?;
        put(count, 0)
    }
    fn cuFuncGetAttribute(d, value: *mut c_int, attribute: c_int, function: *mut c_void) {
        put(value, d.function_attribute(function as u64, attribute)?)
    }
    fn cuFuncSetAttribute(d, function: *mut c_void, attribute: c_int, value: c_int) {
        d.function_attribute_set(function as u64, attribute, value)
    }
    fn cuKernelGetAttribute(d, value: *mut c_int, attribute: c_int, kernel: *mut c_void, dev: c_int) {
        d.device(dev)?;
        put(value, d.function_attribute(kernel as u64, attribute)?)
    }
    fn cuKernelSetAttribute(d, attribute: c_int, value: c_int, kernel: *mut c_void, dev: c_int) {
        d.device(dev)?;
        d.function_attribute_set(kernel as u64, attribute, value)
    }
    fn cuFuncSetCacheConfig | cuFuncSetSharedMemConfig(d, function: *mut c_void, _config: c_int) {
        d.function(function as u64).map(|_| ())
    }
    fn cuKernelSetCacheConfig(d, kernel: *mut c_void, _config: c_int, dev: c_int) {
        d.device(dev)?;
        d.function(kernel as u64).map(|_| ())
    }
    fn cuLinkCreate_v2(d, _count: c_uint, _options: *mut c_int, _values: *mut *mut c_void, state: *mut *mut c_void) {
        d.usable()?;
        let id = d.handle();
        d.links.insert(id, Link::default());
        put(state, id as *mut c_void)
    }
    fn cuLinkAddData_v2(d, state: *mut c_void, _kind: c_int, data: *const u8, size: usize) {
        let input = super::get_many(data, size)?;
        let link = d.links.get_mut(&(state as u64)).ok_or(error::INVALID_HANDLE)?;
        link.input = input;
        link.input.extend([0; 4]);
        Ok(())
    }
    // The linked image is the last input: what is simulated of it stays the same.
    fn cuLinkComplete(d, state: *mut c_void, cubin: *mut *const c_void, size: *mut usize) {
        let link = d.links.get(&(state as u64)).ok_or(error::INVALID_HANDLE)?;
        put_optional(size, link.input.len());
        put(cubin, link.input.as_ptr().cast())
    }
    fn cuLinkDestroy(d, state: *mut c_void) {
        d.links.remove(&(state as u64)).map(|_| ()).ok_or(error::INVALID_HANDLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_text_says_what_kernels_do() {
        let image = parse_own(
            "//fakegpu\nkernel spin duration=200us local=4KiB\nkernel bad fault=illegal_address\nglobal t size=64MiB\n",
        )
        .expect("valid");
        assert_eq!(image.kernels["spin"], Kernel { duration: 200_000, local: 4096, ..Kernel::default() });
        assert_eq!(image.kernels["bad"].fault, Some(Fault::IllegalAddress));
        assert_eq!(image.globals["t"], 64 << 20);
        for bad in ["kernel", "kernel k duration=x", "kernel k speed=1", "kernel k count=f32", "global g", "thing t"] {
            assert_eq!(parse_own(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_parameter_says_how_long_a_launch_takes() {
        let image = parse_own("kernel a each=2ns\nkernel b each=1us count=u32 duration=5us\nkernel c duration=7ns\n");
        let kernels = image.expect("valid").kernels;
        let (long, short) = (1_u64 << 40, 3_u32);
        let list = [(&raw const long) as u64];
        let buffer = [1, (&raw const short) as u64, 2, 0, 0];
        let take = |name: &str, list: u64, extra: u64| kernels[name].launch_duration(list, extra);
        assert_eq!(take("a", list.as_ptr() as u64, 0), Ok(2 << 40));
        assert_eq!(take("b", 0, buffer.as_ptr() as u64), Ok(8_000));
        assert_eq!(take("c", 0, 0), Ok(7));
        assert_eq!(take("a", 0, 0), Err(error::INVALID_VALUE));
    }

    #[test]
    fn the_spinning_program_is_known() {
        let image = parse_ptx(include_str!("../../data/spin.ptx")).expect("valid");
        let spin = Kernel { duration: 0, each: Some((2, Count::U64)), ..Kernel::default() };
        assert_eq!(image.kernels, BTreeMap::from([("spin".to_owned(), spin)]));
    }

    #[test]
    fn ptx_lists_entries_globals_and_local_memory() {
        let image = parse_ptx(
            ".version 7.0\n.target sm_70\n.address_size 64\n.visible .global .align 4 .b8 table[1024];\n\
             .global .f64 one;\n.visible .entry add(\n .param .u64 p0\n)\n{\n .local .align 16 .b8 __local_depot0[2048];\n ret;\n}\n\
             .visible .entry second()\n{ ret; }\n",
        )
        .expect("nothing for us in it");
        assert_eq!(image.globals, BTreeMap::from([("table".to_owned(), 1024), ("one".to_owned(), 8)]));
        assert_eq!(image.kernels["add"].local, 2048);
        assert_eq!(image.kernels["second"].local, 0);
    }
}
