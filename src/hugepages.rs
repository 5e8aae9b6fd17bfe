//! The choice of huge pages for the buffer pool.
#![forbid(unsafe_code)]

/// `pool.hugepages`: the use of 2 MiB pages for the pool's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hugepages {
    /// Use them if the kernel has some reserved, else the next best; say how to reserve them.
    Try,
    /// Refuse any other memory.
    Require,
    /// Use plain pages.
    Off,
}
