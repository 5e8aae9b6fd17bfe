//! The stages of an exchange, and the transitions between them.

use crate::proxy::upstream::{Lease, Ticket};

/// The stage of an exchange.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is new, or between two attempts.
    Arrived,
    /// It waits until the client shows whether there is a body.
    Held,
    /// It is in its group's queue.
    Waiting(Ticket),
    /// Its connection is being opened.
    Connecting(Lease),
    /// It uses the slot of its connection.
    Active(Lease),
    /// Nothing more comes from an upstream.
    Responded,
}

impl Stage {
    /// Returns the row and column in the table of [`Stage::may_become`].
    fn index(&self) -> usize {
        match self {
            Self::Arrived => 0,
            Self::Held => 1,
            Self::Waiting(_) => 2,
            Self::Connecting(_) => 3,
            Self::Active(_) => 4,
            Self::Responded => 5,
        }
    }

    /// Returns whether `next` may follow.
    pub(super) fn may_become(&self, next: &Self) -> bool {
        const YES: bool = true;
        const NO_: bool = false;
        #[rustfmt::skip]
        const TABLE: [[bool; 6]; 6] = [
            //  Arrived Held    Waiting Connect Active  Responded
            [NO_,    YES,    YES,    YES,    YES,    YES], // Arrived
            [YES,    NO_,    NO_,    NO_,    NO_,    YES], // Held
            [YES,    NO_,    NO_,    NO_,    NO_,    YES], // Waiting
            [YES,    NO_,    NO_,    NO_,    YES,    YES], // Connecting
            [YES,    NO_,    NO_,    NO_,    NO_,    YES], // Active
            [NO_,    NO_,    NO_,    NO_,    NO_,    NO_], // Responded
        ];
        TABLE[self.index()][next.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::slab::SlabKey as _;
    use crate::proxy::api::UpstreamKey;
    use crate::proxy::upstream::GroupKey;

    #[test]
    fn stages_follow_each_other_as_the_table_says() {
        let (group, connection) = (GroupKey::from_parts(0, 0), UpstreamKey::from_parts(0, 0));
        let lease = || Lease { group, endpoint: 0, connection };
        let stages = [
            ("arrived", Stage::Arrived),
            ("held", Stage::Held),
            ("waiting", Stage::Waiting(Ticket { group, number: 0 })),
            ("connecting", Stage::Connecting(lease())),
            ("active", Stage::Active(lease())),
            ("responded", Stage::Responded),
        ];
        let mut legal = Vec::new();
        for (from_name, from) in &stages {
            for (to_name, to) in &stages {
                if from.may_become(to) {
                    legal.push(format!("{from_name} -> {to_name}"));
                }
            }
        }
        let expected = "\
            arrived -> held, arrived -> waiting, arrived -> connecting, arrived -> active, \
            arrived -> responded, held -> arrived, held -> responded, waiting -> arrived, \
            waiting -> responded, connecting -> arrived, connecting -> active, \
            connecting -> responded, active -> arrived, active -> responded";
        assert_eq!(legal.join(", "), expected);
    }
}
