//! What the program asks of the kernel outside the ring: the clock, cores, sockets and their
//! options, wake-ups, and facts about this host with the way out where it refuses.

pub mod address;
pub mod clock;
pub mod cpu;
pub mod eventfd;
pub mod memory;
pub mod probe;
pub mod socket;
