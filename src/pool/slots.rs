//! The holder of each slot: a state machine over indices, without pointers, unsafe code or
//! dependencies on other modules.
//!
//! ```text
//!             lease                provide
//!      Free --------> Owned <------------------> Provided    the kernel may write
//!           <-------- ^    take back
//!            release  |
//!                     +------------------------> InKernel    the kernel reads
//!                        send / sent
//! ```
//!
//! Only an owned slot can be released: a slot that the kernel may access comes back first. Each
//! release starts a new generation, so that a stale [`SlotId`] is refused instead of acting on the
//! slot's next lease.
//!
//! A slot may be charged to a flow (a hash of the peer that filled it), which gives one peer's
//! share of the pool. A released slot is charged to no flow.

/// The holder of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// None: the slot is on the free list.
    Free,
    /// The program.
    Owned,
    /// The kernel, which may write it at any time.
    Provided,
    /// The kernel, which reads it.
    InKernel,
}

impl State {
    /// All states, in the order of [`Slots::count`]'s table.
    pub(super) const ALL: [Self; 4] = [Self::Free, Self::Owned, Self::Provided, Self::InKernel];
}

/// An event of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// It is allocated.
    Lease,
    /// It is handed to the kernel for writing.
    Provide,
    /// The kernel has filled or released it.
    TakeBack,
    /// It is handed to the kernel for sending.
    Send,
    /// The kernel has read it for the last time.
    Sent,
    /// Its last reference is gone.
    Release,
}

/// The table of legal transitions; `None` is a bug of ours.
pub(super) const fn next_state(state: State, event: Event) -> Option<State> {
    match (state, event) {
        (State::Free, Event::Lease) => Some(State::Owned),
        (State::Owned, Event::Provide) => Some(State::Provided),
        (State::Provided, Event::TakeBack) => Some(State::Owned),
        (State::Owned, Event::Send) => Some(State::InKernel),
        (State::InKernel, Event::Sent) => Some(State::Owned),
        (State::Owned, Event::Release) => Some(State::Free),
        _ => None,
    }
}

/// One slot during one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SlotId {
    /// Index in the region.
    pub index: u32,
    generation: u32,
}

/// An event that the table refuses: a bug of the caller. The slot is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused {
    pub index: u32,
    pub state: State,
    pub event: Event,
    /// The caller's id belongs to an earlier lease of the slot.
    pub is_stale: bool,
}

/// The numbers of slots by state. The last four always add up to `total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SlotCounts {
    pub total: u32,
    /// Ready to be leased.
    pub free: u32,
    /// Held by the program.
    pub owned: u32,
    /// The kernel may write them.
    pub provided: u32,
    /// The kernel reads them.
    pub in_kernel: u32,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    state: State,
    generation: u32,
    flow: Option<u16>,
}

/// The slots of one region.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Box<[Slot]>,
    /// Free slots, the one released last on top: it is still in the cache.
    free: Vec<u32>,
    /// Slots in each state, in the order of [`State::ALL`].
    counts: [u32; 4],
    /// Slots charged to each flow.
    held: Box<[u16]>,
}

impl Slots {
    /// Returns `slot_count` free slots, at most 65,535.
    pub(super) fn new(slot_count: u32) -> Self {
        assert!(slot_count <= u32::from(u16::MAX), "a flow's slots are counted in 16 bits");
        let slot = Slot { state: State::Free, generation: 0, flow: None };
        Self {
            slots: vec![slot; slot_count as usize].into_boxed_slice(),
            free: (0..slot_count).rev().collect(),
            counts: [slot_count, 0, 0, 0],
            held: vec![0; 1 << 16].into_boxed_slice(),
        }
    }

    /// Leases the free slot that was released last.
    pub(super) fn lease(&mut self) -> Option<SlotId> {
        let index = self.free.pop()?;
        let state = self.slots[index as usize].state;
        let owned = next_state(state, Event::Lease).expect("what is on the free list is free");
        self.enter(index, owned);
        Some(self.id_at(index))
    }

    /// Returns the slot that [`Self::lease`] would take, and whether it was ever leased before.
    pub(super) fn next_free(&self) -> Option<(u32, bool)> {
        let index = *self.free.last()?;
        Some((index, self.slots[index as usize].generation > 0))
    }

    /// Returns the id of the current lease of slot `index`.
    pub(super) fn id_at(&self, index: u32) -> SlotId {
        SlotId { index, generation: self.slots[index as usize].generation }
    }

    /// Applies any event but lease and release, for which there are [`Self::lease`] and
    /// [`Self::release`].
    pub(super) fn hand_over(&mut self, id: SlotId, event: Event) -> Result<(), Refused> {
        let Slot { state, generation, .. } = self.slots[id.index as usize];
        let is_stale = generation != id.generation;
        let refused = Refused { index: id.index, state, event, is_stale };
        if is_stale || matches!(event, Event::Lease | Event::Release) {
            return Err(refused);
        }
        let next = next_state(state, event).ok_or(refused)?;
        self.enter(id.index, next);
        Ok(())
    }

    /// Frees slot `index` after its last reference is gone: uncharged, in a new generation.
    ///
    /// Takes no id: a deallocation has only an address, and the memory's owner is unique.
    pub(super) fn release(&mut self, index: u32) -> Result<(), Refused> {
        let state = self.slots[index as usize].state;
        let event = Event::Release;
        let refused = Refused { index, state, event, is_stale: false };
        next_state(state, event).ok_or(refused)?;
        self.free_up(index);
        Ok(())
    }

    /// Frees every slot that the kernel had and calls `each` with it, for an owner that takes over
    /// after a panic, once the kernel has released all. Returns their number.
    pub(super) fn release_abandoned(&mut self, mut each: impl FnMut(u32)) -> u32 {
        let mut released = 0;
        for index in 0..self.counts().total {
            if matches!(self.slots[index as usize].state, State::Provided | State::InKernel) {
                each(index);
                self.free_up(index);
                released += 1;
            }
        }
        released
    }

    /// Charges slot `index` to `flow` instead of any other flow. Returns `false` for a free slot,
    /// which no peer can have filled.
    pub(super) fn charge(&mut self, index: u32, flow: u16) -> bool {
        if self.slots[index as usize].state == State::Free {
            return false;
        }
        self.uncharge(index);
        self.slots[index as usize].flow = Some(flow);
        self.held[flow as usize] += 1;
        true
    }

    pub(super) fn held_by(&self, flow: u16) -> u16 {
        self.held[flow as usize]
    }

    pub(super) fn free_count(&self) -> u32 {
        self.counts[State::Free as usize]
    }

    pub(super) fn count(&self, state: State) -> u32 {
        self.counts[state as usize]
    }

    pub(super) fn counts(&self) -> SlotCounts {
        let [free, owned, provided, in_kernel] = State::ALL.map(|state| self.count(state));
        let total = self.slots.len() as u32;
        debug_assert_eq!(free + owned + provided + in_kernel, total);
        SlotCounts { total, free, owned, provided, in_kernel }
    }

    /// Puts a slot on the free list that does not exist, as a bug in this module could.
    #[cfg(test)]
    pub(super) fn damage(&mut self) {
        self.free.pop();
        self.free.push(u32::MAX);
    }

    fn free_up(&mut self, index: u32) {
        self.uncharge(index);
        let slot = &mut self.slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        self.enter(index, State::Free);
        // Never reallocates: it has capacity for all, and each slot is on it at most once.
        self.free.push(index);
    }

    fn uncharge(&mut self, index: u32) {
        if let Some(flow) = self.slots[index as usize].flow.take() {
            self.held[flow as usize] -= 1;
        }
    }

    fn enter(&mut self, index: u32, next: State) {
        let slot = &mut self.slots[index as usize];
        self.counts[slot.state as usize] -= 1;
        self.counts[next as usize] += 1;
        slot.state = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [Event; 6] =
        [Event::Lease, Event::Provide, Event::TakeBack, Event::Send, Event::Sent, Event::Release];

    /// Brings one slot of a fresh pool into `state`.
    fn slot_in(state: State) -> (Slots, SlotId) {
        let mut slots = Slots::new(3);
        if state == State::Free {
            let id = slots.id_at(0);
            return (slots, id);
        }
        let id = slots.lease().unwrap();
        match state {
            State::Provided => slots.hand_over(id, Event::Provide).unwrap(),
            State::InKernel => slots.hand_over(id, Event::Send).unwrap(),
            State::Free | State::Owned => {}
        }
        (slots, id)
    }

    fn apply(slots: &mut Slots, id: SlotId, event: Event) -> Result<(), Refused> {
        match event {
            Event::Lease => {
                let state = slots.slots[id.index as usize].state;
                let refused = Refused { index: id.index, state, event, is_stale: false };
                let leased = slots.lease().expect("two more slots are free");
                if leased.index == id.index { Ok(()) } else { Err(refused) }
            }
            Event::Release => slots.release(id.index),
            _ => slots.hand_over(id, event),
        }
    }

    /// The transitions written down by hand, against those of the machine.
    #[test]
    fn all_transitions_legal_and_refused() {
        let expected = "\
Free: Lease -> Owned; refused: Provide TakeBack Send Sent Release
Owned: Provide -> Provided, Send -> InKernel, Release -> Free; refused: Lease TakeBack Sent
Provided: TakeBack -> Owned; refused: Lease Provide Send Sent Release
InKernel: Sent -> Owned; refused: Lease Provide TakeBack Send Release
";
        let mut seen = String::new();
        for state in State::ALL {
            let (mut legal, mut refused) = (Vec::new(), Vec::new());
            for event in EVENTS {
                let (mut slots, id) = slot_in(state);
                let outcome = apply(&mut slots, id, event);
                let after = slots.slots[id.index as usize].state;
                let SlotCounts { total, free, owned, provided, in_kernel } = slots.counts();
                assert_eq!(free + owned + provided + in_kernel, total);
                match outcome {
                    Ok(()) => legal.push(format!("{event:?} -> {after:?}")),
                    Err(refusal) => {
                        assert_eq!((refusal.state, refusal.event), (state, event));
                        assert_eq!(after, state, "a refused event changes nothing");
                        refused.push(format!("{event:?}"));
                    }
                }
            }
            let (legal, refused) = (legal.join(", "), refused.join(" "));
            seen += &format!("{state:?}: {legal}; refused: {refused}\n");
        }
        println!("{seen}");
        assert_eq!(seen, expected);
    }

    #[test]
    fn an_id_from_an_earlier_lease_is_refused() {
        let mut slots = Slots::new(1);
        let old = slots.lease().unwrap();
        slots.release(old.index).unwrap();
        let new = slots.lease().unwrap();
        assert_eq!(old.index, new.index);
        assert_ne!(old, new);
        let refused = slots.hand_over(old, Event::Provide).unwrap_err();
        assert!(refused.is_stale);
        slots.hand_over(new, Event::Provide).unwrap();
        assert!(slots.hand_over(old, Event::TakeBack).unwrap_err().is_stale);
    }

    #[test]
    fn the_slot_released_last_is_leased_first() {
        let mut slots = Slots::new(4);
        let ids: Vec<_> = (0..4).map(|_| slots.lease().unwrap().index).collect();
        assert_eq!(ids, [0, 1, 2, 3]);
        assert_eq!(slots.lease(), None);
        for index in [2, 0, 3] {
            slots.release(index).unwrap();
        }
        let again: Vec<_> = (0..3).map(|_| slots.lease().unwrap().index).collect();
        assert_eq!(again, [3, 0, 2]);
    }

    #[test]
    fn a_released_slot_is_charged_to_nobody() {
        let mut slots = Slots::new(3);
        let ids: Vec<_> = (0..3).map(|_| slots.lease().unwrap()).collect();
        assert!(slots.charge(ids[0].index, 7) && slots.charge(ids[1].index, 7));
        assert!(slots.charge(ids[2].index, u16::MAX));
        assert_eq!((slots.held_by(7), slots.held_by(u16::MAX), slots.held_by(0)), (2, 1, 0));
        assert!(slots.charge(ids[1].index, 9), "moves from one flow to the other");
        assert!(slots.charge(ids[1].index, 9), "once, however often it is said");
        assert_eq!((slots.held_by(7), slots.held_by(9)), (1, 1));
        slots.release(ids[0].index).unwrap();
        slots.hand_over(ids[1], Event::Send).unwrap();
        assert_eq!((slots.held_by(7), slots.held_by(9)), (0, 1), "what is sent is still out");
        assert_eq!(slots.release_abandoned(|_| {}), 1);
        assert_eq!(slots.held_by(9), 0);
        assert!(!slots.charge(ids[0].index, 7), "a free slot holds nobody's bytes");
        assert_eq!(slots.held_by(7), 0);
    }

    #[test]
    fn a_takeover_frees_what_the_kernel_had_and_nothing_else() {
        let mut slots = Slots::new(8);
        let ids: Vec<_> = (0..6).map(|_| slots.lease().unwrap()).collect();
        slots.hand_over(ids[1], Event::Provide).unwrap();
        slots.hand_over(ids[3], Event::Provide).unwrap();
        slots.hand_over(ids[4], Event::Send).unwrap();
        let mut released = Vec::new();
        assert_eq!(slots.release_abandoned(|index| released.push(index)), 3);
        assert_eq!(released, [1, 3, 4]);
        let counts = SlotCounts { total: 8, free: 5, owned: 3, provided: 0, in_kernel: 0 };
        assert_eq!(slots.counts(), counts);
        assert!(slots.hand_over(ids[1], Event::TakeBack).unwrap_err().is_stale);
        let mut free: Vec<_> = std::iter::from_fn(|| slots.lease()).map(|id| id.index).collect();
        free.sort_unstable();
        assert_eq!(free, [1, 3, 4, 6, 7], "each once");
    }

    /// Random events against a model that keeps a plain list of holders.
    #[test]
    fn random_events_agree_with_a_naive_model() {
        const SLOT_COUNT: u32 = 5;
        let rounds = if cfg!(miri) { 200 } else { 50_000 };
        let mut slots = Slots::new(SLOT_COUNT);
        let mut model: Vec<(State, Option<u16>)> = vec![(State::Free, None); SLOT_COUNT as usize];
        let mut ids: Vec<SlotId> = (0..SLOT_COUNT).map(|index| slots.id_at(index)).collect();
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut draw = |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        for _ in 0..rounds {
            let at = draw(u64::from(SLOT_COUNT)) as usize;
            match draw(8) {
                0 => match slots.lease() {
                    Some(id) => {
                        assert_eq!(model[id.index as usize], (State::Free, None));
                        model[id.index as usize].0 = State::Owned;
                        ids[id.index as usize] = id;
                    }
                    None => assert!(model.iter().all(|slot| slot.0 != State::Free)),
                },
                1 => {
                    let is_owned = model[at].0 == State::Owned;
                    assert_eq!(slots.release(at as u32).is_ok(), is_owned);
                    if is_owned {
                        model[at] = (State::Free, None);
                    }
                }
                2 => {
                    let flow = draw(3) as u16;
                    let is_out = model[at].0 != State::Free;
                    assert_eq!(slots.charge(at as u32, flow), is_out);
                    if is_out {
                        model[at].1 = Some(flow);
                    }
                }
                way => {
                    let (from, event, to) = [
                        (State::Owned, Event::Provide, State::Provided),
                        (State::Provided, Event::TakeBack, State::Owned),
                        (State::Owned, Event::Send, State::InKernel),
                        (State::InKernel, Event::Sent, State::Owned),
                    ][way as usize % 4];
                    let fits = model[at].0 == from;
                    assert_eq!(slots.hand_over(ids[at], event).is_ok(), fits);
                    if fits {
                        model[at].0 = to;
                    }
                }
            }
            for state in State::ALL {
                let expected = model.iter().filter(|slot| slot.0 == state).count();
                assert_eq!(slots.count(state) as usize, expected);
            }
            for flow in 0..3 {
                let expected = model.iter().filter(|slot| slot.1 == Some(flow)).count();
                assert_eq!(usize::from(slots.held_by(flow)), expected);
            }
        }
    }
}
