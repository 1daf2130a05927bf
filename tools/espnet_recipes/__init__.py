"""Our configurations for ESPnet's own recipes, and how they get into a checkout of ESPnet."""
