"""The test harness: an origin, the gateway as a process, and clients."""
