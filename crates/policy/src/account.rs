//! What a slice was given, over 10 ms, 1 s and 1 min, and how evenly.

/// Sums over some time, in ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Sum {
    /// Device time used.
    pub given: u64,
    /// Device time that its share came to while it wanted the GPU.
    pub owed: u64,
    /// Time during which some thread waited while it was not its turn.
    pub throttled: u64,
}

impl Sum {
    fn add(&mut self, other: Sum) {
        self.given += other.given;
        self.owed += other.owed;
        self.throttled += other.throttled;
    }

    fn part(self, of: u64, whole: u64) -> Sum {
        let part = |sum: u64| (u128::from(sum) * u128::from(of) / u128::from(whole.max(1))) as u64;
        Sum { given: part(self.given), owed: part(self.owed), throttled: part(self.throttled) }
    }
}

/// A ring of `N` buckets of equal width; `newest` is the number of the last one, counted from time 0.
#[derive(Clone, Debug)]
struct Ring<const N: usize> {
    width: u64,
    newest: u64,
    buckets: [Sum; N],
}

impl<const N: usize> Ring<N> {
    const fn new(width: u64) -> Self {
        Ring { width, newest: 0, buckets: [Sum { given: 0, owed: 0, throttled: 0 }; N] }
    }

    /// Spreads `sum` evenly over `from..to`. What is older than the ring is dropped.
    fn add(&mut self, from: u64, to: u64, sum: Sum) {
        self.advance(to / self.width);
        let oldest = self.newest.saturating_sub(N as u64 - 1);
        for number in (from / self.width).max(oldest)..=to / self.width {
            let (start, end) = (number * self.width, (number + 1) * self.width);
            let part = to.min(end).saturating_sub(from.max(start));
            self.buckets[number as usize % N].add(sum.part(part, to - from));
        }
    }

    fn advance(&mut self, newest: u64) {
        for number in (self.newest + 1..=newest).rev().take(N) {
            self.buckets[number as usize % N] = Sum::default();
        }
        self.newest = self.newest.max(newest);
    }

    /// The sum of the last `count` buckets that were complete at `now`.
    fn last(&self, now: u64, count: u64) -> Sum {
        let mut sum = Sum::default();
        let end = now / self.width;
        for number in end.saturating_sub(count)..end {
            if number <= self.newest && number + N as u64 > self.newest {
                sum.add(self.buckets[number as usize % N]);
            }
        }
        sum
    }
}

/// One slice's account on one GPU.
#[derive(Clone, Debug)]
pub struct Account {
    fine: Ring<101>,
    coarse: Ring<61>,
    total: Sum,
    throttles: u64,
}

impl Default for Account {
    fn default() -> Self {
        Account { fine: Ring::new(10_000_000), coarse: Ring::new(1_000_000_000), total: Sum::default(), throttles: 0 }
    }
}

impl Account {
    pub(crate) fn add(&mut self, from: u64, to: u64, sum: Sum) {
        if to > from {
            self.fine.add(from, to, sum);
            self.coarse.add(from, to, sum);
            self.total.add(sum);
        }
    }

    pub(crate) fn throttle(&mut self) {
        self.throttles += 1;
    }

    /// The last whole 10 ms before `now`.
    pub fn last_10ms(&self, now: u64) -> Sum {
        self.fine.last(now, 1)
    }

    /// The last second, to 10 ms.
    pub fn last_second(&self, now: u64) -> Sum {
        self.fine.last(now, 100)
    }

    /// The last minute, to a second.
    pub fn last_minute(&self, now: u64) -> Sum {
        self.coarse.last(now, 60)
    }

    /// Since the tenant was added.
    pub fn total(&self) -> Sum {
        self.total
    }

    /// How many turns it had to wait for.
    pub fn throttles(&self) -> u64 {
        self.throttles
    }
}

/// Jain's index of fairness of what each got relative to its share: 1 if all got the same, 1/n if one got everything.
/// `None` without amounts, or if all are zero.
pub fn jain(relative: &[f64]) -> Option<f64> {
    let sum: f64 = relative.iter().sum();
    let squares: f64 = relative.iter().map(|x| x * x).sum();
    (squares > 0.0).then(|| sum * sum / (relative.len() as f64 * squares))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_fall_into_the_time_they_were_used_in() {
        let mut account = Account::default();
        for at in 0..150u64 {
            let used = Sum { given: at * 1000, owed: 5_000_000, throttled: 0 };
            account.add(at * 10_000_000, (at + 1) * 10_000_000, used);
        }
        let now = 1_500_000_000;
        assert_eq!(account.last_10ms(now).given, 149_000);
        assert_eq!(account.last_second(now).given, (50..150).map(|at| at * 1000).sum::<u64>());
        assert_eq!(account.last_second(now).owed, 500_000_000);
        assert_eq!(account.last_minute(now).owed, 500_000_000, "whole seconds only");
        assert_eq!(account.total().owed, 750_000_000);
        assert_eq!(account.last_second(now + 10_000_000_000), Sum::default(), "nothing was used since");
        // One entry over many buckets is spread evenly.
        account.add(now, now + 2_000_000_000, Sum { given: 2_000_000, ..Sum::default() });
        assert_eq!(account.last_10ms(now + 1_990_000_000).given, 10_000);
        assert_eq!(account.last_second(now + 2_000_000_000).given, 1_000_000);
    }

    #[test]
    fn jain_is_one_for_equals_and_one_nth_for_one() {
        assert_eq!(jain(&[0.5, 0.5, 0.5]), Some(1.0));
        assert_eq!(jain(&[1.0, 0.0, 0.0, 0.0]), Some(0.25));
        assert_eq!((jain(&[]), jain(&[0.0])), (None, None));
    }
}
