"""Ways through a tree of thoughts: one file each, all written as generators that `drive` runs in step."""
