//! How much one may hold of what many share and nobody can be made to give back: places, memory, bytes.
//!
//! What one may hold has to shrink before the others come. The rule is the dynamic threshold of shared packet
//! buffers (Choudhury and Hahne, 1998): one takes more only while at least as much stays free as he holds
//! then. One that is alone gets half of all; however many hostile ones there are, each of them leaves as much
//! as it has for those to come.

pub(crate) mod slots;
pub(crate) mod turns;

/// Whether one may hold so much when so much is free then.
#[must_use]
pub(crate) fn leaves_enough(held: usize, free: usize) -> bool {
    held <= free
}

/// How many more places one may take that holds so many, of so many that are free. One that holds none gets
/// any place that is free.
#[must_use]
pub(crate) fn places(held: usize, free: usize) -> usize {
    let least = usize::from(held == 0 && free > 0);
    (held.saturating_add(free) / 2).saturating_sub(held).max(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_that_is_taken_leaves_enough() {
        for free in 0..200 {
            for held in 0..200 {
                let more = places(held, free);
                assert!(more <= free);
                assert!(more == 0 || held + more == 1 || leaves_enough(held + more, free - more));
                let further = held + more + 1;
                assert!(more == free || !leaves_enough(further, free - more - 1));
            }
        }
    }
}
