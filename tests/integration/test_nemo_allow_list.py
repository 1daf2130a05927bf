"""NeMo's allow-list: exactly our class paths, in every process, and an off switch."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap
import warnings
from types import ModuleType
from typing import Any

import pytest
from torch.utils.data import DataLoader

from nas_encoder import autoload
from nas_encoder.autoload import SWITCH
from nas_encoder.nemo.registration import targets

pytestmark = [pytest.mark.nemo, pytest.mark.slow]


@pytest.fixture(scope="module")
def common() -> ModuleType:
    autoload.install()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("nemo.collections.asr")
        return importlib.import_module("nemo.core.classes.common")


def test_exactly_our_class_paths_are_added(common: ModuleType) -> None:
    ours = [entry for entry in common.ALLOWED_TARGET_PREFIXES if "nas_encoder" in entry]
    assert sorted(ours) == sorted(targets())
    for target in targets():
        assert common._is_target_allowed(target)
        module, _, name = target.rpartition(".")
        assert isinstance(getattr(importlib.import_module(module), name), type)


def everything_else() -> list[str]:
    """Every other path that can be reached under our package, and some that cannot."""
    import nas_encoder.nemo
    from nas_encoder.nemo import adapters, encoder, options, registration

    paths = {
        "nas_encoder.nemo",
        "nas_encoder.nemo.nn.Linear",
        "nas_encoder.nemo.os.system",
        "nas_encoder.nemo.NASEncoderX",
        "nas_encoder.nemo.NASEncoder.__init__",
        "nas_encoder.spaces.cells.network.CellEncoder",
        "nas_encoder.build_encoder",
        "nas_encoder.load_genotype",
        "nas_encoder",
    }
    for module in (nas_encoder.nemo, adapters, encoder, options, registration):
        paths |= {f"{module.__name__}.{name}" for name in vars(module)}
    for target in targets():
        module_name, _, name = target.rpartition(".")
        cls = getattr(importlib.import_module(module_name), name)
        paths |= {f"{target}.{attribute}" for attribute in (*dir(cls), *dir(type(cls)))}
        paths |= {f"{target}.from_config_dict.__self__", f"{target}.__base__.__base__"}
    return sorted(paths - set(targets()))


def test_everything_else_of_ours_stays_refused(common: ModuleType) -> None:
    paths = everything_else()
    assert len(paths) > 300  # attributes of the classes, our modules' contents
    assert [path for path in paths if common._is_target_allowed(path)] == []
    with pytest.raises(common.UnsafeTargetError) as caught:
        common.safe_instantiate({"_target_": "nas_encoder.nemo.nn.Linear"})
    assert "Of nas_encoder, NeMo may build" in str(caught.value)


def test_other_refusals_keep_their_words(common: ModuleType) -> None:
    with pytest.raises(common.UnsafeTargetError) as caught:
        common.safe_instantiate({"_target_": "os.system"})
    assert "nas_encoder" not in str(caught.value)


def test_registering_again_changes_nothing(common: ModuleType) -> None:
    from nas_encoder.nemo import registration

    before = list(common.ALLOWED_TARGET_PREFIXES)
    function = common._unsafe_target_error
    check = common._is_target_allowed
    build = common.Serialization.__dict__["from_config_dict"].__func__
    assert registration.register(common) == ()
    assert list(common.ALLOWED_TARGET_PREFIXES) == before
    assert common._unsafe_target_error is function
    assert common._is_target_allowed is check
    assert common.Serialization.__dict__["from_config_dict"].__func__ is build


class AllowedHere:
    """A data set whose one item is what NeMo may build in the process that loads it."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> list[str]:
        from nemo.core.classes import common

        assert not common._is_target_allowed("nas_encoder.nemo.nn.Linear")
        return [name for name in common.ALLOWED_TARGET_PREFIXES if common._is_target_allowed(name)]


def test_spawned_worker_of_a_data_loader_has_it_too() -> None:
    loader: Any = DataLoader(
        AllowedHere(),  # type: ignore[arg-type]
        batch_size=None,
        num_workers=1,
        multiprocessing_context="spawn",
    )
    (allowed,) = loader
    assert set(targets()) <= set(allowed)


SCRIPT = textwrap.dedent("""
    import os, sys
    import nemo.core.classes.common as common
    from omegaconf import OmegaConf
    config = OmegaConf.create({"_target_": "nas_encoder.nemo.NASEncoder", "channels": 2,
                               "layers": 3, "feat_in": 8, "d_model": 8})
    try:
        print("BUILT", type(common.Serialization.from_config_dict(config)).__name__)
    except common.UnsafeTargetError as error:
        print("REFUSED", error)
    os.environ[SWITCH] = "1"
    for name in [name for name in sys.modules if name.startswith("nas_encoder")]:
        del sys.modules[name]  # what the refusal has imported to say why
    assert not [f for f in sys.meta_path if getattr(f, "nas_encoder_hook", False)]
    from nemo.collections.asr.models import ASRModel
    listed = lambda: "nas_synth_ctc_char" in [
        model.pretrained_model_name for model in ASRModel.list_available_models()
    ]
    print("LISTED", listed(), flush=True)
    import nas_encoder.nemo
    print("LISTED", listed())
    print("BUILT", type(common.Serialization.from_config_dict(config)).__name__)
""")


# That it is said once, where it is on, is seen in test_nemo_inference.py, which has such a process.
def test_fresh_process_in_which_it_is_switched_off_until_our_adapter_is_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"SWITCH = {SWITCH!r}\n{SCRIPT}"],
        env={**os.environ, SWITCH: "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    before, after = done.stdout.split("LISTED False\n")
    assert "REFUSED Instantiation of unsafe target" in before
    assert f"switched off by {SWITCH}='0'" in before
    assert f"set {SWITCH}=1" in before and "added to its" not in before
    # Importing is enough where the hook is not installed.
    assert "LISTED True\nBUILT NASEncoder\n" in after and "could not register" not in after
