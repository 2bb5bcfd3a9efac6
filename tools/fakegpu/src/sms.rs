//! Multiprocessors of one device, by number.

/// Words of a set: enough for every model.
const WORDS: usize = 4;

/// A set of multiprocessors. Empty where nobody said which ones: then only their amount counts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sms([u64; WORDS]);

impl Sms {
    /// Nobody said which ones.
    pub const ANY: Sms = Sms([0; WORDS]);

    /// The first `count` of a device.
    pub fn first(count: u32) -> Sms {
        Sms([u64::MAX; WORDS]).take(count)
    }

    /// As a bit for each, the lowest numbers first.
    pub fn words(&self) -> [u64; WORDS] {
        self.0
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Sms::ANY
    }

    /// Whether some are in both.
    pub fn meets(&self, other: &Sms) -> bool {
        self.0.iter().zip(other.0).any(|(one, other)| one & other != 0)
    }

    /// Those in either.
    pub fn with(&self, other: &Sms) -> Sms {
        Sms(std::array::from_fn(|word| self.0[word] | other.0[word]))
    }

    /// Those that are not in the other.
    pub fn without(&self, other: &Sms) -> Sms {
        Sms(std::array::from_fn(|word| self.0[word] & !other.0[word]))
    }

    /// The `count` with the lowest numbers.
    pub fn take(&self, count: u32) -> Sms {
        let mut left = count;
        Sms(self.0.map(|word| {
            let mut rest = word;
            while left > 0 && rest != 0 {
                // Without its lowest bit.
                rest &= rest - 1;
                left -= 1;
            }
            word & !rest
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_cut_and_joined() {
        let all = Sms::first(132);
        let one = all.take(70);
        let rest = all.without(&one);
        assert_eq!([all.count(), one.count(), rest.count()], [132, 70, 62]);
        assert!(!one.meets(&rest) && rest.meets(&all) && one.with(&rest) == all);
        assert_eq!(rest.take(3).0, [0, 0b111 << 6, 0, 0]);
        assert!(all.without(&all).is_empty() && !one.is_empty());
    }
}
