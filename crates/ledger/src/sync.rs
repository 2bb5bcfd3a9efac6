//! The one door to atomics: loom's in a model check, the processor's otherwise.
//!
//! What is for display only ([`Counter`], [`Word`]) is no part of the protocol, and so of no model: that keeps models small.
#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
pub use core::sync::atomic::{AtomicU32 as Word, AtomicU64 as Counter};

/// An array of `$count` times the same. (A call for each of a file's 40 000 words would take Miri seconds.)
#[cfg(not(loom))]
macro_rules! many {
    ($one:expr; $count:expr) => {
        [const { $one }; $count]
    };
}
/// Loom's atomics are not made at compile time.
#[cfg(loom)]
macro_rules! many {
    ($one:expr; $count:expr) => {
        core::array::from_fn::<_, { $count }, _>(|_| $one)
    };
}
pub(crate) use many;

/// Writes a word of one's own slot, after everything that was written before it. That order is all that is needed of these
/// writes: who reads the word acquires what came before. (The one write that needs more is that of `ask` before a scan.)
#[cfg(not(loom))]
#[inline]
pub fn publish(word: &AtomicU64, value: u64) {
    word.store(value, Ordering::Release);
}
#[cfg(loom)]
pub use model::publish;
#[cfg(loom)]
pub use model::{AtomicI64, AtomicU32, AtomicU64, Ordering, die_after};

/// Loom takes `SeqCst` accesses for `AcqRel` ones, in which two racers may both miss the other's request; and it forgets
/// that a thread's load races a later store once the storing thread has loaded the same word itself. So every `SeqCst`
/// access is a read-modify-write here: those read the latest value, in one order, and all races between them count.
///
/// Each write is also a place where a process can be killed: see [`die_after`].
#[cfg(loom)]
mod model {
    extern crate std;
    pub use loom::sync::atomic::Ordering;
    use std::cell::RefCell;

    std::thread_local! {
        /// The thread that shall die, and the number of its writes that still come to pass.
        static DOOMED: RefCell<Option<(loom::thread::ThreadId, u32)>> = const { RefCell::new(None) };
    }

    /// Lets the calling (loom) thread panic in place of its write number `writes`, counted from 0; `None` lets it live.
    pub fn die_after(writes: Option<u32>) {
        let me = loom::thread::current().id();
        DOOMED.with(|d| d.replace(writes.map(|n| (me, n))));
    }

    fn write<T>(access: impl FnOnce() -> T) -> T {
        let dies = DOOMED.with(|doomed| match &mut *doomed.borrow_mut() {
            Some((id, left)) if *id == loom::thread::current().id() => match left.checked_sub(1) {
                Some(less) => {
                    *left = less;
                    false
                }
                None => true,
            },
            _ => false,
        });
        if dies {
            DOOMED.with(|d| d.replace(None));
            std::panic::resume_unwind(std::boxed::Box::new("killed"));
        }
        access()
    }

    /// As in a build for use; a read-modify-write, for the reason above.
    pub fn publish(word: &AtomicU64, value: u64) {
        word.store(value, Ordering::SeqCst);
    }

    macro_rules! atomic {
        ($($name:ident $value:ty),*) => {$(
            /// As the standard library's.
            #[derive(Debug)]
            pub struct $name(loom::sync::atomic::$name);

            #[allow(missing_docs)]
            impl $name {
                pub fn new(value: $value) -> Self {
                    Self(loom::sync::atomic::$name::new(value))
                }

                pub fn load(&self, order: Ordering) -> $value {
                    if order == Ordering::SeqCst { self.0.fetch_add(0, order) } else { self.0.load(order) }
                }

                pub fn store(&self, value: $value, order: Ordering) {
                    write(|| if order == Ordering::SeqCst { _ = self.0.swap(value, order) } else { self.0.store(value, order) });
                }

                pub fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                    write(|| self.0.fetch_add(value, order))
                }

                pub fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                    write(|| self.0.fetch_sub(value, order))
                }

                pub fn compare_exchange_weak(
                    &self, old: $value, new: $value, success: Ordering, failure: Ordering,
                ) -> Result<$value, $value> {
                    write(|| self.0.compare_exchange(old, new, success, failure))
                }
            }
        )*};
    }
    atomic!(AtomicI64 i64, AtomicU32 u32, AtomicU64 u64);
}
