"""The chain of TDNN layers that ST-NAS searches (Zheng, An, Ou 2021)."""
