"""How a probe reaches its target: names, guard, sockets, libcurl, and what can be seen of it."""
