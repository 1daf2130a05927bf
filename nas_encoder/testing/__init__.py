"""The contracts of what can be added, as test classes that a third party runs on its own things.

Each class asks for a fixture and is collected by pytest where it is derived from::

    from nas_encoder.testing import SpaceContract

    class TestSlimChain(SpaceContract):
        @pytest.fixture
        def space(self):
            return get_space("slim_chain")

pytest is needed for these alone; the package does not install it.
"""

from nas_encoder.testing.baselines import BaselineContract
from nas_encoder.testing.operations import OperationContract
from nas_encoder.testing.spaces import NetworkContract, SpaceContract

__all__ = ["BaselineContract", "NetworkContract", "OperationContract", "SpaceContract"]
