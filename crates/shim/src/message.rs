//! What the stand-in says on stderr: one line when it refuses to work, and, where the slice asks for it, one for each
//! allocation that it refuses.
use crate::system;

/// A line that is put together without allocating; what does not fit is cut.
pub struct Line {
    text: [u8; 400],
    length: usize,
}

impl Line {
    pub fn new() -> Self {
        let mut line = Self { text: [0; 400], length: 0 };
        line.add(b"cleave: ");
        line
    }

    pub fn add(&mut self, text: &[u8]) -> &mut Self {
        for (to, from) in self.text.iter_mut().skip(self.length).zip(text) {
            *to = *from;
            self.length += 1;
        }
        self
    }

    /// Text up to its first zero.
    pub fn padded(&mut self, text: &[u8]) -> &mut Self {
        self.add(text.split(|&b| b == 0).next().unwrap_or(&[]))
    }

    pub fn number(&mut self, mut value: u64) -> &mut Self {
        let mut digits = [0u8; 20];
        let mut count = 0;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (value % 10) as u8;
            value /= 10;
            count += 1;
            if value == 0 {
                break;
            }
        }
        for digit in digits.iter().skip(20 - count) {
            self.add(core::slice::from_ref(digit));
        }
        self
    }

    /// Bytes in MiB with one decimal.
    pub fn mib(&mut self, bytes: u64) -> &mut Self {
        let tenths = bytes / 104_858;
        self.number(tenths / 10).add(b".").number(tenths % 10).add(b" MiB")
    }

    pub fn print(&mut self) {
        self.add(b"\n");
        if let Some(text) = self.text.get(..self.length) {
            system::write_stderr(text);
        }
    }
}

/// The real library could not be opened.
pub fn library_missing(path: &[u8]) {
    Line::new()
        .add(b"the driver's library ")
        .padded(path)
        .add(b" can't be opened; is the driver installed? see `cleave doctor`")
        .print();
}
