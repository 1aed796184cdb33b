"""Functions of arrays. They know no configuration, mesh or model; each has a plain reference."""
