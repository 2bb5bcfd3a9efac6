//! Arrays, mipmapped arrays, and the texture and surface objects over them.

use cleave_cuda::types::{CUDA_ARRAY_DESCRIPTOR, CUDA_ARRAY3D_DESCRIPTOR, error};
use core::ffi::{c_int, c_uint, c_void};

use super::memory::own_pages;
use super::{Driver, Outcome, get, put};
use crate::alloc::array_bytes;
use crate::map::Mapping;

/// What an array takes of the device.
enum Backing {
    /// Pages of its own.
    Pages(u64),
    /// A place in a chunk.
    Chunk(u64),
    /// That of its mipmapped array.
    Level,
    /// Nothing: sparse or deferred.
    Nothing,
}

/// An array. Its contents are kept row by row, whatever the real layout.
pub(crate) struct Array {
    context: u64,
    descriptor: CUDA_ARRAY3D_DESCRIPTOR,
    row: usize,
    height: usize,
    depth: usize,
    contents: Option<Mapping>,
    backing: Backing,
}

/// A chain of arrays.
pub(crate) struct Mipmap {
    context: u64,
    levels: Vec<u64>,
    backing: Backing,
}

/// A texture or surface object: the resource that it was made of.
pub(crate) struct Object {
    resource: [u64; 18],
    texture: [u64; 13],
}

/// Where an array's contents are.
pub(crate) struct ArrayMemory {
    pub base: u64,
    pub row: usize,
    pub height: usize,
    pub depth: usize,
}

/// Side of a block-compressed format's block in texels, and its bytes (measured on driver 580); of other formats a texel.
fn block(format: c_int, channels: usize) -> Option<(usize, usize)> {
    let channel = match format {
        0x91 | 0x92 | 0x97 | 0x98 => return Some((4, 8)),
        0x93..=0x9e => return Some((4, 16)),
        0x01 | 0x08 | 0xc0..=0xc2 | 0xc6..=0xc8 => 1,
        0x02 | 0x09 | 0x10 | 0xc3..=0xc5 | 0xc9..=0xcb => 2,
        0x03 | 0x0a | 0x20 => 4,
        // Multi-planar formats: near enough for their size.
        0x50 | 0x9f | 0xa1..=0xa9 | 0xb0..=0xb5 => 1,
        _ => return None,
    };
    Some((1, channel * channels))
}

const SPARSE: c_uint = 0x40;
const DEFERRED: c_uint = 0x80;

impl Driver {
    fn array_new(&self, context: u64, descriptor: CUDA_ARRAY3D_DESCRIPTOR) -> Outcome<(Array, u64)> {
        let (side, bytes) = block(descriptor.format, descriptor.num_channels as usize).ok_or(error::INVALID_VALUE)?;
        if descriptor.width == 0 || !matches!(descriptor.num_channels, 1..=4) {
            return Err(error::INVALID_VALUE);
        }
        let row = descriptor.width.div_ceil(side) * bytes;
        let (height, depth) = (descriptor.height.max(1).div_ceil(side), descriptor.depth.max(1));
        let bytes = array_bytes(row as u64, height as u64, depth as u64);
        let contents = Mapping::memory((row * height * depth) as u64).ok_or(error::OUT_OF_MEMORY)?;
        let array =
            Array { context, descriptor, row, height, depth, contents: Some(contents), backing: Backing::Level };
        Ok((array, bytes))
    }

    fn back(&mut self, context: u64, bytes: u64, flags: c_uint) -> Outcome<Backing> {
        if flags & (SPARSE | DEFERRED) != 0 {
            return Ok(Backing::Nothing);
        }
        match own_pages(bytes) {
            Some(pages) => {
                let device = self.contexts[&context].device;
                self.charge(device, pages, true)?;
                Ok(Backing::Pages(pages))
            }
            None => Ok(Backing::Chunk(self.small(context, bytes)?)),
        }
    }

    fn unback(&mut self, context: u64, backing: &Backing) {
        match *backing {
            Backing::Pages(pages) => {
                if let Some(context) = self.contexts.get(&context) {
                    let device = context.device;
                    self.release(device, pages, true);
                }
            }
            Backing::Chunk(base) => self.small_free(context, base),
            Backing::Level | Backing::Nothing => {}
        }
    }

    fn array_create(&mut self, descriptor: CUDA_ARRAY3D_DESCRIPTOR) -> Outcome<u64> {
        let context = self.usable()?;
        let (mut array, bytes) = self.array_new(context, descriptor)?;
        array.backing = self.back(context, bytes, descriptor.flags)?;
        let id = self.handle();
        self.arrays.insert(id, array);
        Ok(id)
    }

    /// Where an array's contents are.
    pub(crate) fn array_memory(&self, id: u64) -> Outcome<ArrayMemory> {
        let array = self.arrays.get(&id).ok_or(error::INVALID_HANDLE)?;
        let base = array.contents.as_ref().map(Mapping::base).ok_or(error::INVALID_VALUE)?;
        Ok(ArrayMemory { base, row: array.row, height: array.height, depth: array.depth })
    }

    /// Frees the arrays of a context that ends.
    pub(crate) fn arrays_of_context_gone(&mut self, context: u64) {
        let mipmaps: Vec<u64> = self.mipmaps.iter().filter(|(_, m)| m.context == context).map(|(id, _)| *id).collect();
        for id in mipmaps {
            self.mipmap_destroy(id);
        }
        let arrays: Vec<u64> = self.arrays.iter().filter(|(_, a)| a.context == context).map(|(id, _)| *id).collect();
        for id in arrays {
            if let Some(array) = self.arrays.remove(&id) {
                self.unback(context, &array.backing);
            }
        }
    }

    fn mipmap_destroy(&mut self, id: u64) {
        if let Some(mipmap) = self.mipmaps.remove(&id) {
            for level in mipmap.levels {
                self.arrays.remove(&level);
            }
            self.unback(mipmap.context, &mipmap.backing);
        }
    }
}

entry! {
    fn cuArrayCreate_v2(d, array: *mut *mut c_void, descriptor: *const CUDA_ARRAY_DESCRIPTOR) {
        let CUDA_ARRAY_DESCRIPTOR { width, height, format, num_channels } = get(descriptor)?;
        let id = d.array_create(CUDA_ARRAY3D_DESCRIPTOR { width, height, depth: 0, format, num_channels, flags: 0 })?;
        put(array, id as *mut c_void)
    }
    fn cuArray3DCreate_v2(d, array: *mut *mut c_void, descriptor: *const CUDA_ARRAY3D_DESCRIPTOR) {
        let id = d.array_create(get(descriptor)?)?;
        put(array, id as *mut c_void)
    }
    fn cuArrayDestroy(d, array: *mut c_void) {
        let id = array as u64;
        let found = d.arrays.get(&id).ok_or(error::INVALID_HANDLE)?;
        if matches!(found.backing, Backing::Level) {
            return Err(error::INVALID_HANDLE);
        }
        if let Some(array) = d.arrays.remove(&id) {
            d.unback(array.context, &array.backing);
        }
        Ok(())
    }
    fn cuArrayGetDescriptor_v2(d, descriptor: *mut CUDA_ARRAY_DESCRIPTOR, array: *mut c_void) {
        let found = d.arrays.get(&(array as u64)).ok_or(error::INVALID_HANDLE)?.descriptor;
        let CUDA_ARRAY3D_DESCRIPTOR { width, height, format, num_channels, .. } = found;
        put(descriptor, CUDA_ARRAY_DESCRIPTOR { width, height, format, num_channels })
    }
    fn cuArray3DGetDescriptor_v2(d, descriptor: *mut CUDA_ARRAY3D_DESCRIPTOR, array: *mut c_void) {
        put(descriptor, d.arrays.get(&(array as u64)).ok_or(error::INVALID_HANDLE)?.descriptor)
    }
    fn cuArrayGetMemoryRequirements(d, requirements: *mut [u64; 4], array: *mut c_void, _device: c_int) {
        let found = d.arrays.get(&(array as u64)).ok_or(error::INVALID_HANDLE)?;
        if found.descriptor.flags & DEFERRED == 0 {
            return Err(error::INVALID_VALUE);
        }
        let bytes = array_bytes(found.row as u64, found.height as u64, found.depth as u64);
        put(requirements, [bytes.next_multiple_of(0x10000), 0x10000, 0, 0])
    }
    fn cuMipmappedArrayCreate(d, mipmap: *mut *mut c_void, descriptor: *const CUDA_ARRAY3D_DESCRIPTOR, levels: c_uint) {
        let context = d.usable()?;
        let descriptor = get(descriptor)?;
        let longest = descriptor.width.max(descriptor.height).max(descriptor.depth).max(1);
        let levels = levels.min(longest.ilog2() + 1).max(1);
        let layered = descriptor.flags & 1 != 0;
        let mut total = 0;
        let mut arrays = Vec::new();
        for level in 0..levels {
            let shrink = |length: usize| if length == 0 { 0 } else { (length >> level).max(1) };
            let mut level = descriptor;
            level.width = shrink(descriptor.width);
            level.height = shrink(descriptor.height);
            level.depth = if layered { descriptor.depth } else { shrink(descriptor.depth) };
            let (array, bytes) = d.array_new(context, level)?;
            total += bytes;
            arrays.push(array);
        }
        let backing = d.back(context, total, descriptor.flags)?;
        let mut handles = Vec::new();
        for array in arrays {
            let id = d.handle();
            d.arrays.insert(id, array);
            handles.push(id);
        }
        let id = d.handle();
        d.mipmaps.insert(id, Mipmap { context, levels: handles, backing });
        put(mipmap, id as *mut c_void)
    }
    fn cuMipmappedArrayGetLevel(d, array: *mut *mut c_void, mipmap: *mut c_void, level: c_uint) {
        let found = d.mipmaps.get(&(mipmap as u64)).ok_or(error::INVALID_HANDLE)?;
        put(array, *found.levels.get(level as usize).ok_or(error::INVALID_VALUE)? as *mut c_void)
    }
    fn cuMipmappedArrayDestroy(d, mipmap: *mut c_void) {
        if !d.mipmaps.contains_key(&(mipmap as u64)) {
            return Err(error::INVALID_HANDLE);
        }
        d.mipmap_destroy(mipmap as u64);
        Ok(())
    }
    fn cuMipmappedArrayGetMemoryRequirements(d, _requirements: *mut [u64; 4], mipmap: *mut c_void, _device: c_int) {
        d.mipmaps.get(&(mipmap as u64)).ok_or(error::INVALID_HANDLE)?;
        Err(error::INVALID_VALUE)
    }
    fn cuTexObjectCreate(d, object: *mut u64, resource: *const [u64; 18], texture: *const [u64; 13], _view: *const c_void) {
        d.usable()?;
        let made = Object { resource: get(resource)?, texture: get(texture)? };
        let id = d.handle();
        d.objects.insert(id, made);
        put(object, id)
    }
    fn cuSurfObjectCreate(d, object: *mut u64, resource: *const [u64; 18]) {
        d.usable()?;
        let made = Object { resource: get(resource)?, texture: [0; 13] };
        let id = d.handle();
        d.objects.insert(id, made);
        put(object, id)
    }
    fn cuTexObjectDestroy | cuSurfObjectDestroy(d, object: u64) {
        d.objects.remove(&object).map(|_| ()).ok_or(error::INVALID_VALUE)
    }
    fn cuTexObjectGetResourceDesc | cuSurfObjectGetResourceDesc(d, resource: *mut [u64; 18], object: u64) {
        put(resource, d.objects.get(&object).ok_or(error::INVALID_VALUE)?.resource)
    }
    fn cuTexObjectGetTextureDesc(d, texture: *mut [u64; 13], object: u64) {
        put(texture, d.objects.get(&object).ok_or(error::INVALID_VALUE)?.texture)
    }
}
