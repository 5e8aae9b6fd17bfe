//! Relief when the heap's budget is used up: the connections of the client address that holds most
//! are closed, largest first, then those of the next address.
//!
//! All that a client makes the gateway hold is charged to its connection: unread and unacknowledged
//! bytes in the engine, heads and responses here, bodies and exchanges in the proxy. Nothing keeps
//! these sums: they are taken when they are needed, which is rarely.

use std::collections::HashMap;
use std::time::Instant;

use super::{Gateway, TcpKey};
use crate::base::pressure::{HeapUse, Pressure};
use crate::base::shares::ClientAddress;
use crate::http3::Code;
use crate::limits::{CONNECTION_LEN, HALF_OPEN_LEN};
use crate::quic::ConnectionKey;

/// An open connection and what is charged to it.
struct Account {
    key: AccountKey,
    address: ClientAddress,
    len: u64,
}

/// The connection of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum AccountKey {
    Quic(ConnectionKey),
    Tcp(TcpKey),
}

impl Gateway {
    /// Sets how much of the heap is in use. Under pressure nothing new is admitted; if all of the
    /// budget is used, clients are closed until a tenth of it is free.
    pub fn set_heap(&mut self, now: Instant, heap: HeapUse) {
        let pressure = heap.pressure();
        self.shared.pressure = pressure;
        self.engine.set_pressure(pressure);
        self.tell_proxy_of_memory();
        if pressure == Pressure::Full {
            self.relieve(now, heap.excess_len() as u64);
        }
    }

    /// Returns an upper bound of the bytes that all clients make the gateway hold.
    pub fn held_len(&self) -> u64 {
        let counts = self.engine.counts();
        let half_open_len = counts.handshaking as u64 * HALF_OPEN_LEN;
        let others = half_open_len + counts.closing as u64 * CONNECTION_LEN;
        others + self.accounts().iter().map(|account| account.len).sum::<u64>()
    }

    fn relieve(&mut self, now: Instant, excess_len: u64) {
        let mut accounts = self.accounts();
        let mut sums = HashMap::new();
        for account in &accounts {
            *sums.entry(account.address).or_insert(0) += account.len;
        }
        accounts.sort_unstable_by_key(|account| {
            let sum: u64 = sums[&account.address];
            std::cmp::Reverse((sum, account.address, account.len, account.key))
        });
        let mut freed = 0;
        for account in accounts {
            if freed >= excess_len {
                return;
            }
            freed += account.len;
            self.shared.counters.http3.connections_evicted += 1;
            match account.key {
                AccountKey::Quic(key) => self.evict(now, key),
                AccountKey::Tcp(key) => {
                    let (clients, mut cx) = self.lend_tcp(now);
                    clients.evict(key, &mut cx);
                }
            }
        }
    }

    fn evict(&mut self, now: Instant, key: ConnectionKey) {
        let (connections, mut cx) = self.lend(now);
        if let Some(connection) = connections.get_mut(key) {
            connection.note_eviction(&mut cx);
        }
        let rule = b"the gateway is out of memory, and this client holds the most";
        self.engine.evict(now, key, Code::ExcessiveLoad.value(), rule);
    }

    fn accounts(&self) -> Vec<Account> {
        let connections = self.connections.iter().filter_map(|(key, connection)| {
            let address = self.engine.charged_address(key)?;
            let len = self.engine.held_len(key) + connection.held_len(&self.proxy) as u64;
            Some(Account { key: AccountKey::Quic(key), address, len })
        });
        let tcp = self.tcp.accounts(&self.proxy).map(|(key, address, len)| Account {
            key: AccountKey::Tcp(key),
            address,
            len,
        });
        connections.chain(tcp).collect()
    }
}
