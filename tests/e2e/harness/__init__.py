"""The test harness: an origin, the gateway as a process, and HTTP/3 clients."""
