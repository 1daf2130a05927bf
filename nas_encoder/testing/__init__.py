"""Contracts of extensions, as test classes that third parties run on their own code.

Each class needs a fixture and is collected by pytest where it is subclassed::

    from nas_encoder.testing import SpaceContract

    class TestSlimChain(SpaceContract):
        @pytest.fixture
        def space(self):
            return get_space("slim_chain")

They need pytest, which the package does not install.
"""

from nas_encoder.testing.baselines import BaselineContract
from nas_encoder.testing.convolutions import only_sound_convolutions
from nas_encoder.testing.operations import OperationContract
from nas_encoder.testing.spaces import NetworkContract, SpaceContract

__all__ = [
    "BaselineContract",
    "NetworkContract",
    "OperationContract",
    "SpaceContract",
    "only_sound_convolutions",
]
