//! How much static data an image of code brings to the device, as far as it can be read: an ELF file, PTX text, or a
//! container of these that is not compressed. What can't be read counts as nothing here, and is measured after loading.
//!
//! The image is the program's own; the driver reads it right after, and trusts it more than this does.

/// Static data of the image in bytes.
///
/// # Safety
/// `image` must be what the driver's loading functions take: an image that tells its own length.
pub unsafe fn static_bytes(image: *const u8) -> u64 {
    if image.is_null() {
        return 0;
    }
    // SAFETY: every kind of image has at least four bytes.
    match unsafe { read::<u32>(image, 0) } {
        // SAFETY: an ELF file, as its first bytes say.
        ELF => unsafe { elf(image) },
        WRAPPER => {
            // SAFETY: a wrapper has a pointer to its container at this place.
            let container = unsafe { read::<u64>(image, 8) } as *const u8;
            // SAFETY: as the wrapper says.
            if container.is_null() { 0 } else { unsafe { fat(container) } }
        }
        // SAFETY: a container, as its first bytes say.
        FAT => unsafe { fat(image) },
        // SAFETY: what is nothing else is text that ends with a zero.
        _ => unsafe { ptx(image) },
    }
}

const ELF: u32 = u32::from_le_bytes(*b"\x7fELF");
const WRAPPER: u32 = 0x4662_43b1;
const FAT: u32 = 0xba55_ed50;

/// # Safety
/// There must be a `T` at `offset` bytes from `image`, aligned or not, and any bytes must be a `T`.
unsafe fn read<T: Copy>(image: *const u8, offset: usize) -> T {
    // SAFETY: the caller's promise.
    unsafe { image.add(offset).cast::<T>().read_unaligned() }
}

/// Sections that are loaded: code, constants and variables.
///
/// # Safety
/// An ELF file must be at `image`.
unsafe fn elf(image: *const u8) -> u64 {
    // SAFETY: fields of the header of a 64-bit ELF file, and of the section headers it names.
    unsafe {
        if read::<u8>(image, 4) != 2 {
            return 0;
        }
        let (start, size, count) = (read::<u64>(image, 0x28), read::<u16>(image, 0x3a), read::<u16>(image, 0x3c));
        let mut total = 0u64;
        for number in 0..usize::from(count) {
            let header = start as usize + number * usize::from(size);
            const ALLOCATED: u64 = 2;
            if read::<u64>(image, header + 8) & ALLOCATED != 0 {
                total = total.saturating_add(read::<u64>(image, header + 0x20));
            }
        }
        total
    }
}

/// The largest of the images in a container: the driver picks one of them.
///
/// # Safety
/// A container must be at `image`.
unsafe fn fat(image: *const u8) -> u64 {
    // SAFETY: fields of the container's header and of its entries, within the size that it gives.
    unsafe {
        let (header, size) = (usize::from(read::<u16>(image, 6)), read::<u64>(image, 8) as usize);
        let (mut at, mut most) = (header, 0);
        let end = header.saturating_add(size);
        while end.saturating_sub(at) >= 16 {
            let (skip, length) = (read::<u32>(image, at + 4) as usize, read::<u64>(image, at + 8) as usize);
            if skip == 0 || length < 64 || skip.saturating_add(length) > end - at {
                break;
            }
            let inner = image.add(at + skip);
            // A compressed image starts with anything; PTX in a container need not end with a zero.
            if read::<u32>(inner, 0) == ELF {
                most = elf(inner).max(most);
            }
            at += skip + length;
        }
        most
    }
}

/// The sizes of the `.global` and `.const` declarations in PTX text.
///
/// # Safety
/// Text that ends with a zero must be at `text`.
unsafe fn ptx(text: *const u8) -> u64 {
    // SAFETY: the caller's promise.
    let text = unsafe { core::ffi::CStr::from_ptr(text.cast()) }.to_bytes();
    let mut total = 0u64;
    for statement in text.split(|&byte| matches!(byte, b';' | b'{' | b'}')) {
        let mut words = statement.split(|&byte| byte.is_ascii_whitespace() || byte == b'=');
        // As in `.visible .global .align 4 .b8 name[67108864]`; directives before it end without a semicolon.
        if !words.any(|word| word == b".global" || word == b".const") {
            continue;
        }
        let (mut element, mut vector) = (0u64, 1u64);
        let declared = words.find(|word| match *word {
            b".v2" => {
                vector = 2;
                false
            }
            b".v4" => {
                vector = 4;
                false
            }
            word if word.starts_with(b".") => {
                element = if word.ends_with(b"64") {
                    8
                } else if word.ends_with(b"32") {
                    4
                } else if word.ends_with(b"16") {
                    2
                } else if word.ends_with(b"8") {
                    1
                } else {
                    element
                };
                false
            }
            word => element > 0 && !word.is_empty() && !word.iter().all(u8::is_ascii_digit),
        });
        let Some(declared) = declared else { continue };
        let mut size = element * vector;
        for dimension in declared.split(|&byte| byte == b'[').skip(1) {
            let digits = dimension.split(|&byte| byte == b']').next().unwrap_or(&[]);
            let number = digits.iter().try_fold(0u64, |value, digit| match digit {
                b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
                _ => None,
            });
            size = size.saturating_mul(number.unwrap_or(1).max(1));
        }
        total = total.saturating_add(size);
    }
    total
}
