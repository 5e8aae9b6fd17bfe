//! Upstreams: their groups, endpoints and connections.

mod balance;
mod group;
mod health;
mod idle_list;

pub(super) use group::{Avoid, Choice, Connection, Group, GroupKey, Role};
pub(super) use health::Failure;
