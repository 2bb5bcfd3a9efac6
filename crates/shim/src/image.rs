//! How much static data an image of code brings to the device, as far as it can be read: an ELF file, PTX text, or a
//! container of these that is not compressed. What can't be read counts as nothing here, and is measured after loading.
//!
//! The image is the program's own; the driver reads it right after, and trusts it more than this does.

/// Static data of the image in bytes.
///
/// # Safety
/// `image` must be what the driver's loading functions take: an image that tells its own length.
pub unsafe fn static_bytes(image: *const u8) -> u64 {
    // SAFETY: the caller's promise: what is read lies within the length that the image tells.
    if image.is_null() { 0 } else { unsafe { bytes_of(Image { start: image, length: usize::MAX }) } }
}

/// As [`static_bytes`], of the contents of a file, which may tell anything: nothing beyond them is read.
///
/// # Safety
/// There must be `length` bytes at `image`, with a zero after them.
pub unsafe fn static_bytes_within(image: *const u8, length: usize) -> u64 {
    let image = Image { start: image, length };
    // SAFETY: the caller's promise. A wrapper points to elsewhere: no file is one.
    if image.read::<u32>(0) == WRAPPER { 0 } else { unsafe { bytes_of(image) } }
}

/// # Safety
/// As in [`static_bytes`], or nothing beyond the image's length is part of it, and a zero is behind it.
unsafe fn bytes_of(image: Image) -> u64 {
    // Every kind of image has at least four bytes.
    match image.read::<u32>(0) {
        ELF => elf(image),
        WRAPPER => {
            let container = image.read::<u64>(8) as *const u8;
            // A wrapper points to its container.
            if container.is_null() { 0 } else { fat(Image { start: container, length: usize::MAX }) }
        }
        FAT => fat(image),
        // SAFETY: what is nothing else is text that ends with a zero.
        _ => unsafe { ptx(core::ffi::CStr::from_ptr(image.start.cast()).to_bytes()) },
    }
}

const ELF: u32 = u32::from_le_bytes(*b"\x7fELF");
const WRAPPER: u32 = 0x4662_43b1;
const FAT: u32 = 0xba55_ed50;

/// An image: its makers promise that what it says of itself within `length` is there.
#[derive(Clone, Copy)]
struct Image {
    start: *const u8,
    length: usize,
}

impl Image {
    /// The number at `offset`, aligned or not; 0 beyond the image's length.
    fn read<T: Copy + Default>(self, offset: usize) -> T {
        if offset.checked_add(size_of::<T>()).is_none_or(|end| end > self.length) {
            return T::default();
        }
        // SAFETY: within the length, as whoever made the image promised.
        unsafe { self.start.add(offset).cast::<T>().read_unaligned() }
    }

    /// What is left from `offset` on.
    fn from(self, offset: usize) -> Self {
        let offset = offset.min(self.length);
        Self { start: self.start.wrapping_add(offset), length: self.length - offset }
    }
}

/// Sections that are loaded: code, constants and variables.
fn elf(image: Image) -> u64 {
    if image.read::<u8>(4) != 2 {
        return 0;
    }
    let (start, size, count) = (image.read::<u64>(0x28), image.read::<u16>(0x3a), image.read::<u16>(0x3c));
    let mut total = 0u64;
    for number in 0..usize::from(count) {
        let header = (start as usize).saturating_add(number * usize::from(size));
        const ALLOCATED: u64 = 2;
        if image.read::<u64>(header.saturating_add(8)) & ALLOCATED != 0 {
            total = total.saturating_add(image.read::<u64>(header.saturating_add(0x20)));
        }
    }
    total
}

/// The largest of the images in a container: the driver picks one of them.
fn fat(image: Image) -> u64 {
    let (header, size) = (usize::from(image.read::<u16>(6)), image.read::<u64>(8) as usize);
    let (mut at, mut most) = (header, 0);
    let end = header.saturating_add(size);
    while end.saturating_sub(at) >= 16 {
        let (skip, length) = (image.read::<u32>(at + 4) as usize, image.read::<u64>(at + 8) as usize);
        if skip == 0 || length < 64 || skip.saturating_add(length) > end - at {
            break;
        }
        let inner = image.from(at + skip);
        // A compressed image starts with anything; PTX in a container need not end with a zero.
        if inner.read::<u32>(0) == ELF {
            most = elf(inner).max(most);
        }
        at += skip + length;
    }
    most
}

/// A declaration in PTX text, as far as it was read.
#[derive(Clone, Copy)]
struct Declaration {
    /// Bytes of an element, and how many make a vector.
    element: u64,
    vector: u64,
    /// Bytes of the name that was read last; `None` before it.
    size: Option<u64>,
    /// What follows is its initial value, to the next comma or the end.
    initial: bool,
    /// Brackets and braces that are open.
    depth: u32,
}

/// The sizes of the `.global` and `.const` declarations in PTX text, as
/// `.visible .global .align 4 .b8 name[67108864], other [3][5] = {1, 2};`.
fn ptx(mut text: &[u8]) -> u64 {
    let mut total = 0u64;
    let mut open: Option<Declaration> = None;
    while let Some((token, rest)) = next_token(text) {
        text = rest;
        let Some(d) = &mut open else {
            if token == b".global" || token == b".const" {
                open = Some(Declaration { element: 0, vector: 1, size: None, initial: false, depth: 0 });
            }
            continue;
        };
        match token {
            b";" => {
                total = total.saturating_add(d.size.unwrap_or(0));
                open = None;
            }
            b"{" | b"(" if d.initial || token == b"(" => d.depth += 1,
            b"}" | b")" if d.depth > 0 => d.depth -= 1,
            // No declaration of a variable: a parameter, or a body.
            b"{" | b"}" | b")" => open = None,
            _ if d.depth > 0 => {}
            b"," => {
                total = total.saturating_add(d.size.take().unwrap_or(0));
                d.initial = false;
            }
            b"=" => d.initial = true,
            _ if d.initial => {}
            b".v2" => d.vector = 2,
            b".v4" => d.vector = 4,
            [b'.', kind @ ..] if d.size.is_none() => d.element = element_bytes(kind).unwrap_or(d.element),
            [b'0'..=b'9', ..] => {
                // A dimension; before a name, an alignment.
                d.size = d.size.map(|size| size.saturating_mul(number(token).unwrap_or(1).max(1)));
            }
            [b'[' | b']', ..] => {}
            _ if d.element > 0 => d.size = Some(d.element * d.vector),
            _ => {}
        }
    }
    total
}

/// Bytes of a fundamental type.
fn element_bytes(kind: &[u8]) -> Option<u64> {
    const SIZES: [(&[u8], u64); 6] = [(b"128", 16), (b"64", 8), (b"32", 4), (b"x2", 4), (b"16", 2), (b"8", 1)];
    SIZES.iter().find(|(end, _)| kind.ends_with(end)).map(|(_, bytes)| *bytes)
}

fn number(digits: &[u8]) -> Option<u64> {
    let (digits, radix) = match digits {
        [b'0', b'x' | b'X', rest @ ..] => (rest, 16),
        _ => (digits, 10),
    };
    let digits = digits.strip_suffix(b"U").unwrap_or(digits);
    digits.iter().try_fold(0u64, |value, digit| {
        value.checked_mul(radix)?.checked_add(char::from(*digit).to_digit(radix as u32)?.into())
    })
}

/// The next word, number or sign, and what is behind it; comments and strings are passed over.
fn next_token(mut text: &[u8]) -> Option<(&[u8], &[u8])> {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'$' | b'%');
    loop {
        let skip = match text {
            [] => return None,
            [b'/', b'/', ..] => text.iter().position(|&byte| byte == b'\n').unwrap_or(text.len()),
            [b'/', b'*', rest @ ..] => rest.windows(2).position(|pair| pair == b"*/").map_or(text.len(), |at| at + 4),
            [b'"', rest @ ..] => rest.iter().position(|&byte| byte == b'"').map_or(text.len(), |at| at + 2),
            [byte, ..] if byte.is_ascii_whitespace() => 1,
            [byte, ..] => {
                let length = if is_word(byte) { text.iter().take_while(|byte| is_word(byte)).count() } else { 1 };
                return text.split_at_checked(length);
            }
        };
        text = text.get(skip..)?;
    }
}
