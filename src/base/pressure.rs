//! The state of the heap's budget, and what each state asks for.
//!
//! | in use | admitted | what has begun |
//! |---|---|---|
//! | below three quarters | everything | goes on |
//! | above | no connections, no requests, no growth of windows | goes on |
//! | all of it | nothing | the clients that hold most are closed, until a tenth is free |

use crate::limits::{HEAP_HIGH_PERCENT, HEAP_RELIEF_PERCENT};

/// The budget of the heap, and how much of it is in use, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeapUse {
    pub len: usize,
    pub budget: usize,
}

/// How near the heap is to its budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Pressure {
    #[default]
    None,
    /// Nothing new is admitted.
    High,
    /// Some of what is held has to go.
    Full,
}

impl HeapUse {
    pub(crate) fn pressure(self) -> Pressure {
        if self.len >= self.budget {
            Pressure::Full
        } else if self.len >= percent(self.budget, HEAP_HIGH_PERCENT) {
            Pressure::High
        } else {
            Pressure::None
        }
    }

    /// Returns how much has to be freed once the budget is used up.
    pub(crate) fn excess_len(self) -> usize {
        self.len.saturating_sub(percent(self.budget, HEAP_RELIEF_PERCENT))
    }
}

fn percent(budget: usize, percent: usize) -> usize {
    budget / 100 * percent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_rises_with_use() {
        let at = |len| HeapUse { len, budget: 1000 };
        assert_eq!(at(0).pressure(), Pressure::None);
        assert_eq!(at(749).pressure(), Pressure::None);
        assert_eq!(at(750).pressure(), Pressure::High);
        assert_eq!(at(999).pressure(), Pressure::High);
        assert_eq!((at(1000).pressure(), at(1000).excess_len()), (Pressure::Full, 100));
        assert_eq!(at(100).excess_len(), 0);
    }
}
