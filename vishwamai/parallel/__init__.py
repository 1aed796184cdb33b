"""Where arrays live: meshes, sharding rules, and what must be written by hand for several devices."""
