"""The choices of a search as parameters, and how a network mixes or draws them."""
