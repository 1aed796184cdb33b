"""Where training rows come from and how they are packed."""
