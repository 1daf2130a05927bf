"""Import hook that registers our encoders with a toolkit, in every Python process.

The toolkits have no plug-in mechanism, and they build models in processes that the user does not
start (ESPnet's multi-GPU launcher spawns them). So a line in a ``.pth`` file, which every
interpreter executes at start-up, calls :func:`install`, which puts one finder at the front of
``sys.meta_path``. When a module named in :data:`HOOKS` is imported, it lets the real loader execute
that module and calls our registration with it. No file of a toolkit is changed.

Because it runs at every start of Python, this file imports only what an idle interpreter has
already loaded (not even ``__future__``), and is loaded without ``nas_encoder/__init__.py``.

Environment:
    NAS_ENCODER_AUTOLOAD: ``0`` switches the hook off. Nothing is registered then; NeMo's refusal
        of our classes says how to switch it on again.
"""

import os
import sys

TYPE_CHECKING = False  # the constant of the typing module, which is too slow to import here
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType

SWITCH = "NAS_ENCODER_AUTOLOAD"

# Imported module -> our module, whose register(module) is called right after the imported one has
# been executed. "*" stands for any name, as the last part or the one before it.
HOOKS = {
    "espnet2.tasks.*": "nas_encoder.espnet.registration",
    "espnet2.bin.asr_inference_streaming": "nas_encoder.espnet.streaming",
    "espnet3.systems.*.task": "nas_encoder.espnet.registration",
    "espnet3.utils.task_utils": "nas_encoder.espnet.espnet3",
    "espnet3.utils.publication_utils": "nas_encoder.espnet.espnet3",
    "nemo.core.classes.common": "nas_encoder.nemo.registration",
    "nemo.collections.asr.models.asr_model": "nas_encoder.nemo.model_card",
    "nemo.collections.asr.losses.rnnt": "nas_encoder.nemo.rnnt_loss",
}

# The same when the environment switches the hook off: it then only explains.
EXPLANATIONS = {
    "nemo.core.classes.common": "nas_encoder.nemo.registration",
}


def hook_for(fullname: str, hooks: "dict[str, str] | None" = None) -> "str | None":
    """Return the name of our registration module for an imported module, or None."""
    hooks = HOOKS if hooks is None else hooks
    parent, _, name = fullname.rpartition(".")
    package = parent.rpartition(".")[0]
    return hooks.get(fullname) or hooks.get(f"{parent}.*") or hooks.get(f"{package}.*.{name}")


class RegisteringLoader:
    """Executes a module with its real loader, then registers our classes with it.

    Everything else is delegated. The module first gets its real loader back, so code that later
    inspects ``module.__loader__`` cannot see the hook.
    """

    def __init__(self, loader: "Loader", registration: str) -> None:
        self._loader = loader
        self._registration = registration

    def create_module(self, spec: "ModuleSpec") -> "ModuleType | None":
        """Let the real loader create the module (None: Python creates it)."""
        create = getattr(self._loader, "create_module", None)
        return None if create is None else create(spec)

    def exec_module(self, module: "ModuleType") -> None:
        """Restore the real loader, execute the module, register."""
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        register(self._registration, module)

    def __getattr__(self, name: str) -> object:
        if name in ("_loader", "_registration"):
            raise AttributeError(name)  # copying asks for them before __init__ ran
        return getattr(self._loader, name)


class RegisteringFinder:
    """Meta-path finder that wraps the loader of the modules in some hooks."""

    nas_encoder_finder = True  # identifies the finder of another copy of this file

    def __init__(self, hooks: "dict[str, str]") -> None:
        if hooks is HOOKS:
            self.nas_encoder_hook = True
        self._hooks = hooks
        self._busy: set[str] = set()

    def find_spec(
        self,
        fullname: str,
        path: "Sequence[str] | None" = None,
        target: "ModuleType | None" = None,
    ) -> "ModuleSpec | None":
        """Ask the other finders for a module that is served; wrap the loader they name."""
        registration = hook_for(fullname, self._hooks)
        # Another finder may walk sys.meta_path as this one does, and so come back here.
        if registration is None or fullname in self._busy:
            return None
        self._busy.add(fullname)
        try:
            for finder in list(sys.meta_path):
                find_spec = getattr(finder, "find_spec", None)
                if finder is self or find_spec is None:
                    continue
                spec: ModuleSpec | None = find_spec(fullname, path, target)
                if spec is not None:
                    if hasattr(spec.loader, "exec_module"):
                        spec.loader = RegisteringLoader(  # type: ignore[assignment]
                            spec.loader,  # type: ignore[arg-type]
                            registration,
                        )
                    return spec
        finally:
            self._busy.discard(fullname)
        return None


def register(registration: str, module: "ModuleType") -> None:
    """Call ``registration.register(module)``; a failure warns and never breaks the import."""
    try:
        __import__(registration)
        sys.modules[registration].register(module)
        return
    except Exception as error:
        text = (
            f"nas_encoder could not register its encoders in {module.__name__}: "
            f"{type(error).__name__}: {error}. Everything else of the toolkit works as before. "
            f"'nas-encoder doctor' says what is wrong; {SWITCH}=0 switches the registration off."
        )
    try:
        import warnings

        warnings.warn(text, RuntimeWarning, stacklevel=2)
    except Exception:  # with warnings as errors, ours must not break the import
        if sys.stderr is not None:
            sys.stderr.write(f"RuntimeWarning: {text}\n")


def enabled() -> bool:
    """Return whether the environment leaves the hook on."""
    return os.environ.get(SWITCH, "").strip().lower() not in ("0", "false", "no", "off")


def installed() -> bool:
    """Return whether the hook is active in this process."""
    return any(getattr(finder, "nas_encoder_hook", False) for finder in sys.meta_path)


def install() -> bool:
    """Activate the hook in this process; a second call changes nothing.

    Toolkit modules that were imported before are registered at once.

    Returns:
        True if the hook is active, False if :data:`SWITCH` turns it off.
    """
    if not enabled():
        if not any(getattr(finder, "nas_encoder_finder", False) for finder in sys.meta_path):
            sys.meta_path.insert(0, RegisteringFinder(EXPLANATIONS))
        return False
    if not installed():
        sys.meta_path.insert(0, RegisteringFinder(HOOKS))
    for name, module in list(sys.modules.items()):
        registration = hook_for(name)
        # A module still being imported has no table of encoders to register with yet.
        initializing = getattr(getattr(module, "__spec__", None), "_initializing", False)
        if registration is not None and module is not None and not initializing:
            register(registration, module)
    return True


def uninstall() -> None:
    """Deactivate the hook in this process; what was registered stays registered."""
    sys.meta_path[:] = [
        finder for finder in sys.meta_path if not getattr(finder, "nas_encoder_finder", False)
    ]
