"""The 2-D cell spaces (Liu et al. 2019; He et al. 2020): two cells of convolutions and pools."""
