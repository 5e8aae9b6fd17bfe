"""What the tests stand on: an origin, the gateway as a process, and two HTTP/3 clients."""
