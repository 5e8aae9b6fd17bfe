//! Random splitting, cloning and dropping of received buffers, against a model that only counts the
//! live pieces of each slot.

use std::collections::BTreeMap;

use bytes::Buf as _;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;

/// A piece of a slot in each form that the protocol crates make of it.
enum Form {
    Mut(BytesMut),
    Shared(Bytes),
    Vector(Vec<u8>),
}

struct Piece {
    form: Form,
    /// Index of its lease.
    lease: u32,
    /// The bytes that it must contain.
    expected: Vec<u8>,
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match &self.form {
            Form::Mut(buf) => buf,
            Form::Shared(bytes) => bytes,
            Form::Vector(vec) => vec,
        }
    }

    fn check(&self) {
        assert!(Pool::contains(self.bytes().as_ptr()), "payload was copied");
        assert!(self.bytes() == self.expected, "a piece changed while it was alive");
    }
}

struct World {
    pool: Pool,
    random: SmallRng,
    pieces: Vec<Piece>,
    /// Live pieces of each lease: a slot is in use as long as there is one.
    alive: BTreeMap<u32, u32>,
    lease_count: u32,
}

impl World {
    fn add(&mut self, form: Form, lease: u32, expected: Vec<u8>) {
        *self.alive.entry(lease).or_default() += 1;
        let piece = Piece { form, lease, expected };
        piece.check();
        self.pieces.push(piece);
    }

    fn take(&mut self) -> Option<Piece> {
        if self.pieces.is_empty() {
            return None;
        }
        let at = self.random.random_range(0..self.pieces.len());
        let piece = self.pieces.swap_remove(at);
        piece.check();
        self.forget(piece.lease);
        Some(piece)
    }

    fn forget(&mut self, lease: u32) {
        let alive = self.alive.get_mut(&lease).unwrap();
        *alive -= 1;
        if *alive == 0 {
            self.alive.remove(&lease);
        }
    }

    fn receive(&mut self) {
        let Some(lease) = self.pool.lease() else {
            assert_eq!(
                self.alive.len() as u32,
                SLOT_COUNT_MIN,
                "a slot is free unless all are in use"
            );
            return;
        };
        drop(lease);
        let len = if self.random.random_ratio(1, 8) {
            SLOT_LEN
        } else {
            self.random.random_range(1..400)
        };
        let mut expected = vec![0; len];
        self.random.fill(&mut expected[..]);
        let buf = received(&self.pool, &expected);
        self.lease_count += 1;
        self.add(Form::Mut(buf), self.lease_count, expected);
    }

    fn split(&mut self, piece: Piece) {
        let Piece { form, lease, mut expected } = piece;
        if expected.len() < 2 || matches!(form, Form::Vector(_)) {
            return self.add(form, lease, expected);
        }
        let at = self.random.random_range(1..expected.len());
        let tail_expected = expected.split_off(at);
        let from_front = self.random.random();
        let (head, tail) = match form {
            Form::Mut(mut buf) if from_front => (Form::Mut(buf.split_to(at)), Form::Mut(buf)),
            Form::Mut(mut buf) => {
                let tail = buf.split_off(at);
                (Form::Mut(buf), Form::Mut(tail))
            }
            Form::Shared(mut bytes) if from_front => {
                (Form::Shared(bytes.split_to(at)), Form::Shared(bytes))
            }
            Form::Shared(bytes) => {
                (Form::Shared(bytes.slice(..at)), Form::Shared(bytes.slice(at..)))
            }
            Form::Vector(_) => unreachable!("added again above"),
        };
        self.add(head, lease, expected);
        self.add(tail, lease, tail_expected);
    }

    fn cut(&mut self, piece: Piece) {
        let Piece { mut form, lease, mut expected } = piece;
        let at = self.random.random_range(1..=expected.len());
        let from_front = self.random.random() && at < expected.len();
        match (&mut form, from_front) {
            (Form::Mut(buf), true) => buf.advance(at),
            (Form::Shared(bytes), true) => bytes.advance(at),
            (Form::Vector(vec), true) => drop(vec.drain(..at)),
            (Form::Mut(buf), false) => buf.truncate(at),
            (Form::Shared(bytes), false) => bytes.truncate(at),
            (Form::Vector(vec), false) => {
                vec.truncate(at);
                vec.shrink_to_fit();
            }
        }
        let kept = if from_front { expected.split_off(at) } else { expected[..at].to_vec() };
        self.add(form, lease, kept);
    }

    fn share(&mut self, piece: Piece) {
        let Piece { form, lease, expected } = piece;
        let bytes = match form {
            Form::Mut(buf) => buf.freeze(),
            Form::Shared(bytes) => bytes,
            Form::Vector(vec) => Bytes::from(vec),
        };
        self.add(Form::Shared(bytes.clone()), lease, expected.clone());
        self.add(Form::Shared(bytes), lease, expected);
    }

    /// Converts in place if the piece is the slot's only one; otherwise `bytes` copies or refuses.
    fn make_unique(&mut self, piece: Piece) {
        let Piece { form, lease, expected } = piece;
        let is_only = !self.alive.contains_key(&lease);
        let as_vector: bool = self.random.random();
        match form {
            Form::Shared(bytes) if !as_vector => match bytes.try_into_mut() {
                Ok(buf) => {
                    assert!(is_only);
                    self.add(Form::Mut(buf), lease, expected);
                }
                Err(bytes) => {
                    assert!(!is_only);
                    self.add(Form::Shared(bytes), lease, expected);
                }
            },
            form => {
                let vec = match form {
                    Form::Mut(buf) => Vec::from(buf),
                    Form::Shared(bytes) => Vec::from(bytes),
                    Form::Vector(vec) => vec,
                };
                assert!(vec == expected);
                assert_eq!(Pool::contains(vec.as_ptr()), is_only);
                if is_only {
                    self.add(Form::Vector(vec), lease, expected);
                }
            }
        }
    }

    fn write(&mut self, piece: Piece) {
        let Piece { mut form, lease, mut expected } = piece;
        let bytes = match &mut form {
            Form::Mut(buf) => &mut buf[..],
            Form::Vector(vec) => &mut vec[..],
            Form::Shared(_) => return self.add(form, lease, expected),
        };
        self.random.fill(bytes);
        expected.copy_from_slice(bytes);
        self.add(form, lease, expected);
    }

    fn drop_elsewhere(&mut self, piece: Piece) {
        std::thread::scope(|scope| scope.spawn(|| drop(piece.form)).join()).unwrap();
        self.pool.take_returns();
    }

    fn step(&mut self) {
        let deed = self.random.random_range(0..16);
        if deed < 3 {
            return self.receive();
        }
        let Some(piece) = self.take() else { return };
        match deed {
            3..5 => self.split(piece),
            5 => self.cut(piece),
            6..8 => self.share(piece),
            8..10 => self.make_unique(piece),
            10 => self.write(piece),
            11 => self.drop_elsewhere(piece),
            _ => drop(piece),
        }
    }
}

#[test]
fn every_order_of_splits_clones_and_drops_gives_each_slot_back_exactly_once() {
    for seed in 0..8 {
        let mut world = World {
            pool: Pool::for_test(),
            random: SmallRng::seed_from_u64(seed),
            pieces: Vec::new(),
            alive: BTreeMap::new(),
            lease_count: 0,
        };
        for _ in 0..3_000 {
            world.step();
            let counts = world.pool.counts();
            assert_eq!(counts.owned as usize, world.alive.len(), "seed {seed}");
            assert_eq!(counts.owned + counts.free, counts.total, "seed {seed}");
        }
        assert!(world.lease_count > SLOT_COUNT_MIN, "slots were used again");
        while let Some(piece) = world.take() {
            drop(piece);
        }
        assert_eq!(world.pool.counts().free, SLOT_COUNT_MIN, "seed {seed}");
    }
}
