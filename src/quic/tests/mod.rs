//! Two ends in memory, in virtual time: the engine, and quinn-proto's client as the other side.

mod amplification;
mod fairness;
mod forgery;
mod handshake;
mod marks;
mod pair;
mod strangers;
mod streams;
mod transfer;
