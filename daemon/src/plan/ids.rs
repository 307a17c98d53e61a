//! Fresh ids for what a plan makes.
//!
//! Owns nothing but a counter. A plan has no chance of its own: whoever calls it brings a seed.

/// A source of fresh numbers for random ids.
#[derive(Clone, Debug)]
pub struct Ids {
    state: u64,
    mixed: bool,
}

impl Ids {
    /// Numbers that look random, from a seed that is.
    pub fn seeded(seed: u64) -> Self {
        Self { state: seed, mixed: true }
    }

    /// 1, 2, 3: for tests and goldens.
    pub fn counted() -> Self {
        Self { state: 0, mixed: false }
    }

    /// The next number; not given again for 2^64 calls.
    pub fn fresh(&mut self) -> u64 {
        if !self.mixed {
            self.state = self.state.wrapping_add(1);
            return self.state;
        }
        // SplitMix64 (Steele, Lea, Flood 2014): a bijection of the counter, so no number comes twice.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
