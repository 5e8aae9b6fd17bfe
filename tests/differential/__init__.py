"""The same generated requests through the gateway to several foreign HTTP/1.1 servers."""
